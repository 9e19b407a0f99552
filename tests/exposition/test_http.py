"""The HTTP server, over real connections: negotiation, token, TLS, health."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Literal

import pytest

from tests.exposition.conftest import make_certificate, make_expired_certificate
from tests.harness import Harness
from tests.services.workers import wait_for
from tests.spanfactory import message, span
from tokentrace.errors import UsageError
from tokentrace.exposition import (
    ClientAddress,
    Format,
    HealthReport,
    HttpServer,
    HttpSettings,
    Renderer,
    Scrape,
    TlsSettings,
    Token,
    Tokens,
)
from tokentrace.exposition.http import tls
from tokentrace.model.snapshot import Snapshot

METRICS = "/metrics/prometheus"


class Served:
    """A running server and what it told."""

    def __init__(self, **settings: object) -> None:
        counting = Harness()
        counting.count([message(span())])
        counting.commit()
        self.snapshot = counting.ledger.snapshot
        self.scraped: list[Snapshot] = []
        self.scrapers: list[tuple[ClientAddress, Collection[ClientAddress]]] = []
        self.report = HealthReport(live=True, ready=True)
        #: Set while a scrape is being rendered, which goes on once `go_on` is set.
        self.rendering, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()
        renderer = Renderer({})

        def render(form: Format, by_prometheus: bool) -> Scrape:
            self.rendering.set()
            assert self.go_on.wait(20.0)
            return renderer.scrape(lambda: self.snapshot, form, by_prometheus)

        values = {"host": "127.0.0.1", "port": 0, **settings}
        self.server = HttpServer(
            HttpSettings(**values),  # type: ignore[arg-type]
            render=render,
            health=lambda: self.report,
            on_scraped=self._on_scraped,
        )
        self.server.start()

    def _on_scraped(self, scrape: Scrape, scraper: ClientAddress, connected: Collection[ClientAddress]) -> None:
        self.scraped.append(scrape.snapshot)
        self.scrapers.append((scraper, connected))

    def ask(
        self, path: str, method: str = "GET", context: ssl.SSLContext | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        if context is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        else:
            connection = http.client.HTTPSConnection("127.0.0.1", self.server.port, timeout=10, context=context)
        try:
            connection.request(
                method, path, headers={name.replace("_", "-"): header for name, header in headers.items()}
            )
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()


Serve = Callable[..., Served]


@pytest.fixture
def serve() -> Iterator[Serve]:
    started: list[Served] = []

    def start(**settings: object) -> Served:
        started.append(Served(**settings))
        return started[-1]

    yield start
    for server in started:
        server.server.stop()


def test_a_plain_request_gets_text(serve: Serve) -> None:
    served = serve()
    status, headers, body = served.ask(METRICS)
    assert status == 200
    assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert headers["vary"] == "Accept, Accept-Encoding"
    assert "content-encoding" not in headers
    assert b'tokentrace_spans_total{status="ok",model="gpt-4o",provider="openai"} 1\n' in body
    # The callback runs after the last byte was sent.
    assert wait_for(lambda: served.scraped == [served.snapshot])


def test_openmetrics_and_gzip_are_given_to_those_who_ask(serve: Serve) -> None:
    served = serve()
    accept = "application/openmetrics-text;version=1.0.0"
    status, headers, body = served.ask(METRICS, Accept=accept, Accept_Encoding="gzip")
    assert (status, headers["content-encoding"]) == (200, "gzip")
    assert headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert gzip.decompress(body).endswith(b"# EOF\n")
    _, headers, _ = served.ask(METRICS, Accept_Encoding="gzip;q=0")
    assert "content-encoding" not in headers


def test_lists_in_two_header_lines_are_read_as_one(serve: Serve) -> None:
    served = serve()
    connection = http.client.HTTPConnection("127.0.0.1", served.server.port, timeout=10)
    connection.putrequest("GET", METRICS, skip_accept_encoding=True)
    for name, value in (
        ("Accept", "text/plain;q=0.5"), ("Accept", "application/openmetrics-text;version=1.0.0"),
        ("Accept-Encoding", "deflate"), ("Accept-Encoding", "gzip"),
    ):  # fmt: skip
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    assert response.headers["Content-Type"].startswith("application/openmetrics-text")
    assert response.headers["Content-Encoding"] == "gzip"
    connection.close()


def test_scrape_callback_gets_the_scraper_and_the_open_connections(serve: Serve) -> None:
    served = serve()
    kept = http.client.HTTPConnection("127.0.0.1", served.server.port, timeout=10)

    def scrape() -> tuple[ClientAddress, Collection[ClientAddress]]:
        before = len(served.scrapers)
        kept.request("GET", METRICS)
        kept.getresponse().read()
        assert wait_for(lambda: len(served.scrapers) > before)
        return served.scrapers[-1]

    try:
        scraper, connected = scrape()
        assert (scraper, connected) == (kept.sock.getsockname(), {scraper})
        served.ask(METRICS)
        assert wait_for(lambda: len(served.scrapers) == 2)
        other, connected = served.scrapers[-1]
        assert other != scraper
        assert connected == {scraper, other}
        assert wait_for(lambda: scrape() == (scraper, {scraper})), "the other has closed its connection"
    finally:
        kept.close()


def test_a_head_request_is_no_scrape(serve: Serve) -> None:
    served = serve()
    status, _, body = served.ask(METRICS, "HEAD")
    assert (status, body, served.scraped) == (200, b"", [])


def test_other_methods_and_paths_are_refused(serve: Serve) -> None:
    served = serve()
    assert served.ask(METRICS, "POST")[0] == 403
    assert served.ask("/nowhere")[0] == 404
    assert METRICS.encode() in served.ask("/")[2]


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer wrong",
        "Bearer s3cret-token-and-more",
        "Basic s3cret-token",
        "s3cret-token",
        "Bearer ÿ",
    ],
)
def test_without_the_token_there_is_401_with_the_remedy(serve: Serve, authorization: str | None) -> None:
    served = serve(tokens=Tokens(Token("s3cret-token")))
    given = {} if authorization is None else {"Authorization": authorization.encode("latin-1").decode("latin-1")}
    status, headers, body = served.ask(METRICS, **given)
    assert status == 401
    assert headers["www-authenticate"].startswith("Bearer")
    assert b"Authorization: Bearer" in body
    assert b"s3cret" not in body
    assert b"tokentrace_spans_total" not in body
    assert served.scraped == []
    assert served.ask("/nowhere", **given)[0] == 401


def test_with_the_token_there_are_metrics_and_health_never_asks_for_it(serve: Serve) -> None:
    served = serve(tokens=Tokens(Token("s3cret-token")))
    assert served.ask(METRICS, Authorization="Bearer s3cret-token")[0] == 200
    assert served.ask(METRICS, Authorization="bearer s3cret-token")[0] == 200
    for path in ("/health", "/health/live", "/health/ready"):
        assert served.ask(path)[0] == 200


@pytest.mark.parametrize(
    ("live", "ready", "statuses"), [(True, True, (200, 200)), (True, False, (200, 503)), (False, True, (503, 503))]
)
def test_liveness_and_readiness(serve: Serve, live: bool, ready: bool, statuses: tuple[int, int]) -> None:
    served = serve()
    served.report = HealthReport(live=live, ready=ready, detail={"waiting_for": "x"})
    assert (served.ask("/health")[0], served.ask("/health/ready")[0]) == statuses
    assert served.ask("/health/live")[0] == statuses[0]
    assert json.loads(served.ask("/health/ready")[2]) == {"live": live, "ready": ready, "waiting_for": "x"}


def test_paths_can_be_chosen(serve: Serve) -> None:
    served = serve(prometheus_path="/m", health_path="/up")
    assert [served.ask(path)[0] for path in ("/m", "/up", "/up/ready", METRICS)] == [200, 200, 200, 404]


def test_a_slow_scrape_does_not_hold_up_the_health_probe(serve: Serve) -> None:
    served = serve()
    served.go_on.clear()
    slow = threading.Thread(target=served.ask, args=(METRICS,))
    slow.start()
    try:
        assert served.rendering.wait(20.0)
        assert served.ask("/health/live")[0] == 200
        assert served.scraped == []
    finally:
        served.go_on.set()
        slow.join()


def test_a_scraper_that_goes_away_does_not_count_as_a_scrape(serve: Serve) -> None:
    served = serve()
    served.go_on.clear()
    with socket.create_connection(("127.0.0.1", served.server.port)) as connection:
        connection.sendall(f"GET {METRICS} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert served.rendering.wait(20.0)
    assert served.ask("/health")[0] == 200
    served.go_on.set()
    # What was rendered for it is told before what is rendered next.
    assert served.ask(METRICS)[0] == 200
    assert wait_for(lambda: len(served.scraped) > 0)
    assert len(served.scraped) == 1


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"Cannot listen on 127.0.0.1:{port} \(.*\); change http_server.addr"):
            Served(port=port)


def test_tls(serve: Serve, certificate: tuple[Path, Path]) -> None:
    served = serve(tls=TlsSettings(*certificate))
    context = ssl.create_default_context(cafile=str(certificate[0]))
    assert served.ask(METRICS, context=context)[0] == 200
    with pytest.raises((http.client.HTTPException, OSError)):
        served.ask(METRICS)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_tls_below_the_lowest_version_is_refused(
    serve: Serve, certificate: tuple[Path, Path], version: Literal["1.2", "1.3"]
) -> None:
    served = serve(tls=TlsSettings(*certificate, min_version=version))
    context = ssl.create_default_context(cafile=str(certificate[0]))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    if version == "1.2":
        assert served.ask(METRICS, context=context)[0] == 200
        return
    with pytest.raises((http.client.HTTPException, OSError)):
        served.ask(METRICS, context=context)


def test_tls_follows_its_files(serve: Serve, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "LOOK_S", 0.1)
    path, key = certificate
    served = serve(tls=TlsSettings(path, key))

    def answers(authority: Path) -> bool:
        try:
            return served.ask(METRICS, context=ssl.create_default_context(cafile=str(authority)))[0] == 200
        except ssl.SSLCertVerificationError:
            return False

    new = make_certificate(path.parent / "new")
    assert [answers(path), answers(new[0])] == [True, False]
    # A certificate without its key cannot be used yet.
    old = path.with_name("old.crt")
    shutil.copy(path, old)
    os.replace(new[0], path)
    assert answers(old)
    os.replace(new[1], key)
    assert wait_for(lambda: answers(path))
    assert not answers(old)


def test_tls_with_an_authority_serves_only_clients_with_its_certificate(
    serve: Serve, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    unknown, expired = make_certificate(tmp_path / "unknown"), make_expired_certificate(tmp_path / "expired")
    trusted = tmp_path / "trusted.crt"
    trusted.write_bytes(certificate[0].read_bytes() + expired[0].read_bytes())
    served = serve(tls=TlsSettings(*certificate, client_ca=trusted))
    assert served.ask(METRICS, context=client_of(certificate[0], certificate))[0] == 200
    for wrong in (None, unknown, expired):
        with pytest.raises((http.client.HTTPException, OSError)):
            served.ask(METRICS, context=client_of(certificate[0], wrong))


def client_of(authority: Path, certificate: tuple[Path, Path] | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority))
    if certificate is not None:
        context.load_cert_chain(*certificate)
    return context


def test_tls_files_that_are_none_are_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("nothing")
    with pytest.raises(UsageError, match=r"http_server.tls: .*bad.pem and .*bad.pem cannot be used"):
        Served(tls=TlsSettings(bad, bad))
    with pytest.raises(UsageError, match=r"http_server\.tls"):
        Served(tls=TlsSettings(tmp_path / "none.pem", bad))
