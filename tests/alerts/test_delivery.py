"""Delivery to a real HTTP server that behaves as badly as servers do."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from pydantic import SecretStr

from tests.alerts.helpers import rule
from tests.services.webhook import Webhook, ok, status
from tests.services.workers import wait_for
from tokentrace.alerts import delivery as module
from tokentrace.alerts.delivery import Deliverer, Outcome
from tokentrace.alerts.evaluation import AlertTransition
from tokentrace.alerts.payload import alert_record
from tokentrace.config.alerts import Delivery


@pytest.fixture
def deliverer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Deliverer]:
    for name in ("FIRST_PAUSE_S", "LONGEST_PAUSE_S", "FIRST_ROUND_PAUSE_S", "LONGEST_ROUND_PAUSE_S"):
        monkeypatch.setattr(module, name, 0.02)
    started = Deliverer()
    yield started
    started.stop()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    receiver = Webhook()
    yield receiver
    receiver.close()


def to(url: str, **fields: Any) -> Delivery:
    fields = {"type": "http", "url": url, "headers": {"Authorization": "Bearer hook-secret"}, **fields}
    return Delivery.model_validate(fields)


def record(name: str = "r", at_s: int = 60, labels: tuple[str, ...] = (), age_s: float = 0.0) -> dict[str, Any]:
    group_by = ("model",) if labels else ()
    event = AlertTransition("firing", rule(name, group_by=group_by), labels, at_s, 2.5, 7)
    return alert_record(event, "g", time.time() - age_s, silenced=False)


def outcomes(deliverer: Deliverer, last: str, timeout_s: float = 10.0) -> list[Outcome]:
    """Up to the first of this kind."""
    found: list[Outcome] = []
    while not found or found[-1].kind != last:
        found.append(deliverer.outcomes.get(timeout=timeout_s))
    return found


def test_payload_describes_the_alert(deliverer: Deliverer, webhook: Webhook) -> None:
    sent = record(labels=("gpt-4o",))
    deliverer.submit(sent, to(webhook.url))
    assert [outcome.kind for outcome in outcomes(deliverer, "delivered")] == ["delivered"]
    (path, headers, body) = webhook.received[0]
    assert path == "/hook"
    assert headers["Content-Type"] == "application/json"
    assert headers["Idempotency-Key"] == body["id"] == sent["id"]
    assert headers["Authorization"] == "Bearer hook-secret"
    assert body == {
        "alert": "r", "status": "firing", "severity": "warning", "fired_at": "1970-01-01T00:01:00Z",
        "metric": "total_cost", "op": "gt", "value": 2.5, "threshold": 1.0, "window": "5m", "span_count": 7,
        "filter": {}, "group": {"model": "gpt-4o"}, "rule_id": sent["rule_id"], "id": sent["id"],
    }  # fmt: skip


def test_delivery_retries_temporary_errors_with_the_same_key(deliverer: Deliverer, webhook: Webhook) -> None:
    webhook.answers = [status(500), status(429), status(503)]
    deliverer.submit(record(), to(webhook.url))
    assert outcomes(deliverer, "delivered") == [Outcome(record()["id"], "r", "delivered", 4)]
    assert len({headers["Idempotency-Key"] for _, headers, _ in webhook.received}) == 1


def test_delivery_starts_another_round_after_the_retries(deliverer: Deliverer, webhook: Webhook) -> None:
    webhook.answers = [status(500)] * 3
    deliverer.submit(record(), to(webhook.url, max_retries=1))
    assert [(outcome.kind, outcome.tries) for outcome in outcomes(deliverer, "delivered")] == [
        ("failed", 2),
        ("delivered", 4),
    ]


@pytest.mark.parametrize("code", [301, 302, 303, 400, 401, 404, 410])
def test_delivery_ends_the_round_at_a_permanent_error(deliverer: Deliverer, webhook: Webhook, code: int) -> None:
    webhook.answers = [status(code)]
    deliverer.submit(record(), to(webhook.url))
    assert [(outcome.kind, outcome.tries) for outcome in outcomes(deliverer, "delivered")] == [
        ("failed", 1),
        ("delivered", 2),
    ]


def test_delivery_gives_up_an_alert_older_than_max_age(deliverer: Deliverer, webhook: Webhook) -> None:
    webhook.answer = status(500)
    deliverer.submit(record(), to(webhook.url, max_age="4s"))
    assert outcomes(deliverer, "given_up")[-1].tries >= 2
    assert deliverer.pending == 0


def test_delivery_gives_an_old_alert_one_round(deliverer: Deliverer, webhook: Webhook) -> None:
    """Its evaluator may have been away; the receiver may be back."""
    deliverer.submit(record(age_s=90.0), to(webhook.url, max_age="1m"))
    assert [outcome.kind for outcome in outcomes(deliverer, "delivered")] == ["delivered"]


def test_delivery_follows_redirects_to_the_same_host_only(deliverer: Deliverer, webhook: Webhook) -> None:
    other = Webhook()
    webhook.answers = [status(307, Location="/moved")]
    deliverer.submit(record(at_s=60), to(webhook.url))
    outcomes(deliverer, "delivered")
    assert [path for path, _, _ in webhook.received] == ["/hook", "/moved"]
    webhook.answers = [status(308, Location=other.url)]
    deliverer.submit(record(at_s=120), to(webhook.url))
    assert [outcome.kind for outcome in outcomes(deliverer, "failed")] == ["failed"]
    assert other.received == []
    webhook.answers = [status(307, Location="/again")] * 9
    deliverer.submit(record("loop", at_s=180), to(webhook.url))
    assert any(outcome.rule == "loop" and outcome.kind == "failed" for outcome in outcomes(deliverer, "failed"))
    other.close()


def endless(handler: BaseHTTPRequestHandler) -> None:
    """An answer that would take ten gigabytes."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(10 << 30))
    handler.end_headers()
    for _ in range(10 << 10):
        handler.wfile.write(bytes(1 << 20))


