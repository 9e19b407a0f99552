"""The ledger behind real workers on a real Kafka, both of which are killed."""

from __future__ import annotations

import csv
import io
import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest

from tests.budgets.oracle import nano, place_of, sums_of
from tests.chaos.crashing_ledger import POINTS
from tests.integration.test_deduplicate import audited
from tests.integration.test_group import counted, produce
from tests.integration.test_state import sections, tokentrace
from tests.ledger.helpers import DAY_US, postgresql_hours, recount, sqlite_hours
from tests.ledger.inputs import inputs_of, produce_rejected, recount_inputs
from tests.oracle import cost_of
from tests.services import end, free_port
from tests.services.kafka import KafkaBroker
from tests.services.postgresql import PostgreSql
from tests.services.workers import WorkerProcess, wait_for
from tests.spanfactory import random_span

Start = Callable[..., WorkerProcess]
SECOND_US = 1_000_000


#: Zones whose days do not begin on whole hours of UTC; the first is that of a budget.
ZONES = ("Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe")
BUDGETS = [{"name": "month", "amount": 1_000_000, "time_zone": ZONES[0], "group_by": ["caller"], "keep": "90d"}]


def traffic(rng: random.Random, spans: int, days: int) -> Iterator[dict[str, Any]]:
    """Spans of the last days, late ones among those of now, and some of both sides of midnights."""
    now_us = int(time.time() * 1e6)
    for _ in range(spans):
        local = datetime.fromtimestamp(now_us / 1e6, ZoneInfo(rng.choice(ZONES))) - timedelta(days=rng.randrange(days))
        midnight = local.replace(day=rng.choice([1, local.day]), hour=0, minute=0, second=0, microsecond=0)
        near_us = int(midnight.timestamp()) * SECOND_US + rng.choice([-60 * SECOND_US, -1, 0, 60 * SECOND_US - 1])
        ended_us = rng.choice([now_us - rng.randrange(60 * SECOND_US), now_us - rng.randrange(days * DAY_US), near_us])
        yield {**random_span(rng), "started_at": ended_us - SECOND_US, "ended_at": ended_us}


class LedgerProcess:
    """A running `tokentrace ledger run`. point: where it kills itself."""

    def __init__(self, config: Path, log: Path, point: str = "", count: int = 0) -> None:
        program = ["-m", "tests.chaos.crashing_ledger", point, str(count)] if point else ["-m", "tokentrace"]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, *program, "ledger", "run", "--config", str(config)],
                stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def kill(self) -> None:
        end(self.process, signal.SIGKILL)


def storm(
    kafka: KafkaBroker,
    topic: str,
    start_worker: Start,
    folder: Path,
    *,
    rounds: int,
    spans: int,
    days: int,
    postgresql: PostgreSql | None = None,
) -> None:
    """Kill the worker, the ledger and its server in turn, and compare every hour of every group with a recount."""
    port = free_port()
    ledger_section = {
        "addr": f"127.0.0.1:{port}",
        "zones": ZONES[1:],
        **({} if postgresql is None else {"url": postgresql.url}),
    }
    rng = random.Random("ledger")
    produced: list[dict[str, Any]] = []
    worker = start_worker(**sections(kafka, topic, ledger=ledger_section, budgets=BUDGETS))
    config, log = worker._config, folder / "ledger.log"
    points = sorted(POINTS)
    for turn in range(rounds):
        point = points[turn % len(points)]
        # A transaction adds hours and then units; there may be no second one.
        ledger = LedgerProcess(config, log, point, rng.randrange(1, 3) if point == "cells_added" else 1)
        if postgresql is not None and turn % 3 == 0:
            postgresql.kill()
        batch = list(traffic(rng, spans, days))
        for first in range(0, len(batch), 50):
            produce(kafka, topic, batch[first : first + 50])
            produce_rejected(kafka, topic, rng, 5)
            time.sleep(0.05)
        produced += batch
        if postgresql is not None and turn % 3 == 0:
            postgresql.start()
        assert wait_for(lambda process=ledger.process: process.poll() == -signal.SIGKILL), log.read_text()
        if turn % 2:
            end(worker.process, signal.SIGKILL)
            worker.restart()
    worker.wait_until_ready()
    assert wait_for(lambda: counted(worker) == len(produced))
    inputs = recount_inputs(kafka, topic)
    assert wait_for(lambda: audited([worker], "polled") == sum(one["records"] for one in inputs.values()))
    read = log.read_text().count("has all rollups")
    ledger = LedgerProcess(config, log)
    assert wait_for(lambda: log.read_text().count("has all rollups") > read), log.read_text()
    assert wait_for(lambda: served(port, "lag_records") == 0)
    assert (served(port, "ready"), served(port, "gaps"), served(port, "failures_total")) == (1, 0, 0)
    ledger.process.send_signal(signal.SIGTERM)
    assert ledger.process.wait(180.0) == 0, log.read_text()
    tokentrace(config, "ledger", "run", "--once")
    if postgresql is None:
        assert sqlite_hours(folder / "tokentrace-ledger.db", parts=True) == recount(produced, zones=ZONES)
    else:
        assert postgresql_hours(postgresql.url, parts=True) == recount(produced, zones=ZONES)
    proof = json.loads(tokentrace(config, "bill", "--proof", "--format", "json"))
    assert proof["agrees"]
    assert proof["adds_up"]
    assert proof["differing"] == []
    assert inputs_of(proof) == inputs
    assert sum(one["counted"] for one in inputs.values()) == len(produced)
    for name in ZONES:
        require_days_and_months(config, produced, name)
    require_budgets(config, produced)


