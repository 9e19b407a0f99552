"""`top`: scraping replicas, sums, rates and quantiles over them, and the table."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner
from rich.console import Console

from tests.harness import Harness
from tests.spanfactory import message, span
from tokentrace.cli import app
from tokentrace.errors import FatalError
from tokentrace.exposition import Renderer
from tokentrace.tools.top import (
    PATH,
    ReplicaScrape,
    Totals,
    metrics_url,
    scrape,
    scrape_all,
    summary_line,
)
from tokentrace.tools.top_view import render

NAME = "tokentrace_latency_ms"


def replica(**counts: int) -> ReplicaScrape:
    """A histogram of model `a`: cumulative counts up to 100, 200 and +Inf."""
    bounds = {"le100": "100", "le200": "200", "inf": "+Inf"}
    return ReplicaScrape(
        "r",
        0.0,
        {(f"{NAME}_bucket", (("le", bounds[bound]), ("model", "a"))): float(count) for bound, count in counts.items()},
    )


def test_quantile_is_over_all_replicas_and_interpolated() -> None:
    totals = Totals([replica(le100=1, le200=1, inf=1), replica(le100=1, le200=4, inf=5)])
    assert totals.quantile(0.5, NAME) == pytest.approx(100.0 + 100.0 * (3 - 2) / 3)
    assert totals.quantile(0.99, NAME, model="a") == 200.0, "the last bound, for what is beyond it"
    assert totals.quantile(0.2, NAME) == pytest.approx(100.0 * 1.2 / 2)


def test_quantile_is_none_without_observations() -> None:
    assert Totals([replica(le100=0, le200=0, inf=0)]).quantile(0.5, NAME) is None
    assert Totals([replica(le100=1, le200=1, inf=1)]).quantile(0.5, NAME, model="b") is None
    assert Totals([]).quantile(0.5, NAME) is None


def exposition(*models: str, **more: object) -> bytes:
    """Return the exposition of a replica that has counted one span of each model."""
    counting = Harness()
    counting.count([message(span(model=model, provider="lab", **more)) for model in models])
    return Renderer({}).render(counting.commit(), [], "text")


class StandIn:
    """A replica that answers each request with the next of its answers, and the last one from then on."""

    def __init__(self, *answers: bytes, status: int = 200, location: str = "") -> None:
        self.authorization: list[str | None] = []
        remaining = list(answers)
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stand_in.authorization.append(self.headers["Authorization"])
                body = remaining.pop(0) if len(remaining) > 1 else remaining[0]
                self.send_response(status if self.path == PATH else 404)
                if location:
                    self.send_header("Location", location)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        self.url = metrics_url(self.address)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


Serve = Callable[..., StandIn]


@pytest.fixture
def serve() -> Iterator[Serve]:
    started: list[StandIn] = []

    def start(*answers: bytes, status: int = 200, location: str = "") -> StandIn:
        started.append(StandIn(*answers, status=status, location=location))
        return started[-1]

    yield start
    for stand_in in started:
        stand_in.stop()


@pytest.fixture
def unused_address() -> Iterator[str]:
    """An address that refuses connections: bound, not listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


def shown(*scrapes: ReplicaScrape, earlier: tuple[ReplicaScrape, ...] = (), width: int = 200) -> list[str]:
    """The lines of the view, columns separated by one space."""
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(render(scrapes, earlier, width=width))
    return [" ".join(line.split()) for line in capture.get().splitlines() if line.strip()]


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("host:9090", "http://host:9090/metrics/prometheus"),
        ("https://host", "https://host/metrics/prometheus"),
        ("host:9090/m", "http://host:9090/m"),
        ("http://[::1]:9090", "http://[::1]:9090/metrics/prometheus"),
    ],
)
def test_metrics_url_completes_an_address(address: str, url: str) -> None:
    assert metrics_url(address) == url


def test_scrape_reads_the_samples_of_a_replica(serve: Serve) -> None:
    replica = serve(exposition("gpt", "gpt", cost_usd=0.25))
    result = scrape(replica.url, "s3cret")
    assert (result.url, result.problem) == (replica.url, "")
    assert result.samples["tokentrace_spans_total", (("model", "gpt"), ("provider", "lab"), ("status", "ok"))] == 2.0
    assert replica.authorization == ["Bearer s3cret"]
    assert scrape(replica.url).problem == ""
    assert replica.authorization[1] is None


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        (b"", 401, "HTTP 401; give the token with --token or TOKENTRACE_AUTH_TOKEN"),
        (b"", 503, "HTTP 503"),
        (b"<html><body>hello</body></html>", 200, "response is not Prometheus text format"),
        (b"\xff\xfe", 200, "response is not Prometheus text format"),
    ],
)
def test_scrape_gives_the_problem_of_a_replica(serve: Serve, body: bytes, status: int, problem: str) -> None:
    assert scrape(serve(body, status=status).url).problem == problem


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_scrape_sends_its_token_to_no_other_address(serve: Serve, status: int) -> None:
    other = serve(exposition("gpt"))
    replica = serve(b"", status=status, location=other.url)
    assert scrape(replica.url, "secret").problem == f"HTTP {status} to {other.url}; give that URL, if it is a replica's"
    assert (replica.authorization, other.authorization) == (["Bearer secret"], [])


