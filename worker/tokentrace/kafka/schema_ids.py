"""Schema ids: registers a schema in a Schema Registry, for the header of messages in the Confluent wire format."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

from tokentrace.errors import Unanswered
from tokentrace.model.secrets import hide_secrets


def confluent_header(schema_id: int) -> bytes:
    """Return the first 5 bytes of each message whose schema has this id."""
    return struct.pack(">bI", 0, schema_id)


def register(registry: Mapping[str, Any], subject: str, schema: Any) -> int:
    """Return the id of a schema in a subject, which is registered if it is not there.

    registry: properties of SchemaRegistryClient. It blocks. Raises Unanswered.
    """
    # Its client takes half a second to import, which only those with a registry need.
    from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
    from confluent_kafka.schema_registry.error import SchemaRegistryError

    text = Schema(json.dumps(schema), "AVRO")
    try:
        client = SchemaRegistryClient(dict(registry))
        try:
            return int(client.lookup_schema(subject, text).schema_id or 0)
        except SchemaRegistryError as error:
            if error.http_status_code != 404:
                raise
            return int(client.register_schema(subject, text))
    except Exception as error:
        # The HTTP library raises its own exceptions for refused, reset and timed-out connections.
        why = hide_secrets(f"{type(error).__name__}: {error}")
        raise Unanswered(f"The schema registry gave no id for {subject} ({why}).") from error
