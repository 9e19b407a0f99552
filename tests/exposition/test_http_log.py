"""The log of the HTTP server: what any number of clients do writes few lines."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.exposition.test_http import METRICS
from tests.exposition.test_http_limits import Serve, serve
from tests.services.workers import wait_for
from tokentrace.exposition.http import pages
from tokentrace.runtime.log import MOST_A_MINUTE, RepeatFilter

__all__ = ["serve"]

#: Requests that are wrong, each with a number.
REQUESTS = {
    "garbage": b"\x16\x03\x01\x00\xff%d\r\n\r\n",
    "version": b"GET / HTTP/9.%d\r\n\r\n",
    "length": b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x%d\r\n\r\n",
    "path": b"GET /%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "upgrade": b"GET / HTTP/1.1\r\nHost: a%d\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
}


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """Lines that a worker logs at its default level."""
    logged: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logged.append(self.format(record))

    handler = Kept(logging.INFO)
    handler.addFilter(RepeatFilter())
    logging.getLogger().addHandler(handler)
    yield logged
    logging.getLogger().removeHandler(handler)


@pytest.mark.parametrize("kind", REQUESTS)
def test_wrong_requests_write_few_lines(serve: Serve, lines: list[str], kind: str) -> None:
    served = serve(b"")
    for number in range(3 * MOST_A_MINUTE):
        with served.connect(REQUESTS[kind] % number) as client:
            assert client.recv(1000)
    assert len(lines) <= MOST_A_MINUTE


def test_slow_clients_of_many_addresses_write_few_lines(serve: Serve, lines: list[str]) -> None:
    served = serve(bytes(16 << 20), pages_bytes=1 << 20)
    request = f"GET {METRICS} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    clients = []
    try:
        for number in range(2 * MOST_A_MINUTE + pages.MAX_PAGES):
            clients.append(served.connect(request, source=f"127.0.0.{number + 2}"))
            assert wait_for(lambda number=number: served.rendered == number + 1)
        assert wait_for(lambda: len(lines) == MOST_A_MINUTE)
    finally:
        for client in clients:
            client.close()
    assert all("takes the metrics too slowly" in line for line in lines)
