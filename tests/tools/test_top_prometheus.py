"""`top --prometheus`: the figures of the replicas, asked of a server that answers like Prometheus."""

from __future__ import annotations

import json
import re
import threading
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner, Result
from prometheus_client.parser import text_string_to_metric_families

from tests.tools.test_top import Serve, exposition, serve
from tokentrace.cli import app
from tokentrace.errors import FatalError, UsageError

__all__ = ["serve"]

NOW_S = 1_795_000_000.25
SELECTOR = 'job="tokentrace"'
BUILD = "tokentrace_worker_build_info"
AGGREGATION = re.compile(r"(sum|max) without \(instance, job, pod\) \((rate\()?(\w+)(?:\{.*\})?(\[(\d+)ms\]\))?\)")

Sample = tuple[str, dict[str, str], float]


class _Server(ThreadingHTTPServer):
    #: More than the queries that are asked at once: a connection beyond it is tried again a second later.
    request_queue_size = 32


class PrometheusStandIn:
    """Evaluates the few forms of expressions that `top` asks for. Counters grow by a 60th of themselves a second."""

    def __init__(self, **replicas: bytes) -> None:
        self.replicas = replicas
        self.down: list[str] = []
        self.asked: list[tuple[str, str | None, str | None]] = []
        #: Status, body and Location of every answer, where set.
        self.otherwise: tuple[int, bytes, str] | None = None
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                parameters = parse_qs(parts.query)
                query, at_s = parameters["query"][0], parameters.get("time", [None])[0]
                stand_in.asked.append((query, at_s, self.headers["Authorization"]))
                status, body, location = stand_in.otherwise or (200, stand_in.answer(query), "")
                self.send_response(status if parts.path == "/prefix/api/v1/query" else 404)
                if location:
                    self.send_header("Location", location)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}/prefix/"
        self.url = f"http://{self.address.rstrip('/')}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, query: str) -> bytes:
        result = [
            {"metric": labels, "value": [NOW_S, repr(value).replace("inf", "Inf")]}
            for labels, value in self._evaluated(query)
        ]
        return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()

    def _evaluated(self, query: str) -> list[tuple[dict[str, str], float]]:
        if query in (BUILD, f"{BUILD}{{{SELECTOR}}}"):
            return [({"__name__": BUILD, "instance": name, "job": "tokentrace"}, 1.0) for name in self.replicas]
        if query.startswith("up == 0"):
            return [({"__name__": "up", "instance": name, "job": "tokentrace"}, 0.0) for name in self.down]
        found = AGGREGATION.fullmatch(query)
        assert found, query
        how, rate, name = found[1], found[2], found[3]
        groups: dict[tuple[tuple[str, str], ...], list[float]] = defaultdict(list)
        for sample_name, labels, value in self._samples():
            if sample_name == name:
                # To Prometheus a label with an empty value is a label that is not there; its targets have more.
                kept = {label: text for label, text in labels.items() if text} | {"namespace": "llm"}
                groups[tuple(sorted(kept.items()))].append(value / 60 if rate else value)
        return [(dict(labels), sum(values) if how == "sum" else max(values)) for labels, values in groups.items()]

    def _samples(self) -> Iterator[Sample]:
        for body in self.replicas.values():
            for family in text_string_to_metric_families(body.decode()):
                yield from ((sample.name, dict(sample.labels), sample.value) for sample in family.samples)


@pytest.fixture
def prometheus() -> Iterator[PrometheusStandIn]:
    stand_in = PrometheusStandIn(
        pod_0=exposition(
            "cheap", "dear", "dear", cost_usd=0.5, caller="search", latency_ms=240.0, attributes={"eval.score": 0.75}
        ),
        pod_1=exposition("dear", cost_usd=0.5, caller="", latency_ms=900.0, status="error"),
    )
    yield stand_in
    stand_in.stop()


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOKEN", "USER", "PASSWORD"):
        monkeypatch.delenv(f"TOKENTRACE_PROMETHEUS_{name}", raising=False)


def once(address: str, *more: str, **environment: str) -> Result:
    return CliRunner().invoke(
        app, ["top", "--prometheus", address, "--once", *more], env={"COLUMNS": "200", **environment}
    )


def document(address: str, *more: str) -> Any:
    done = once(address, "--json", *more)
    assert done.exit_code == 0, done.exception
    return json.loads(done.stdout)


def without_rates(shown: dict[str, Any]) -> dict[str, Any]:
    rows = [
        {name: value for name, value in row.items() if "per" not in name} for row in [*shown["rows"], shown["total"]]
    ]
    return {**shown, "rows": rows, "total": None, "replicas": None}


def test_the_figures_are_those_of_the_replicas(prometheus: PrometheusStandIn, serve: Serve) -> None:
    addresses = [serve(body).address for body in prometheus.replicas.values()]
    for by in ("model", "provider", "caller"):
        scraped = CliRunner().invoke(app, ["top", *addresses, "--once", "--json", "--interval", "1ms", "--by", by])
        shown = document(prometheus.address, "--by", by)
        assert without_rates(shown) == without_rates(json.loads(scraped.stdout)), by
        assert all(value is not None for value in shown["total"].values())
        assert (shown["total"]["spans"], shown["total"]["error_ratio"], shown["total"]["quality"]) == (4.0, 0.25, 0.75)
        assert shown["replicas"] == [{"url": "pod_0", "problem": None}, {"url": "pod_1", "problem": None}]


