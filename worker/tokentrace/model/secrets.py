"""Secrets: the one place that knows which values of a configuration are secret, by their key and by their shape."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

#: Text in place of a secret, the same as pydantic's.
HIDDEN: Final = "**********"

#: Names of librdkafka properties whose values are secret, or may contain a secret among other things.
_SECRET_NAME: Final = re.compile(
    r"password|passphrase|secret|private|credential|assertion|jaas|\.pem$|oauthbearer\.(config|extensions)$|kinit\.cmd$"
)

#: (shape, what it is replaced with), for text that could quote a value.
_SHAPES: Final = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), HIDDEN),
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s'\"]*@", re.IGNORECASE), rf"\1{HIDDEN}@"),
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s?'\"]*\?)[^\s'\")]+", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"\b(Bearer|Basic) [\w.~+/=-]{4,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(r"([\w.]*(?:password|passphrase|secret|token)['\"]?: ?(['\"])).*?\2", re.IGNORECASE), rf"\1{HIDDEN}\2"),
    (re.compile(r"\b([\w.]*(?:password|passphrase|secret)[\w.]*=)[^\s,;'\"]+", re.IGNORECASE), rf"\1{HIDDEN}"),
)


def hide_secrets(text: str) -> str:
    """Replace what has the shape of a secret: credentials and queries of URLs, tokens, private keys."""
    for shape, replacement in _SHAPES:
        text = shape.sub(replacement, text)
    return text


def public_url(url: str) -> str:
    """Return a URL without its credentials, path and query, each of which may be a secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return HIDDEN
    # A "/", "?" or "#" in the password ends what is parsed as the host.
    if not parts.netloc or "@" in url.partition("://")[2][len(parts.netloc) :]:
        return HIDDEN
    user = f"{HIDDEN}@" if "@" in parts.netloc else ""
    path = f"/{HIDDEN}" if parts.path.strip("/") or parts.query or parts.fragment else parts.path
    return f"{parts.scheme}://{user}{parts.netloc.rpartition('@')[2]}{path}"


def public_property(name: str, value: str | bool | int | float) -> str | bool | int | float:
    """Return the value of a librdkafka property, hidden if it is secret."""
    if _SECRET_NAME.search(name):
        return HIDDEN
    if not isinstance(value, str):
        return value
    return public_url(value) if "://" in value else hide_secrets(value)