def require_days_and_months(config: Path, produced: list[dict[str, Any]], name: str) -> None:
    """Compare bills, the FOCUS dataset and a reconciled CSV of a zone with a recount by its days."""
    costs: Counter[tuple[str, str]] = Counter()
    for span in produced:
        day = datetime.fromtimestamp(span["ended_at"] // SECOND_US, ZoneInfo(name))
        costs[f"{day:%Y-%m-%d}", span["model"]] += cost_of(span)[0]
    first, last = min(costs)[0], date.fromisoformat(max(costs)[0])
    period = ("--zone", name, "--from", first, "--to", f"{last + timedelta(days=1)}")
    bill = json.loads(tokentrace(config, "bill", *period, "--by", "day,model", "--format", "json"))
    assert {(row["day"], row["model"]): row["cost_nano_usd"] for row in bill["rows"] if row["cost_nano_usd"]} == +costs
    for month in {day[:7] for day, _ in costs}:
        bill = json.loads(tokentrace(config, "bill", "--zone", name, "--month", month, "--format", "json"))
        assert bill["total"]["cost_nano_usd"] == sum(cost for (day, _), cost in costs.items() if day[:7] == month)
    charged: Counter[tuple[str, str]] = Counter()
    for row in csv.DictReader(io.StringIO(tokentrace(config, "bill", *period, "--format", "focus"))):
        begins = datetime.fromisoformat(row["ChargePeriodStart"]).astimezone(ZoneInfo(name))
        charged[f"{begins:%Y-%m-%d}", row["x_Model"]] += int(row["x_CostNanoUsd"])
    assert +charged == +costs
    export = config.with_name("export.csv")
    rows = (f"{day},{model},{Decimal(cost).scaleb(-9):f}\n" for (day, model), cost in costs.items())
    export.write_text("day,model,cost_usd\n" + "".join(rows))
    arguments = ("--provider", "csv", "--zone", name, "--tolerance", "0", "--json", str(export))
    assert set(json.loads(tokentrace(config, "reconcile", *arguments))["counts"]) == {"matched"}


def require_budgets(config: Path, produced: list[dict[str, Any]]) -> None:
    """Compare the verdicts of months in a zone with a recount, which is the bill of these months."""
    expected = sums_of(BUDGETS, produced).spent

    def spent() -> dict[Any, int]:
        lines = tokentrace(config, "budgets", "list", "--all", "--json").splitlines()
        return {place_of(verdict): nano(verdict["spent_usd"]) for verdict in map(json.loads, lines)}

    assert wait_for(lambda: spent() == expected), (spent(), expected)
    for month in {period for _, period, _ in expected}:
        arguments = ("--zone", ZONES[0], "--month", month, "--by", "caller", "--format", "json")
        bill = json.loads(tokentrace(config, "bill", *arguments))
        assert {("month", month, (("caller", row["caller"]),)): row["cost_nano_usd"] for row in bill["rows"]} == {
            place: cost for place, cost in expected.items() if place[1] == month
        }


def test_a_ledger_and_a_worker_that_are_killed_keep_every_hour_exact(
    kafka: KafkaBroker, topic: str, start_worker: Start, tmp_path: Path
) -> None:
    storm(kafka, topic, start_worker, tmp_path, rounds=3, spans=200, days=3)
    (config,) = tmp_path.glob("*.yml")
    shown = json.loads(tokentrace(config, "state", "show", "--by", "model", "--json"))
    period = ("--from", "2026-01-01", "--to", "2031-01-01")
    bill = tokentrace(config, "bill", *period, "--format", "json", "--units")
    assert json.loads(bill)["total"]["cost_nano_usd"] == shown["totals"]["cost_nano_usd"]
    by_model: Counter[str] = Counter()
    for row in csv.DictReader(io.StringIO(tokentrace(config, "bill", *period, "--format", "focus"))):
        assert Decimal(row["BilledCost"]).scaleb(9) == int(row["x_CostNanoUsd"])
        by_model[row["x_Model"]] += int(row["x_CostNanoUsd"])
    assert by_model == {row["model"]: row["cost_nano_usd"] for row in shown["rows"]}
    assert by_model.total() == shown["totals"]["cost_nano_usd"]
    before = sqlite_rows(config)
    tokentrace(config, "ledger", "rebuild", "--yes")
    assert sqlite_rows(config) == before


def test_a_ledger_in_the_workers_goes_on_in_another_when_its_own_is_killed(
    kafka: KafkaBroker, topic: str, start_worker: Start, postgresql: PostgreSql
) -> None:
    """Kill the worker that keeps the ledger, twice."""
    rng = random.Random("in the workers")
    ledger = {"url": postgresql.url, "in_worker": True}
    workers = [start_worker(**sections(kafka, topic, name, ledger=ledger)) for name in ("one", "two")]
    keeping = "This replica keeps the ledger"
    produced: list[dict[str, Any]] = []
    for turn in range(3):
        batch = list(traffic(rng, 200, 2))
        produced += batch
        produce(kafka, topic, batch)
        assert wait_for(lambda: any(keeping in worker.log() for worker in workers))
        expected = len(produced)
        assert wait_for(lambda expected=expected: spans_in(postgresql) == expected)
        if turn < 2:
            keeper = next(worker for worker in workers if keeping in worker.log())
            end(keeper.process, signal.SIGKILL)
            keeper._log.write_text("")
            keeper.restart()
            keeper.wait_until_ready()
    assert postgresql_hours(postgresql.url) == recount(produced)
    # The one that keeps it shows that nothing is missing; the position passes the last marker when it is read.
    assert wait_for(lambda: sorted(shown(worker, "lag_records") for worker in workers) == [[], [0]])
    assert [shown(worker, "failures_total") for worker in workers] == [[0], [0]]


def shown(worker: WorkerProcess, name: str) -> list[float]:
    """Return the samples of a family of the ledger."""
    return [value for (family, _), value in worker.samples().items() if family == f"tokentrace_ledger_{name}"]


def served(port: int, name: str) -> float:
    """Return the sample of a family that `tokentrace ledger run` serves."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics/prometheus", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"tokentrace_ledger_{name} "))


def spans_in(postgresql: PostgreSql) -> int:
    with psycopg.connect(postgresql.url) as connection:
        try:
            (spans,) = connection.execute("SELECT coalesce(sum(spans), 0) FROM ledger_hours").fetchone() or (0,)
        except psycopg.errors.UndefinedTable:
            return -1
    return int(spans)


@pytest.mark.nightly
def test_a_month_of_kills_in_postgresql_keeps_every_hour_exact(
    kafka: KafkaBroker, topic: str, start_worker: Start, tmp_path: Path, postgresql: PostgreSql
) -> None:
    storm(kafka, topic, start_worker, tmp_path, rounds=18, spans=500, days=30, postgresql=postgresql)


def sqlite_rows(config: Path) -> list[Any]:
    with sqlite3.connect(config.parent / "tokentrace-ledger.db") as connection:
        return connection.execute("SELECT * FROM ledger_hours ORDER BY 1, 2, 3, 4, 5, 6, 7").fetchall()
