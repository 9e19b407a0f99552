"""Limits of the HTTP server: a client that is slow, silent or one of many keeps nobody else out."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.exposition.test_http import METRICS
from tests.harness import Harness
from tests.services.workers import wait_for
from tokentrace.exposition import ClientAddress, Format, HealthReport, HttpServer, HttpSettings, Scrape, TlsSettings
from tokentrace.exposition.http import connection, listener, pages

HALF_REQUESTS = {
    "silent": b"",
    "request line": b"GET /met",
    "headers": b"GET / HTTP/1.1\r\nHost: a\r\nX: ",
    "body": b"POST /alerts/x/silence HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12",
}


class Served:
    """A running server, whose page is `body`. rendered: how many pages it has made. scraped: how many were taken."""

    def __init__(self, body: bytes, **settings: object) -> None:
        harness = Harness()
        harness.commit()
        self.body = body
        self.rendered = 0
        self.scraped: list[ClientAddress] = []
        self.rendering, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

        def render(_: Format, __: bool) -> Scrape:
            self.rendered += 1
            number = self.rendered
            self.rendering.set()
            assert self.go_on.wait(30.0)
            return Scrape(b"%06d" % number + self.body, harness.ledger.snapshot)

        self.server = HttpServer(
            HttpSettings(**{"host": "127.0.0.1", "port": 0, **settings}),  # type: ignore[arg-type]
            render=render,
            health=lambda: HealthReport(live=True, ready=True),
            on_scraped=lambda _, client, __: self.scraped.append(client),
        )
        self.server.start()

    def connect(self, sent: bytes = b"", source: str = "") -> socket.socket:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(30.0)
        client.bind((source, 0))
        client.connect(("127.0.0.1", self.server.port))
        client.sendall(sent)
        return client

    def scraper(self) -> tuple[http.client.HTTPConnection, int]:
        """A client that has scraped once and keeps its connection, and the port of its end."""
        client = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        client.request("GET", METRICS)
        client.getresponse().read()
        return client, client.sock.getsockname()[1]

    def get(self, path: str) -> tuple[int, bytes]:
        client = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        try:
            client.request("GET", path)
            response = client.getresponse()
            return response.status, response.read()
        finally:
            client.close()


Serve = Callable[..., Served]


@pytest.fixture
def serve() -> Iterator[Serve]:
    started: list[Served] = []

    def start(body: bytes = b"page", **settings: object) -> Served:
        started.append(Served(body, **settings))
        return started[-1]

    yield start
    for served in started:
        served.go_on.set()
        served.server.stop()


def is_closed(client: socket.socket) -> bool:
    """Return whether the server has closed the connection, after reading what it has sent."""
    client.setblocking(False)
    try:
        while client.recv(1 << 20):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize("sent", HALF_REQUESTS.values(), ids=HALF_REQUESTS)
def test_a_request_that_is_not_finished_is_closed_in_time(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "REQUEST_TIMEOUT_S", 0.3)
    served = serve()
    with served.connect(sent) as client:
        assert wait_for(lambda: is_closed(client), 20.0)
    assert served.get("/health")[0] == 200
    assert caplog.records == []


def test_a_request_that_is_sent_in_small_pieces_has_no_more_time(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "REQUEST_TIMEOUT_S", 0.5)
    with serve().connect(b"GET / HTTP/1.1\r\nX: ") as client:

        def drip() -> bool:
            try:
                client.sendall(b"x")
            except ConnectionError:
                return True
            return is_closed(client)

        assert wait_for(drip, 20.0)


def test_a_connection_between_two_scrapes_is_kept(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "REQUEST_TIMEOUT_S", 0.2)
    client, port = serve().scraper()
    threading.Event().wait(0.6)
    client.request("GET", METRICS)
    assert client.getresponse().read() == b"000002page"
    assert client.sock.getsockname()[1] == port
    client.close()


def answers(served: Served) -> bool:
    try:
        return served.get("/health")[0] == 200
    except OSError:
        return False


@pytest.mark.parametrize("pause_s", [0.0, 0.01], ids=["in a flood", "one by one"])
def test_half_open_connections_close_each_other_and_no_scraper(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, pause_s: float
) -> None:
    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 20)
    served = serve()
    scraper, port = served.scraper()
    half_open = []
    for sent in [*HALF_REQUESTS.values()] * 25:
        half_open.append(served.connect(sent))
        time.sleep(pause_s)
    try:
        # Until then a new connection of the same address may be closed with those of the flood.
        assert wait_for(lambda: sum(map(is_closed, half_open)) >= 80)
        assert wait_for(lambda: answers(served))
        scraper.request("GET", METRICS)
        assert scraper.getresponse().status == 200
        assert scraper.sock.getsockname()[1] == port
    finally:
        scraper.close()
        for client in half_open:
            client.close()


def test_half_open_connections_close_none_from_another_address(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 20)
    served = serve()
    with socket.create_connection(("127.0.0.1", served.server.port), 30.0, ("127.0.0.2", 0)) as probe:
        half_open = [served.connect() for _ in range(100)]
        try:
            assert wait_for(lambda: sum(map(is_closed, half_open)) >= 80)
            probe.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            assert probe.recv(1 << 16).startswith(b"HTTP/1.1 200")
        finally:
            for client in half_open:
                client.close()


class Stopped:
    """An event loop that answers a health request, and so accepts nothing, until `go_on`."""

    def __init__(self, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go_on = threading.Event()
        self._asked = threading.Event()
        monkeypatch.setattr(served.server._health, "_health", self._report)
        self._pool = ThreadPoolExecutor(1)
        self._request = self._pool.submit(served.get, "/health")
        assert self._asked.wait(20.0)

    def _report(self) -> HealthReport:
        self._asked.set()
        assert self.go_on.wait(60.0)
        return HealthReport(live=True, ready=True)

    def end(self) -> tuple[int, bytes]:
        self.go_on.set()
        try:
            return self._request.result()
        finally:
            self._pool.shutdown()


def test_connections_of_a_flood_wait_until_they_are_accepted(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    served = serve()
    stopped = Stopped(served, monkeypatch)
    flood = []
    try:
        flood += [served.connect() for _ in range(listener.ACCEPTED + 20)]
    finally:
        assert stopped.end()[0] == 200
        for client in flood:
            client.close()


def test_a_flood_is_closed_as_it_is_accepted_but_for_its_latest_and_other_addresses(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()
    stopped = Stopped(served, monkeypatch)
    request = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.server.port), 30.0, ("127.0.0.2", 0)) as probe:
        probe.sendall(request)
        flood = [served.connect() for _ in range(500)]
        latest = served.connect(request)
        try:
            assert stopped.end()[0] == 200
            assert probe.recv(1 << 16).startswith(b"HTTP/1.1 200")
            assert latest.recv(1 << 16).startswith(b"HTTP/1.1 200")
            assert wait_for(lambda: sum(map(is_closed, flood)) >= 500 - listener.ACCEPTED)
            # Those that are left were accepted: far fewer than the server's limit of connections.
            assert not all(map(is_closed, flood))
        finally:
            for client in (*flood, latest):
                client.close()


def test_a_page_is_rendered_once_for_all_who_ask_during_another(serve: Serve) -> None:
    served = serve()
    served.go_on.clear()
    with ThreadPoolExecutor(12) as pool:
        first = pool.submit(served.get, METRICS)
        assert served.rendering.wait(20.0)
        second = pool.submit(served.get, METRICS)
        assert wait_for(lambda: served.rendered == pages.MAX_RENDERING)
        others = [pool.submit(served.get, METRICS) for _ in range(10)]
        assert wait_for(lambda: len(served.server._connections()) == 12)
        # A request that has come is one step of the event loop before it waits for its page.
        assert served.get("/health")[0] == 200
        served.go_on.set()
        assert [task.result() for task in (first, second)] == [(200, b"000001page"), (200, b"000002page")]
        assert {task.result() for task in others} == {(200, b"000003page")}
    assert wait_for(lambda: len(served.scraped) == 12)


def test_pages_that_nobody_reads_are_few_and_their_connections_are_closed(
    serve: Serve,
) -> None:
    served = serve(bytes(16 << 20), pages_bytes=4 << 20)
    request = f"GET {METRICS} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    clients = []
    for number in range(12):
        clients.append(served.connect(request))
        assert wait_for(lambda number=number: served.rendered == number + 1)
    in_flight = served.server._metrics._pages._in_flight
    try:
        assert wait_for(lambda: len(in_flight) == pages.MAX_PAGES)
        assert wait_for(lambda: sum(map(is_gone, clients)) == 12 - pages.MAX_PAGES)
        assert len(served.get(METRICS)[1]) == 6 + (16 << 20), "a client that reads is served"
    finally:
        for client in clients:
            client.close()
    assert wait_for(lambda: in_flight == [])
    assert len(served.scraped) == 1


def is_gone(client: socket.socket) -> bool:
    """Return whether the server has closed a connection from which its client does not read."""
    try:
        client.send(b"x")
    except ConnectionError:
        return True
    return False


def test_a_client_that_does_not_take_its_page_is_closed_in_time(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "RESPONSE_TIMEOUT_S", 0.5)
    served = serve(bytes(16 << 20))
    with served.connect(f"GET {METRICS} HTTP/1.1\r\nHost: a\r\n\r\n".encode()) as client:
        assert wait_for(lambda: is_gone(client), 20.0)
    assert wait_for(lambda: served.server._metrics._pages._in_flight == [])
    assert served.scraped == []


def test_a_page_whose_client_has_gone_in_the_middle_is_not_scraped(serve: Serve) -> None:
    served = serve(bytes(16 << 20))
    request = f"GET {METRICS} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    with served.connect(request) as client, client.makefile("rb") as reader:
        assert len(reader.read(100_000)) == 100_000
    assert wait_for(lambda: served.rendered == 1 and served.server._metrics._pages._in_flight == [])
    assert len(served.get(METRICS)[1]) == 6 + (16 << 20)
    assert wait_for(lambda: len(served.scraped) == 1)


def test_a_handshake_that_is_not_finished_is_closed_in_time(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, certificate: tuple[Path, Path]
) -> None:
    monkeypatch.setattr(connection, "REQUEST_TIMEOUT_S", 0.3)
    served = serve(tls=TlsSettings(*certificate))
    with served.connect(b"\x16\x03\x01") as client:
        assert wait_for(lambda: is_closed(client), 20.0)
