"""Schema Registry client: schemas by id, cached permanently because ids never change.

The bytes of a message can ask for any id, so an id that the registry does not have is the message's fault, in whatever
words the registry says so. It is cached for a limited time, because it may be registered later. Every other failure (no
response, no access, an address without a registry) is not the message's fault and raises `SchemaUnavailable`. The
client itself does not retry.
"""

from __future__ import annotations

import json
import math
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol

from confluent_kafka.schema_registry import Schema
from confluent_kafka.schema_registry.error import SchemaRegistryError

from tokentrace.decode.schema_key import ApicurioId, RegistryId
from tokentrace.decode.schemas import apicurio
from tokentrace.decode.schemas.apicurio import ApicurioApi
from tokentrace.decode.schemas.confluent import ConfluentApi
from tokentrace.decode.schemas.references import inline
from tokentrace.decode.schemas.settings import RegistrySettings as RegistrySettings
from tokentrace.errors import ConfigError, SchemaError, SchemaUnavailable
from tokentrace.model.secrets import hide_secrets, public_url

#: Time for which an unknown id is not requested again, and what each other unknown id adds to it. So however many there
#: are, some ten per second are requested again.
UNKNOWN_TTL_S: Final = 10.0
UNKNOWN_TTL_PER_ID_S: Final = 0.1
#: Most cached unknown ids: a broken publisher may name any number.
MAX_UNKNOWN: Final = 10_000
#: Time for which a confirmed address is not checked again.
CONFIRMED_TTL_S: Final = 1.0

#: The registry API's own codes: subject, version, schema not found.
_NOT_FOUND: Final = frozenset({40401, 40402, 40403})
#: Client errors that are not about what was asked for: credentials, time-outs, too many requests.
_NOT_ABOUT_THE_ID: Final = frozenset({401, 403, 407, 408, 429})


class _Api(Protocol):
    """Requests in the words of one kind of registry."""

    def schema(self, name: RegistryId) -> Schema: ...
    def version(self, subject: str, version: int) -> Schema: ...
    def is_registry(self) -> bool: ...
    def forget(self) -> None: ...


class _Unknown(NamedTuple):
    expires_at_s: float
    why: str


