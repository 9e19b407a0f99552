"""The endpoint of a ledger in a process of its own: metrics and health while it reads and while it waits."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from prometheus_client.parser import text_string_to_metric_families

from tests.ledger.helpers import RollupTopic, fill_first_tables, follower, sqlite_url
from tests.spanfactory import NOW_US, span
from tokentrace.config import Config
from tokentrace.exposition import HealthReport
from tokentrace.ledger.database import Database, DatabaseUnavailable
from tokentrace.ledger.store import LedgerStore
from tokentrace.runtime.ledger_service import health_of, serving_ledger
from tokentrace.runtime.service import LIVE_TURN_AGE_S


def config_of(**ledger: str) -> Config:
    kafka = {"bootstrap_servers": "x:1", "topic": "spans"}
    http = {"auth_token": "secret", "prometheus_path": "/m"}
    return Config.model_validate({"kafka": kafka, "http_server": http, "ledger": ledger})


def get(port: int, path: str, token: str = "secret") -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_metrics_and_health_follow_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = RollupTopic()
    subject = follower(topic, sqlite_url(tmp_path))
    clock = subject._stop.clock
    with serving_ledger(config_of(addr="127.0.0.1:0"), subject, clock) as server:
        assert server is not None

        def ready() -> tuple[int, str]:
            status, body = get(server.port, "/health/ready", token="")
            return status, json.loads(body)["waiting_for"]

        def metrics() -> dict[str, float]:
            status, body = get(server.port, "/m")
            assert status == 200
            samples = [s for family in text_string_to_metric_families(body) for s in family.samples]
            return {s.name.removeprefix("tokentrace_ledger_"): s.value for s in samples}

        assert ready() == (503, "the first rollups")
        assert "lag_records" not in metrics()
        topic.commit([span()], NOW_US)
        subject.run(until_end=True)
        assert ready() == (200, "")
        assert metrics()["lag_records"] == 0
        topic.commit([span()], NOW_US + 5_000_000)
        seen: list[Any] = []

        def unavailable(self: LedgerStore, *arguments: Any) -> None:
            raise DatabaseUnavailable("the database is away")

        def waiting(timeout_s: float) -> bool:
            seen.append((ready(), get(server.port, "/health")[0], metrics()))
            monkeypatch.undo()
            return False

        monkeypatch.setattr(LedgerStore, "apply", unavailable)
        monkeypatch.setattr(subject._stop, "wait", waiting)
        subject.run(until_end=True)
        ((away, live, found),) = seen
        assert (away, live) == ((503, "the database is away"), 200)
        assert (found["ready"], found["failures_total"], found["committed_timestamp_seconds"]) == (0, 1, NOW_US / 1e6)
        assert found["lag_records"] > 0
        assert ready() == (200, "")
        found = metrics()
        assert (found["ready"], found["failures_total"], found["lag_records"]) == (1, 1, 0)
        assert found["committed_timestamp_seconds"] == NOW_US / 1e6 + 5
        assert get(server.port, "/m", token="wrong")[0] == 401


def test_a_loop_that_stands_still_is_not_live(tmp_path: Path) -> None:
    subject = follower(RollupTopic(), sqlite_url(tmp_path))
    assert health_of(subject, subject.last_turn_s + LIVE_TURN_AGE_S - 1).live
    assert not health_of(subject, subject.last_turn_s + LIVE_TURN_AGE_S + 1).live


def test_a_change_of_the_tables_is_alive_however_long_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database(sqlite_url(tmp_path))
    fill_first_tables(database)
    topic = RollupTopic()
    topic.commit([span()], NOW_US)
    subject = follower(topic, sqlite_url(tmp_path))
    much_later_s = subject.last_turn_s + 100 * LIVE_TURN_AGE_S
    seen: list[HealthReport] = []
    upgrade = command.upgrade

    def slow_upgrade(*arguments: Any) -> None:
        seen.append(health_of(subject, much_later_s))
        upgrade(*arguments)

    monkeypatch.setattr(command, "upgrade", slow_upgrade)
    with caplog.at_level("WARNING"):
        subject.run(until_end=True)
    ((live, ready, detail),) = ((report.live, report.ready, report.detail) for report in seen)
    assert (live, ready, detail["waiting_for"]) == (True, False, "the tables of this release")
    assert not health_of(subject, much_later_s).live, "the loop again"
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "Changing the ledger's tables to those of this release",
        "The ledger's tables are those of this release.",
    ]


def test_without_an_address_nothing_is_served(tmp_path: Path) -> None:
    with serving_ledger(config_of(), follower(RollupTopic(), sqlite_url(tmp_path)), lambda: 0.0) as server:
        assert server is None
