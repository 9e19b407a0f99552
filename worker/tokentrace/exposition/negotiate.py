"""Content negotiation: exposition format and compression (RFC 9110, sections 12.4 and 12.5).

prometheus_client's `choose_encoder` and `gzip_accepted` ignore quality values.
"""

from __future__ import annotations

from tokentrace.exposition.text import Format

CONTENT_TYPES: dict[Format, str] = {
    "text": "text/plain; version=0.0.4; charset=utf-8",
    "openmetrics": "application/openmetrics-text; version=1.0.0; charset=utf-8",
}


def choose_format(accept: str) -> Format:
    """Return OpenMetrics if the client prefers it or ranks both equally, else text."""
    openmetrics = text = 0.0
    for media, parameters, quality in _items(accept):
        if media == "application/openmetrics-text" and parameters.get("version", "1.0.0") in ("1.0.0", "0.0.1"):
            openmetrics = max(openmetrics, quality)
        elif media in ("text/plain", "text/*", "*/*"):
            text = max(text, quality)
    return "openmetrics" if openmetrics > 0.0 and openmetrics >= text else "text"


def accepts_gzip(accept_encoding: str) -> bool:
    """Return true if the client accepts gzip; `gzip;q=0` refuses it even where `*` is accepted."""
    qualities = {coding: quality for coding, _, quality in _items(accept_encoding)}
    return qualities.get("gzip", qualities.get("*", 0.0)) > 0.0


def _items(header: str) -> list[tuple[str, dict[str, str], float]]:
    """Return (value, parameters, quality) of each element of a list header; an invalid quality means refused."""
    items = []
    for element in header.split(","):
        value, *rest = (part.strip() for part in element.split(";"))
        parameters = {
            name.strip().lower(): text.strip().strip('"') for name, _, text in (p.partition("=") for p in rest)
        }
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            quality = 0.0
        if value:
            items.append((value.lower(), parameters, quality))
    return items
