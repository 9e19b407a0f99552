"""The Schema Registry, through confluent-kafka's own client: schemas by id, kept for good since ids never change.

An id that the registry does not know is remembered for a few seconds only: it may be registered a moment later.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from ..errors import ConfigError, SchemaError, SchemaUnavailable

#: How long an unknown id is taken for unknown without asking again.
UNKNOWN_TTL_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """Where the registry is and how to sign in. credentials: `user:password`."""

    url: str
    credentials: str | None = None
    bearer_token: str | None = None
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    timeout_s: float = 5.0

    def client_config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "url": self.url,
            "timeout": self.timeout_s,
            # The worker's loop retries by itself, with the group membership kept alive in between.
            "max.retries": 0,
        }
        optional = {
            "basic.auth.user.info": self.credentials,
            "ssl.ca.location": self.ca,
            "ssl.certificate.location": self.certificate,
            "ssl.key.location": self.key,
        }
        config |= {key: value for key, value in optional.items() if value is not None}
        if self.bearer_token is not None:
            config |= {
                "bearer.auth.credentials.source": "STATIC_TOKEN",
                "bearer.auth.token": self.bearer_token,
                "bearer.auth.logical.cluster": "none",
                "bearer.auth.identity.pool.id": "none",
            }
        return config


class Registry:
    """Schemas by id. requests: outcome (ok, not_found, error) -> how often the registry was asked."""

    def __init__(self, settings: RegistrySettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = settings.url
        self._clock = clock
        self._known: dict[int, Any] = {}
        self._unknown: dict[int, tuple[float, SchemaError]] = {}
        self.requests: dict[str, int] = {"ok": 0, "not_found": 0, "error": 0}
        try:
            self._client = SchemaRegistryClient(settings.client_config())
        except (ValueError, TypeError, OSError) as error:
            raise ConfigError([f"schema_registry: {error}"]) from error

    def get(self, schema_id: int) -> Any:
        """The Avro schema, as parsed JSON, with its references put in.

        Raises SchemaError (no such id, no Avro schema) or SchemaUnavailable (no answer, no access).
        """
        if schema_id in self._known:
            return self._known[schema_id]
        unknown = self._unknown.get(schema_id)
        if unknown is not None and self._clock() < unknown[0]:
            raise unknown[1]
        schema = self._ask(schema_id, lambda: self._client.get_schema(schema_id))
        if (schema.schema_type or "AVRO") != "AVRO":
            raise SchemaError("schema_unusable", f"Schema id {schema_id} is {schema.schema_type}, not Avro.")
        parsed = self._with_references(schema_id, schema, {})
        self._known[schema_id] = parsed
        return parsed

    def _with_references(self, schema_id: int, schema: Schema, seen: dict[str, Any]) -> Any:
        """The schema in which the first mention of each referenced type is its definition."""
        for reference in schema.references or []:
            subject, version = reference.subject, reference.version
            if reference.name in seen:
                continue
            registered = self._ask(schema_id, lambda s=subject, v=version: self._client.get_version(s, v))  # type: ignore[misc]
            seen[reference.name] = self._with_references(schema_id, registered.schema, seen)
        try:
            parsed = json.loads(schema.schema_str or "")
        except ValueError as error:
            raise SchemaError("schema_unusable", f"Schema id {schema_id} is not JSON ({error}).") from error
        return _inlined(parsed, "", dict(seen), set())

    def _ask(self, schema_id: int, request: Callable[[], Any]) -> Any:
        try:
            answer = request()
        except SchemaRegistryError as error:
            status = error.http_status_code
            if status == 404:
                self.requests["not_found"] += 1
                missing = SchemaError("unknown_schema_id", f"The schema registry has no schema with id {schema_id}.")
                self._unknown[schema_id] = (self._clock() + UNKNOWN_TTL_S, missing)
                raise missing from error
            self.requests["error"] += 1
            if status in (401, 403):
                why = f"refuses the credentials (HTTP {status}); check schema_registry.auth"
            else:
                why = f"answers HTTP {status}"
            raise SchemaUnavailable(f"The schema registry at {self._url} {why}.") from error
        except Exception as error:
            # The HTTP library below has its own exceptions for refused, reset and timed-out connections.
            self.requests["error"] += 1
            raise SchemaUnavailable(
                f"The schema registry at {self._url} does not answer ({type(error).__name__}); check schema_registry.url."
            ) from error
        self.requests["ok"] += 1
        return answer


def _inlined(schema: Any, namespace: str, references: Mapping[str, Any], done: set[str]) -> Any:
    """A copy in which a referenced name is replaced by its definition where it is met first."""
    if isinstance(schema, list):
        return [_inlined(branch, namespace, references, done) for branch in schema]
    if isinstance(schema, str):
        name = schema if schema in references else f"{namespace}.{schema}"
        if name in references and name not in done:
            done.add(name)
            return _inlined(references[name], "", references, done)
        return schema
    if isinstance(schema, dict):
        namespace = schema.get("namespace", namespace)
        inlined = dict(schema)
        for key in ("type", "items", "values"):
            if key in inlined:
                inlined[key] = _inlined(inlined[key], namespace, references, done)
        if "fields" in inlined:
            inlined["fields"] = [_inlined(each, namespace, references, done) for each in inlined["fields"]]
        return inlined
    return schema
