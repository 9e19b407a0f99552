"""Bearer token authentication, as ASGI middleware (RFC 6750): one token reads, another one also acts."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from starlette.responses import JSONResponse, PlainTextResponse

from tokentrace.errors import UsageError

log = logging.getLogger(__name__)

Application = Callable[..., Awaitable[None]]

UNAUTHORIZED: Final = (
    "401: bearer token required. In Prometheus, set `authorization: {credentials_file: ...}` in the scrape job to the "
    "value of http_server.auth_token; with curl, add `-H 'Authorization: Bearer <token>'`.\n"
)
FORBIDDEN: Final = "this request changes something; it requires the token of http_server.admin_token"

#: Methods that change nothing.
READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})

#: Shortest time between two looks at a token's file.
LOOK_S: Final = 1.0


class Token:
    """A token from the configuration, or from a file that may change at any time."""

    def __init__(self, value: str = "", path: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises UsageError for a file that cannot be read or is empty."""
        self._path = path
        self._clock = clock
        self._value = value.encode()
        self._version: tuple[int, int, int] | None = None
        self._look_at_s = 0.0
        if path is not None:
            try:
                self._value = self._read(path)
            except (OSError, ValueError) as error:
                raise UsageError(f"http_server: the token file {path} cannot be used ({error}).") from error

    def matches(self, credentials: bytes) -> bool:
        """Return whether these are the token, in a time that does not depend on where they differ."""
        if self._path is not None and self._clock() >= self._look_at_s:
            try:
                self._value = self._read(self._path)
            except (OSError, ValueError) as error:
                log.error("The token file %s cannot be used (%s); the token before it still holds.", self._path, error)
        return hmac.compare_digest(credentials, self._value)

    def _read(self, path: Path) -> bytes:
        self._look_at_s = self._clock() + LOOK_S
        found = path.stat()
        version = found.st_ino, found.st_mtime_ns, found.st_size
        if version == self._version:
            return self._value
        value = path.read_bytes().strip()
        if not value:
            raise ValueError("empty")
        if self._version is not None:
            log.info("The token file %s has been read again.", path)
        self._version = version
        return value


@dataclass(frozen=True, slots=True)
class Tokens:
    """read: for requests that change nothing; None: everybody may make them. admin: for all; None: nobody may act."""

    read: Token | None = None
    admin: Token | None = None


def require_tokens(application: Application, tokens: Tokens, public_paths: Collection[str]) -> Application:
    """Answer 401 to requests without a token, and 403 to those whose token may not act; never on `public_paths`."""

    async def guarded(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] in public_paths:
            await application(scope, receive, send)
            return
        credentials = _credentials(scope)
        admin = tokens.admin is not None and tokens.admin.matches(credentials)
        may_read = admin or tokens.read is None or tokens.read.matches(credentials)
        if not may_read:
            challenge = {"WWW-Authenticate": 'Bearer realm="tokentrace"'}
            await PlainTextResponse(UNAUTHORIZED, 401, challenge)(scope, receive, send)
        elif not admin and scope["method"] not in READING:
            await JSONResponse({"error": FORBIDDEN}, 403)(scope, receive, send)
        else:
            await application(scope, receive, send)

    return guarded


def _credentials(scope: Mapping[str, Any]) -> bytes:
    """Return the credentials of the Authorization header, empty without a bearer token."""
    header: bytes = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    scheme, _, credentials = header.partition(b" ")
    return credentials.strip() if scheme.lower() == b"bearer" else b""
