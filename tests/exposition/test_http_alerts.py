"""The HTTP server's answers under /alerts."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness import Harness
from tokentrace.errors import FatalError
from tokentrace.exposition import HealthReport, HttpServer, HttpSettings, Renderer, Token, Tokens

TOKEN = {"Authorization": "Bearer s3cret"}


class FakeAlerts:
    """One alert, and a Kafka that may be away."""

    def __init__(self) -> None:
        self.kafka_answers = True
        self.silenced: list[tuple[str, float]] = []

    def describe(self) -> dict[str, Any]:
        self._check()
        return {"alerts": ["spend/eu"]}

    def silence(self, name: str, duration_s: float) -> dict[str, Any]:
        self._check()
        if name != "spend/eu":
            raise KeyError(name)
        self.silenced.append((name, duration_s))
        return {"silenced": name}

    def _check(self) -> None:
        if not self.kafka_answers:
            raise FatalError("No Kafka broker answers.")


class Served:
    def __init__(self, alerts: FakeAlerts | None, tokens: Tokens | None = None) -> None:
        renderer, snapshot = Renderer({}), Harness().ledger.snapshot
        self.server = HttpServer(
            HttpSettings(host="127.0.0.1", port=0, tokens=tokens or Tokens(admin=Token("s3cret"))),
            render=lambda form, by_prometheus: renderer.scrape(lambda: snapshot, form, by_prometheus),
            health=lambda: HealthReport(live=True, ready=True),
            alerts=alerts,
        )
        self.server.start()

    def request(self, method: str, path: str, body: str | None = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        try:
            connection.request(method, path, body, TOKEN)
            response = connection.getresponse()
            text = response.read().decode()
            is_json = response.getheader("content-type") == "application/json"
            return response.status, json.loads(text) if is_json else text
        finally:
            connection.close()


@pytest.fixture
def alerts() -> FakeAlerts:
    return FakeAlerts()


@pytest.fixture
def served(alerts: FakeAlerts) -> Iterator[Served]:
    running = Served(alerts)
    yield running
    running.server.stop()


def test_alerts_are_described(served: Served) -> None:
    assert served.request("GET", "/alerts") == (200, {"alerts": ["spend/eu"]})
    assert 'href="/alerts"' in served.request("GET", "/")[1]


@pytest.mark.parametrize(
    ("query", "body"), [("?duration=1h", None), ("", '{"duration": "1h"}'), ("?duration=1h", '{"duration": "2h"}')]
)
def test_silence_takes_its_duration_from_the_query_or_the_body(
    served: Served, alerts: FakeAlerts, query: str, body: str | None
) -> None:
    assert served.request("POST", f"/alerts/spend/eu/silence{query}", body) == (200, {"silenced": "spend/eu"})
    assert alerts.silenced == [("spend/eu", 3600.0)]


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("spend/eu/silence", None, 400, 'duration: missing duration; pass ?duration=1h or the body {"duration": "1h"}'),
        ("spend/eu/silence", "[]", 400, 'duration: missing duration; pass ?duration=1h or the body {"duration": "1h"}'),
        ("spend/eu/silence?duration=31d", None, 400, "duration: must be at most 30d"),
        ("spend/eu/silence?duration=soon", None, 400, "duration: "),
        ("spend/eu/silence?duration=0s", None, 400, "duration: "),
        ("other/silence?duration=1h", None, 404, "no alert is named 'other'; GET /alerts lists them"),
    ],
)
def test_silence_rejects(
    served: Served, alerts: FakeAlerts, path: str, body: str | None, status: int, error: str
) -> None:
    found, answer = served.request("POST", f"/alerts/{path}", body)
    assert (found, answer["error"].startswith(error)) == (status, True), answer
    assert alerts.silenced == []


def test_silence_answers_to_post_only(served: Served) -> None:
    assert served.request("GET", "/alerts/spend/eu/silence?duration=1h")[0] == 405


@pytest.mark.parametrize(
    "tokens", [Tokens(), Tokens(Token("s3cret")), Tokens(Token("s3cret"), Token("other"))], ids=["none", "read", "both"]
)
def test_a_token_that_reads_silences_nothing(alerts: FakeAlerts, tokens: Tokens) -> None:
    served = Served(alerts, tokens)
    try:
        assert served.request("GET", "/alerts")[0] == 200
        status, answer = served.request("POST", "/alerts/spend/eu/silence?duration=1h")
        assert (status, "http_server.admin_token" in answer["error"]) == (403, True)
        assert alerts.silenced == []
    finally:
        served.server.stop()


def test_alerts_answer_503_while_kafka_does_not(served: Served, alerts: FakeAlerts) -> None:
    alerts.kafka_answers = False
    expected = (503, {"error": "No Kafka broker answers."})
    assert served.request("GET", "/alerts") == expected
    assert served.request("POST", "/alerts/spend/eu/silence?duration=1h") == expected


def test_without_rules_there_is_no_alerts_path() -> None:
    served = Served(None)
    try:
        assert served.request("GET", "/alerts")[0] == 404
        assert "/alerts" not in served.request("GET", "/")[1]
    finally:
        served.server.stop()
