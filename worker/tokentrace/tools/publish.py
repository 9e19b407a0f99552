"""Publishing helper: encodes a span as a Kafka message value, for programs with tokentrace installed.

It uses single-object encoding and the bundled schema, so no Schema Registry is needed. `docs/publishing.md` shows
the same without this package.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import cache
from typing import Any

import fastavro

from tokentrace.decode.framing import SINGLE_OBJECT_MARKER
from tokentrace.decode.schemas.files import bundled_schema, fingerprint_of


@cache
def _writer() -> tuple[Any, bytes]:
    schema = bundled_schema("span")
    return fastavro.parse_schema(schema), SINGLE_OBJECT_MARKER + fingerprint_of(schema)


def span_message(span: Mapping[str, Any]) -> bytes:
    """Return the message value of one span, a mapping in the shape of `schemas/span.avsc`.

    Fields with a default are optional. Raises ValueError for a span that does not match the schema.
    """
    schema, header = _writer()
    out = io.BytesIO()
    out.write(header)
    try:
        fastavro.schemaless_writer(out, schema, span)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"The span does not match schemas/span.avsc: {type(error).__name__}: {error}") from error
    return out.getvalue()
