"""HTTP of the commands that look at other programs: one GET, that sends credentials to the given address alone."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from typing import Final

from tokentrace.model.text import printable

TIMEOUT_S: Final = 5.0


class NoAnswer(OSError):
    """Problem that kept a server from answering. status: of HTTP, 0 if there was none; body: that of an HTTP error."""

    def __init__(self, problem: str, status: int = 0, body: bytes = b"", location: str = "") -> None:
        super().__init__(problem)
        self.problem, self.status, self.body, self.location = problem, status, body, location


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Makes a redirect an error: the token is for the address that the user gave."""

    def redirect_request(self, *_: object) -> None:
        return None


_OPENER: Final = urllib.request.build_opener(_NoRedirects)


def get(url: str, authorization: str = "") -> bytes:
    """Return what a server answers. authorization: value of that header. Raises NoAnswer."""
    try:
        request = urllib.request.Request(url, headers={"Authorization": authorization} if authorization else {})
        with _OPENER.open(request, timeout=TIMEOUT_S) as response:
            body: bytes = response.read()
            return body
    except urllib.error.HTTPError as error:
        location = printable(error.headers.get("Location") or "")
        try:
            body = error.read()
        except (OSError, http.client.HTTPException):
            body = b""
        to = f" to {location}" if location else ""
        raise NoAnswer(f"HTTP {error.code}{to}", error.code, body, location) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise NoAnswer(str(getattr(error, "reason", error)) or type(error).__name__) from error
