"""`tokentrace alerts`, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fastavro
import pytest

from tests.alerts.helpers import FIRST
from tests.cli.test_main import run
from tests.spanfactory import span
from tokentrace.alerts import status
from tokentrace.decode.schemas.files import bundled_schema
from tokentrace.kafka.reader import TopicReader

RULES = """
alerts:
  - {name: spend, metric: total_cost, op: gt, threshold: 1.0, window: 5m}
  - {name: errors, metric: error_rate, op: gte, threshold: 0.5, window: 1m, group_by: [caller], min_spans: 2}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Rules, and spans of three minutes: 0.6 USD in each of the first two, errors of one caller in the third."""
    (tmp_path / "tokentrace.yml").write_text(RULES)
    spans: list[dict[str, Any]] = []
    for minute, count, fields in (
        (0, 2, {"caller": "a"}),
        (1, 2, {"caller": "a"}),
        (2, 2, {"caller": "b", "status": "error"}),
        (2, 1, {"caller": "c", "status": "error"}),
    ):
        ended_us = (FIRST + minute) * 60_000_000 + 1
        spans += [span(cost_usd=0.3, started_at=ended_us - 1, ended_at=ended_us, **fields) for _ in range(count)]
    with (tmp_path / "spans.avro").open("wb") as stream:
        fastavro.writer(stream, bundled_schema("span"), spans)
    return tmp_path


def moment(minute: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp((FIRST + minute) * 60, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_history_says_what_would_have_fired(folder: Path) -> None:
    done = run("alerts", "test", "--from", "spans.avro", folder=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{moment(2)}  firing  spend  total_cost = 1.2 (gt 1 over 5m), 4 spans",
        f"{moment(3)}  firing  errors caller=b  error_rate = 1 (gte 0.5 over 1m), 2 spans",
        "2 firings of 2 rules over 7 spans.",
    ]


def test_alerts_test_prints_payloads_as_json(folder: Path) -> None:
    done = run("alerts", "test", "--from", "spans.avro", "--json", "--resolved", folder=folder)
    payloads = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(payload["alert"], payload["status"]) for payload in payloads][:2] == [
        ("spend", "firing"),
        ("errors", "firing"),
    ]
    assert payloads[0] == {
        "alert": "spend", "status": "firing", "severity": "warning", "fired_at": moment(2), "metric": "total_cost",
        "op": "gt", "value": 1.2, "threshold": 1.0, "window": "5m", "span_count": 4, "filter": {}, "group": {},
        "rule_id": payloads[0]["rule_id"], "id": payloads[0]["id"],
    }  # fmt: skip
    assert payloads[1]["group"] == {"caller": "b"}
    assert done.stderr == "2 firings of 2 rules over 7 spans.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "none.avro"], "tokentrace: File not found: none.avro. Set --from to an Avro file or a topic."),
        (["--from", "tokentrace.yml"], "tokentrace: tokentrace.yml is not an Avro object container file of spans ("),
        (["--from", "cut.avro"], "tokentrace: cut.avro is damaged ("),
        (["--from", "spans.avro", "--rules", "empty.yml"], "tokentrace: alerts: empty.yml has no rules"),
    ],
)
def test_mistakes_are_told_in_one_line(folder: Path, arguments: list[str], message: str) -> None:
    (folder / "empty.yml").write_text("{}")
    (folder / "cut.avro").write_bytes((folder / "spans.avro").read_bytes()[:-30])
    done = run("alerts", "test", *arguments, folder=folder)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1


def test_rules_that_are_not_there_do_not_stand_anywhere(folder: Path) -> None:
    (folder / "empty.yml").write_text("{}")
    done = run("alerts", "list", "--config", "empty.yml", folder=folder)
    assert (done.returncode, done.stderr) == (
        2,
        "tokentrace: alerts: empty.yml has no rules; add some, such as those in its comments (docs/alerts.md)\n",
    )


STATUS = {
    "evaluator": "pod-1",
    "evaluated_until": None,
    "alerts": [
        {
            "name": "spend", "state": "firing", "metric": "total_cost", "value": 1.25, "op": "gt", "threshold": 1.0,
            "window": "5m", "firings": 3, "last_fired_at": "2026-01-01T00:00:00Z", "silenced_until": None,
            "instances": [{"group": {"model": "m", "caller": "c"}, "fired_at": "2026-01-01T00:00:00Z"}],
        },
        {
            "name": "errors", "state": "ok", "metric": "error_rate", "value": None, "op": "gte", "threshold": 0.5,
            "window": "1m", "firings": 0, "last_fired_at": None, "silenced_until": "2026-01-02T00:00:00Z",
            "instances": [],
        },
    ],
}  # fmt: skip


class FakeStatus:
    """Alert status without a broker."""

    def __init__(self, **_: Any) -> None:
        pass

    def describe(self) -> dict[str, Any]:
        return STATUS


def test_alerts_list_prints_the_state_of_every_rule(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "AlertStatus", FakeStatus)
    monkeypatch.setattr(TopicReader, "exists", lambda _: True)
    assert run("alerts", "list", folder=folder).stdout.splitlines() == [
        "firing  spend  total_cost = 1.25 (gt 1 over 5m); 3 firings, the last at 2026-01-01T00:00:00Z",
        "        model=m caller=c: firing since 2026-01-01T00:00:00Z",
        "ok      errors  error_rate = no value (gte 0.5 over 1m); never fired; silenced until 2026-01-02T00:00:00Z",
        "Evaluated by pod-1, up to no time yet.",
    ]
    assert json.loads(run("alerts", "list", "--json", folder=folder).stdout) == STATUS