def test_the_rates_are_those_of_prometheus_over_the_window(prometheus: PrometheusStandIn) -> None:
    shown = document(prometheus.address, "--window", "90s")
    assert [(row["model"], row["spans_per_s"], row["usd_per_hour"]) for row in shown["rows"]] == [
        ("dear", pytest.approx(3 / 60), pytest.approx(1.5 / 60 * 3600)),
        ("cheap", pytest.approx(1 / 60), pytest.approx(0.5 / 60 * 3600)),
    ]
    assert shown["total"]["tokens_per_s"] == pytest.approx(4 * 120 / 60)
    rates = [query for query, _, _ in prometheus.asked if "rate(" in query]
    assert len(rates) == 3
    assert all("[90000ms]" in query for query in rates)


def test_all_queries_are_of_one_moment(prometheus: PrometheusStandIn) -> None:
    document(prometheus.address)
    (first, *others) = prometheus.asked
    assert first[:2] == (BUILD, None)
    assert {at_s for _, at_s, _ in others} == {f"{NOW_S:.3f}"}


def test_a_selector_is_in_every_query(prometheus: PrometheusStandIn) -> None:
    document(prometheus.address, "--selector", SELECTOR)
    for query, _, _ in prometheus.asked:
        assert query.count(f"{{{SELECTOR}}}") == 1, query


def test_the_table_counts_the_replicas_and_names_those_that_are_down(prometheus: PrometheusStandIn) -> None:
    prometheus.down = ["pod_2"]
    done = once(prometheus.address)
    assert done.exit_code == 0, done.exception
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert [line.split()[:3] for line in lines if line.startswith(("dear", "cheap"))] == [
        ["dear", "lab", "3"],
        ["cheap", "lab", "1"],
    ]
    assert lines[-2] == "2 replicas · 0 records behind (0.0 s) · 0 rejected · 0 unpriced · 3 groups"
    assert lines[-1] == "pod_2: Prometheus cannot scrape it"


def test_rows_may_be_made_by_a_label_of_the_targets(prometheus: PrometheusStandIn) -> None:
    assert [(row["namespace"], row["spans"]) for row in document(prometheus.url, "--by", "namespace")["rows"]] == [
        ("llm", 4.0)
    ]


@pytest.mark.parametrize(
    ("environment", "sent"),
    [
        ({"TOKENTRACE_AUTH_TOKEN": "of-the-replicas"}, None),
        ({"TOKENTRACE_PROMETHEUS_TOKEN": "s3cret"}, "Bearer s3cret"),
        (
            {"TOKENTRACE_PROMETHEUS_USER": "jo", "TOKENTRACE_PROMETHEUS_PASSWORD": "p:w"},
            f"Basic {b64encode(b'jo:p:w').decode()}",
        ),
    ],
)
def test_credentials_are_those_of_the_environment(
    prometheus: PrometheusStandIn, environment: dict[str, str], sent: str | None
) -> None:
    assert once(prometheus.address, **environment).exit_code == 0
    assert {authorization for _, _, authorization in prometheus.asked} == {sent}


@pytest.mark.parametrize(
    ("status", "body", "location", "problem"),
    [
        (401, b"", "", "HTTP 401; set TOKENTRACE_PROMETHEUS_TOKEN, or TOKENTRACE_PROMETHEUS_USER and "),
        (404, b"", "", "HTTP 404; give the address of its own page, with its prefix"),
        (302, b"", "/login", "HTTP 302 to /login; give that URL, if it is the Prometheus'"),
        (422, b'{"status": "error", "error": "too many samples"}', "", "HTTP 422: too many samples"),
        (503, b"<html>", "", "HTTP 503"),
        (200, b"<html>", "", "its answer is not of Prometheus's API"),
        (200, b"[]", "", "its answer is not of Prometheus's API"),
        (200, b'{"data": {"result": [{}]}}', "", "its answer is not of Prometheus's API"),
        (200, b'{"data": {"result": []}}', "", f"it has no series {BUILD}; does it scrape the replicas?"),
    ],
)
def test_a_prometheus_that_does_not_answer_is_a_clear_error(
    prometheus: PrometheusStandIn, status: int, body: bytes, location: str, problem: str
) -> None:
    prometheus.otherwise = (status, body, location)
    done = once(prometheus.address)
    assert isinstance(done.exception, FatalError)
    assert str(done.exception).startswith(f"Prometheus at {prometheus.url}: {problem}")
    assert len(prometheus.asked) == 1, "no redirect is followed"


@pytest.mark.parametrize(
    ("arguments", "environment", "problem"),
    [
        ([], {}, "the URL of one or more replicas, or --prometheus URL"),
        (["host:1", "--prometheus", "host:2"], {}, "the URL of one or more replicas, or --prometheus URL"),
        (["--prometheus", "jo:pw@host"], {}, "no password in its URL"),
        (["--prometheus", "ftp://host"], {}, "'ftp://host' is not the URL of a Prometheus"),
        (["--prometheus", "http://host/graph?q=1"], {}, "is not the URL of a Prometheus"),
        (["--prometheus", "host"], {"TOKENTRACE_PROMETHEUS_USER": "jo"}, "belong together"),
        (
            ["--prometheus", "host"],
            {"TOKENTRACE_PROMETHEUS_USER": "jo", "TOKENTRACE_PROMETHEUS_TOKEN": "t"},
            "both set",
        ),
    ],
)
def test_wrong_arguments_are_said(arguments: list[str], environment: dict[str, str], problem: str) -> None:
    done = CliRunner().invoke(app, ["top", *arguments, "--once"], env=environment)
    assert isinstance(done.exception, UsageError)
    assert problem in str(done.exception)
