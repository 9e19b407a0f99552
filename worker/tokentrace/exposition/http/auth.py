"""Bearer token authentication, as ASGI middleware (RFC 6750)."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from typing import Any, Final

from starlette.responses import PlainTextResponse

Application = Callable[..., Awaitable[None]]

UNAUTHORIZED: Final = (
    "401: bearer token required. In Prometheus, set `authorization: {credentials_file: ...}` in the scrape job to the "
    "value of http_server.auth_token; with curl, add `-H 'Authorization: Bearer <token>'`.\n"
)


def require_token(application: Application, token: str, public_paths: Collection[str]) -> Application:
    """Answer 401 to every request without the token, except for `public_paths`."""

    async def guarded(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] in public_paths or _has_token(scope, token):
            await application(scope, receive, send)
        else:
            challenge = {"WWW-Authenticate": 'Bearer realm="tokentrace"'}
            await PlainTextResponse(UNAUTHORIZED, 401, challenge)(scope, receive, send)

    return guarded


def _has_token(scope: Mapping[str, Any], token: str) -> bool:
    header = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    scheme, _, credentials = header.partition(b" ")
    equal = hmac.compare_digest(credentials.strip(), token.encode())
    return equal and scheme.lower() == b"bearer"
