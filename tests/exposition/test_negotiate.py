"""Content negotiation: format and compression by the client's headers."""

from __future__ import annotations

import pytest

from tokentrace.exposition.negotiate import accepts_gzip, choose_format

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", "text"),
        ("*/*", "text"),
        ("text/plain", "text"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text"),
        (PROMETHEUS, "openmetrics"),
        ("application/openmetrics-text", "openmetrics"),
        ("application/openmetrics-text;version=1.0.0;q=0.3,text/plain;q=0.6", "text"),
        ("application/openmetrics-text;q=0", "text"),
        ("application/openmetrics-text;version=2.0.0", "text"),
        ("APPLICATION/OpenMetrics-Text; Version=1.0.0", "openmetrics"),
        ("application/openmetrics-text;q=much", "text"),
        (";;;,,,", "text"),
    ],
)
def test_the_format_is_the_one_that_the_client_likes_best(accept: str, form: str) -> None:
    assert choose_format(accept) == form


@pytest.mark.parametrize(
    ("encoding", "accepted"),
    [
        ("", False),
        ("gzip", True),
        ("deflate, gzip;q=1.0, *;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("*", True),
        ("identity", False),
        ("GZIP", True),
    ],
)
def test_gzip_is_used_where_it_is_wanted(encoding: str, accepted: bool) -> None:
    assert accepts_gzip(encoding) is accepted