def test_scrape_gives_the_problem_of_an_address(unused_address: str) -> None:
    assert "refused" in scrape(metrics_url(unused_address)).problem
    assert "port" in scrape("http://127.0.0.1:none/metrics").problem


def test_scrape_all_needs_one_replica_that_answers(serve: Serve, unused_address: str) -> None:
    replica, absent = serve(exposition("gpt")), metrics_url(unused_address)
    assert [bool(result.problem) for result in scrape_all([absent, replica.url])] == [True, False]
    with pytest.raises(FatalError, match=rf"No replica answers: {absent}: .*refused"):
        scrape_all([absent])


def test_render_sums_replicas_and_sorts_models_by_cost(serve: Serve) -> None:
    first = serve(exposition("cheap", "dear", "dear", cost_usd=1.0))
    second = serve(exposition("dear", cost_usd=1.0))
    lines = shown(*scrape_all([first.url, second.url]))
    assert lines[0] == "tokentrace"
    assert lines[1].startswith("model provider spans spans/s cost $/hour tokens/s p50 ms p95 ms errors quality")
    rows = [line.split()[:5] for line in lines if line.split()[0] in ("cheap", "dear", "all")]
    assert rows == [
        ["dear", "lab", "3", "0", "$3.00"],
        ["cheap", "lab", "1", "0", "$1.00"],
        ["all", "4", "0", "$4.00", "$0.00"],
    ]
    assert lines[-1] == "2 replicas · 0 records behind (0.0 s) · 0 rejected · 0 unpriced · 3 groups"


def test_render_leaves_columns_out_on_a_narrow_terminal(serve: Serve) -> None:
    lines = shown(*scrape_all([serve(exposition("gpt")).url]), width=80)
    assert lines[1] == "model provider spans spans/s cost $/hour tokens/s p95 ms errors"


def test_render_shows_the_first_models_and_how_many_more_there_are(serve: Serve) -> None:
    lines = shown(*scrape_all([serve(exposition(*(f"model-{number}" for number in range(33)))).url]))
    assert sum(line.startswith("model-") for line in lines) == 30
    assert "... 3 more" in lines
    assert any(line.startswith("all 33 ") for line in lines)


def test_render_names_a_replica_that_failed(serve: Serve, unused_address: str) -> None:
    absent = metrics_url(unused_address)
    lines = shown(*scrape_all([serve(exposition("gpt")).url, absent]))
    assert lines[-2].startswith("1 replica · ")
    assert lines[-1].startswith(f"{absent}: ")


def test_render_computes_rates_between_two_scrapes_of_the_same_replicas() -> None:
    def replica(url: str, at_s: float, spans: float, problem: str = "") -> ReplicaScrape:
        labels = (("model", "gpt"), ("provider", "lab"), ("status", "ok"))
        return ReplicaScrape(url, at_s, {} if problem else {("tokentrace_spans_total", labels): spans}, problem)

    def rate(earlier: list[ReplicaScrape], latest: list[ReplicaScrape]) -> str:
        (row,) = (line for line in shown(*latest, earlier=tuple(earlier)) if line.startswith("gpt "))
        return row.split()[3]

    assert rate([replica("a", 0.0, 100.0)], [replica("a", 2.0, 150.0)]) == "25"
    assert rate([replica("a", 0.0, 100.0)], [replica("a", 2.0, 10.0)]) == "0", "the replica restarted"
    assert rate([], [replica("a", 2.0, 150.0)]) == "0"
    returned = [replica("a", 0.0, 100.0), replica("b", 0.0, 0.0, "down")]
    assert rate(returned, [replica("a", 2.0, 150.0), replica("b", 2.0, 1e6)]) == "25", "b did not answer before"


@pytest.mark.parametrize(
    ("model", "text"),
    [("[/bold]", "[/bold]"), ("[red]x[/red]", "[red]x[/red]"), ("esc\x1b[2J", "esc\\x1b[2J"), ("a\nb", "a\\nb")],
)
def test_render_shows_labels_as_plain_text(serve: Serve, model: str, text: str) -> None:
    lines = shown(*scrape_all([serve(exposition(model)).url]))
    assert any(line.startswith(f"{text} lab 1 ") for line in lines), lines


def test_summary_line_is_one_replica_in_one_line(serve: Serve) -> None:
    line = summary_line(scrape(serve(exposition("gpt", "gpt", cost_usd=0.25)).url))
    assert line.split() == ["2", "spans", "$0.5000", "240", "tokens", "0", "records", "behind"]


def test_top_once_prints_the_table_with_rates_and_ends(serve: Serve, unused_address: str) -> None:
    replica = serve(exposition("gpt"), exposition("gpt", "gpt"))
    arguments = ["top", replica.address, unused_address, "--once", "--interval", "10ms", "--token", "s3cret"]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    (row,) = (line.split() for line in done.stdout.splitlines() if line.lstrip().startswith("gpt "))
    assert row[:3] == ["gpt", "lab", "2"]
    assert float(row[3].replace(",", "")) > 0
    assert f"http://{unused_address}{PATH}: " in done.stdout
    assert replica.authorization == ["Bearer s3cret"] * 2


def test_top_ends_when_no_replica_answers(unused_address: str) -> None:
    done = CliRunner().invoke(app, ["top", unused_address, "--once"])
    assert isinstance(done.exception, FatalError)