class Registry:
    """Looks up schemas by id. Safe from several threads. requests: outcome (ok, not_found, error) -> requests."""

    def __init__(self, settings: RegistrySettings, clock: Callable[[], float] = time.monotonic) -> None:
        """Create a client, which connects at the first request. Raises ConfigError for invalid settings."""
        self._url = public_url(settings.url)
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[RegistryId, Any] = {}
        #: Id -> why its schema cannot be read.
        self._unusable: dict[RegistryId, str] = {}
        #: Responses by id, or by subject and version. Each schema is requested and counted once.
        self._responses: dict[RegistryId | tuple[str, int], Schema] = {}
        #: By the time of the last request, oldest first.
        self._unknown: dict[RegistryId, _Unknown] = {}
        self._confirmed_until_s = -math.inf
        self.requests: dict[str, int] = {"ok": 0, "not_found": 0, "error": 0}
        try:
            is_apicurio = apicurio.PATH in settings.url
            self._api: _Api = ApicurioApi(settings) if is_apicurio else ConfluentApi(settings)
        except (ValueError, TypeError, OSError) as error:
            raise ConfigError([f"schema_registry: {hide_secrets(str(error))}"]) from error

    def get(self, schema_id: RegistryId) -> Any:
        """Return the Avro schema as parsed JSON, with its references inlined. Blocks unless `has_answer`.

        Raises SchemaError (unknown id, not an Avro schema) or SchemaUnavailable (no response, no access).
        """
        if schema_id in self._known:
            return self._known[schema_id]
        if schema_id in self._unusable:
            raise SchemaError("schema_unusable", self._unusable[schema_id])
        unknown = self._unknown.get(schema_id)
        if unknown is not None and self._clock() < unknown.expires_at_s:
            raise SchemaError("unknown_schema_id", unknown.why)
        try:
            parsed = self._fetch(schema_id)
        except SchemaError as error:
            if error.reason == "unknown_schema_id":
                self._remember_unknown(schema_id, str(error))
            else:
                self._unusable[schema_id] = str(error)
            raise
        self._known[schema_id] = parsed
        return parsed

    def has_answer(self, schema_id: RegistryId) -> bool:
        """Return whether `get` answers without a request."""
        if schema_id in self._known or schema_id in self._unusable:
            return True
        unknown = self._unknown.get(schema_id)
        return unknown is not None and self._clock() < unknown.expires_at_s

    def _fetch(self, schema_id: RegistryId) -> Any:
        schema = self._request(
            schema_id,
            lambda: self._api.schema(schema_id),
            f"The schema registry has no schema with {_named(schema_id)}.",
        )
        references: dict[str, Any] = {}
        self._fetch_references(schema_id, schema, references)
        return _inlined(schema_id, _parse(schema_id, schema), references)

    def _fetch_references(self, schema_id: RegistryId, schema: Schema, references: dict[str, Any]) -> None:
        """Fetch all direct and indirect references of a schema into `references`: full name -> schema."""
        for reference in schema.references or []:
            name, subject, version = reference.name, reference.subject, reference.version
            if name is None or subject is None or version is None or name in references:
                continue
            referenced = self._request(
                (subject, version),
                lambda subject=subject, version=version: self._api.version(subject, version),  # type: ignore[misc]
                f"Schema {_named(schema_id)} refers to {subject} version {version}, which the registry does not have.",
            )
            references[name] = _parse(schema_id, referenced)
            self._fetch_references(schema_id, referenced, references)

    def _request(self, name: RegistryId | tuple[str, int], request: Callable[[], Schema], missing: str) -> Schema:
        """Fetch a schema with at most one request. missing: the error message for a schema that does not exist."""
        if name in self._responses:
            return self._responses[name]
        try:
            response = request()
        except SchemaError:
            raise
        except SchemaRegistryError as error:
            if self._is_not_found(error):
                self._tally("not_found")
                raise SchemaError("unknown_schema_id", missing) from error
            self._tally("error")
            raise SchemaUnavailable(f"The schema registry at {self._url} {_describe_status(error)}.") from error
        except Exception as error:
            # The HTTP library raises its own exceptions for refused, reset and timed-out connections.
            self._tally("error")
            raise SchemaUnavailable(
                f"The schema registry at {self._url} does not answer ({_describe(error)}); check schema_registry.url."
            ) from error
        if not response.schema_str:
            self._tally("error")
            self._api.forget()
            raise SchemaUnavailable(
                f"The schema registry at {self._url} returned no schema; check schema_registry.url."
            )
        self._tally("ok")
        self._responses[name] = response
        return response

    def _is_not_found(self, error: SchemaRegistryError) -> bool:
        """Return whether a registry answered that it does not have what was asked for.

        Registries have different words for it: Apicurio answers 404 without a code of the API to ids that its own type
        cannot hold. A wrong address and a proxy without a registry answer 404 too, to everything.
        """
        status = error.http_status_code
        if status == 404 and error.error_code in _NOT_FOUND:
            return True
        return 400 <= status < 500 and status not in _NOT_ABOUT_THE_ID and self._is_registry()

    def _is_registry(self) -> bool:
        """Return whether the address answers something that each registry has, or a schema that it had before."""
        if self._clock() < self._confirmed_until_s:
            return True
        known = next(iter(tuple(self._known)), None)
        requests: list[Callable[[], object]] = [self._api.is_registry]
        if known is not None:
            self._api.forget()
            requests.append(lambda: self._api.schema(known))
        for request in requests:
            try:
                if not request():
                    continue
            except Exception:
                continue
            self._confirmed_until_s = self._clock() + CONFIRMED_TTL_S
            return True
        return False

    def _tally(self, outcome: str) -> None:
        with self._lock:
            self.requests[outcome] += 1

    def _remember_unknown(self, schema_id: RegistryId, why: str) -> None:
        with self._lock:
            now_s = self._clock()
            self._unknown.pop(schema_id, None)
            while self._unknown:
                oldest = next(iter(self._unknown))
                if len(self._unknown) < MAX_UNKNOWN and self._unknown[oldest].expires_at_s > now_s:
                    break
                del self._unknown[oldest]
            ttl_s = UNKNOWN_TTL_S + UNKNOWN_TTL_PER_ID_S * len(self._unknown)
            self._unknown[schema_id] = _Unknown(now_s + ttl_s, why)


def _named(schema_id: RegistryId) -> str:
    if isinstance(schema_id, uuid.UUID):
        return f"GUID {schema_id}"
    return f"Apicurio's {schema_id}" if isinstance(schema_id, ApicurioId) else f"id {schema_id}"


def _parse(schema_id: RegistryId, schema: Schema) -> Any:
    if (schema.schema_type or "AVRO") != "AVRO":
        raise SchemaError("schema_unusable", f"Schema {_named(schema_id)} is of type {schema.schema_type}, not AVRO.")
    text = schema.schema_str or ""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise _too_deep(schema_id) from error
    except ValueError as error:
        # The registry allows the bare name of a primitive type.
        if text.isidentifier():
            return text
        raise SchemaError("schema_unusable", f"Schema {_named(schema_id)} is not JSON ({error}).") from error


def _inlined(schema_id: RegistryId, schema: Any, references: Mapping[str, Any]) -> Any:
    try:
        return inline(schema, references)
    except RecursionError as error:
        raise _too_deep(schema_id) from error


def _too_deep(schema_id: RegistryId) -> SchemaError:
    return SchemaError("schema_unusable", f"Schema {_named(schema_id)} is nested too deeply to be read.")


def _describe_status(error: SchemaRegistryError) -> str:
    status = error.http_status_code
    if status in (401, 403):
        return f"rejects the credentials (HTTP {status}); check schema_registry.auth"
    if status == 404:
        return "returned HTTP 404, so it is not a schema registry; check the path in schema_registry.url"
    return f"returned HTTP {status}; tokentrace retries until it recovers"


def _describe(error: Exception) -> str:
    return hide_secrets(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