def drip(handler: BaseHTTPRequestHandler) -> None:
    """An answer whose head never ends."""
    for _ in range(1000):
        handler.wfile.write(b"H")
        time.sleep(0.05)


def test_delivery_does_not_read_response_bodies(deliverer: Deliverer, webhook: Webhook) -> None:
    import resource

    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    webhook.answers = [endless]
    deliverer.submit(record(), to(webhook.url))
    assert [outcome.kind for outcome in outcomes(deliverer, "delivered", 20.0)] == ["delivered"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 200 << 10


@pytest.mark.parametrize("answer", [drip, lambda handler: time.sleep(20)])
def test_delivery_try_ends_at_its_timeout(
    deliverer: Deliverer, webhook: Webhook, answer: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    webhook.answers = [answer]
    deliverer.submit(record(), to(webhook.url, timeout="2s"))
    assert outcomes(deliverer, "delivered", 60.0)[-1].tries == 2


def test_delivery_to_a_dead_receiver_delays_no_other(deliverer: Deliverer, webhook: Webhook) -> None:
    dead = socket.socket()
    dead.bind(("127.0.0.1", 0))
    dead.listen(0)
    for minute in range(50):
        deliverer.submit(
            record("dead", at_s=60 * minute, labels=(f"m{minute}",)), to(f"http://127.0.0.1:{dead.getsockname()[1]}/")
        )
    deliverer.submit(record("alive"), to(webhook.url))
    assert deliverer.outcomes.get(timeout=5.0) == Outcome(record("alive")["id"], "alive", "delivered", 1)
    dead.close()


def test_delivery_keeps_the_order_of_an_instance(deliverer: Deliverer, webhook: Webhook) -> None:
    webhook.answers = [status(500), status(500), ok]
    for minute in range(1, 5):
        deliverer.submit(record(at_s=60 * minute), to(webhook.url))
    assert wait_for(lambda: deliverer.pending == 0, 10.0)
    moments = [body["fired_at"] for _, _, body in webhook.received]
    assert moments == sorted(moments)
    assert len(set(moments)) == 4


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x?token=hook-secret", "http://no-such-host.invalid/hook-secret"])
def test_delivery_logs_no_secret(deliverer: Deliverer, caplog: pytest.LogCaptureFixture, url: str) -> None:
    caplog.set_level(logging.DEBUG)
    deliverer.submit(record(), to(url, max_retries=0))
    outcomes(deliverer, "failed")
    assert "was not delivered" in caplog.text
    assert "hook-secret" not in "".join(
        record.getMessage() for record in caplog.records if record.name.startswith("tokentrace")
    )


def test_delivery_does_not_quote_an_invalid_header(
    deliverer: Deliverer, webhook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    # The configuration refuses such a header; this is one that it did not see.
    headers = {"Authorization": SecretStr("hook-secret\nX: y")}
    deliverer.submit(record(), to(webhook.url, max_retries=0).model_copy(update={"headers": headers}))
    outcomes(deliverer, "failed")
    assert "hook-secret" not in caplog.text


def test_delivery_to_stdout_is_one_json_line(deliverer: Deliverer, capfd: pytest.CaptureFixture[str]) -> None:
    deliverer.submit(record(), Delivery())
    outcomes(deliverer, "delivered")
    (line,) = capfd.readouterr().out.splitlines()
    assert json.loads(line)["id"] == record()["id"]


def test_delivery_does_not_retry_a_dropped_alert(deliverer: Deliverer, webhook: Webhook) -> None:
    webhook.answer = status(500)
    deliverer.submit(record(), to(webhook.url))
    outcomes(deliverer, "failed")
    deliverer.forget()
    seen = len(webhook.received)
    time.sleep(0.3)
    assert len(webhook.received) == seen
    assert deliverer.pending == 0
