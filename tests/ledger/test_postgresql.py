"""The ledger in PostgreSQL: the same as in SQLite, over crashes of the server."""

from __future__ import annotations

import io
import os
import re
import socket
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from tests.harness import LAYOUT
from tests.ledger.helpers import (
    DAY_US,
    RollupTopic,
    fill_first_tables,
    follower,
    postgresql_hours,
    recount,
    sqlite_hours,
    sqlite_url,
    what_is_kept,
)
from tests.ledger.test_follow import traffic
from tests.ledger.test_proof import replica
from tests.ledger.test_reprice import prices
from tests.services import ROOT
from tests.services.postgresql import PostgreSql
from tests.spanfactory import NOW_US, span
from tokentrace.errors import FatalError, UsageError
from tokentrace.kafka.single_partition import PartitionRecord
from tokentrace.ledger import follow
from tokentrace.ledger.corrections import correction_of, enter
from tokentrace.ledger.database import Database
from tokentrace.ledger.focus import write_focus
from tokentrace.ledger.parts import Parts
from tokentrace.ledger.period import between
from tokentrace.ledger.period_cells import cells_in
from tokentrace.ledger.proof import ledger_sums, prove
from tokentrace.ledger.query import Billing
from tokentrace.ledger.recent import recent_bills
from tokentrace.ledger.reprice import Repricing
from tokentrace.ledger.tables import METADATA
from tokentrace.pricing import Pricer

PERIOD = between("2026-09-10", "2026-09-30", ZoneInfo("UTC"))


@pytest.fixture
def topic() -> RollupTopic:
    return RollupTopic()


def test_postgresql_has_what_sqlite_has(topic: RollupTopic, postgresql: PostgreSql, tmp_path: Path) -> None:
    spans: list[dict[str, Any]] = []
    for at_us, batch in traffic("postgresql", 10, 60):
        topic.commit(batch, at_us)
        spans += batch
    parts = Parts(["Asia/Kolkata", "Asia/Kathmandu"])
    for url in (postgresql.url, sqlite_url(tmp_path)):
        follower(topic, url, parts=parts).run(until_end=True)
    expected = recount(spans, zones=["Asia/Kolkata", "Asia/Kathmandu"])
    assert postgresql_hours(postgresql.url, parts=True) == sqlite_hours(tmp_path, parts=True) == expected
    days = [
        Billing(Database(url)).bill(between("2026-09-20", "2026-09-22", ZoneInfo(zone)), ["day", "model"])
        for zone in ("Asia/Kolkata", "Asia/Kathmandu")
        for url in (postgresql.url, sqlite_url(tmp_path))
    ]
    assert days[0] == days[1] != days[2] == days[3]
    by = ["caller", "source", "day", "booked"]
    bills = [Billing(Database(url)).bill(PERIOD, by, units=True) for url in (postgresql.url, sqlite_url(tmp_path))]
    assert bills[0] == bills[1]
    recent = [recent_bills(url, ["model", "team"], NOW_US / 1e6) for url in (postgresql.url, sqlite_url(tmp_path))]
    assert recent[0] == recent[1]
    assert sum(int(month["cost_nano_usd"]) for month in recent[0]["months"]) == bills[0].total["cost_nano_usd"] > 0
    repriced = []
    for url in (postgresql.url, sqlite_url(tmp_path)):
        now, then = Pricer({}), prices(tmp_path, "pricing: {discounts: [{provider: openai, percent: 10}]}")
        correction = correction_of((cell for _, cell in cells_in(Database(url), PERIOD)), Repricing(now, then))
        enter(Database(url), correction, PERIOD, "contract", "prices.yml", NOW_US + DAY_US)
        bill, dataset = Billing(Database(url)).bill(PERIOD, by, units=True), io.StringIO()
        write_focus((cell for _, cell in cells_in(Database(url), PERIOD)), PERIOD, "team", dataset)
        repriced.append((correction.cost_nano_usd, bill, sorted(dataset.getvalue().splitlines())))
    assert repriced[0] == repriced[1]
    assert repriced[0][1].corrections < 0
    database = Database(postgresql.url)
    totals = replica("r", spans, round(topic.records[-1].written_s * 1e6))
    assert prove(database, topic, LAYOUT, [totals], ledger_sums(database)).agrees


def test_a_server_that_crashes_and_comes_back_loses_nothing(
    topic: RollupTopic, postgresql: PostgreSql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "_POLL", 1)
    spans: list[dict[str, Any]] = []
    for at_us, batch in traffic("crash", 60, 10):
        topic.commit(batch, at_us)
        spans += batch
    polled, waits, poll = 0, 0, topic.poll

    def crashing_poll(max_records: int, timeout_s: float) -> list[PartitionRecord]:
        nonlocal polled
        polled += 1
        if polled in (10, 35):
            postgresql.kill()
        return poll(max_records, timeout_s)

    def waiting(timeout_s: float) -> bool:
        """Start the server while the ledger waits for the second time."""
        nonlocal waits
        waits += 1
        if waits % 2 == 0:
            postgresql.start()
        return False

    subject = follower(topic, postgresql.url, batch_rows=1)
    monkeypatch.setattr(topic, "poll", crashing_poll)
    monkeypatch.setattr(subject._stop, "wait", waiting)
    subject.run(until_end=True)
    assert waits == 4
    assert postgresql_hours(postgresql.url) == recount(spans)


def test_two_ledgers_on_one_postgresql_are_refused(topic: RollupTopic, postgresql: PostgreSql) -> None:
    first = follower(topic, postgresql.url)
    position = first._start()
    topic.commit([span()], NOW_US)
    follower(topic, postgresql.url).run(until_end=True)
    with pytest.raises(FatalError, match="Another process has written to this ledger"):
        first._follow(position, until_end=True)
    assert postgresql_hours(postgresql.url) == recount([span()])


@pytest.mark.parametrize(("query", "idle_s"), [("", 30), ("?keepalives_idle=7", 7)])
def test_a_server_that_is_gone_without_a_word_is_given_up_in_a_minute(
    postgresql: PostgreSql, query: str, idle_s: int
) -> None:
    database = Database(postgresql.url + query)
    with database.begin() as connection:
        server = connection.connection.dbapi_connection
        assert isinstance(server, psycopg.Connection)
        with socket.socket(fileno=os.dup(server.fileno())) as line:
            level = socket.IPPROTO_TCP
            names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
            found = [line.getsockopt(level, name) for name in names]
            assert line.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    database.close()
    assert found == [idle_s, 10, 3, 60_000]


def test_migrations_leave_the_tables_that_the_code_uses(postgresql: PostgreSql) -> None:
    database = Database(postgresql.url)
    database.migrate()
    with database.begin() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "ledger_version"})
        assert compare_metadata(context, METADATA) == []


def test_a_ledger_of_the_first_tables_keeps_its_rows_views_and_rights(postgresql: PostgreSql) -> None:
    database = Database(postgresql.url)
    before = fill_first_tables(
        database,
        "CREATE VIEW mine AS SELECT time, spans FROM ledger_costs",
        "CREATE ROLE migration_reader",
        "GRANT USAGE ON SCHEMA public TO migration_reader",
        "GRANT SELECT ON ledger_hours, ledger_costs, mine TO migration_reader",
    )
    for _ in range(2):
        database.migrate()
    assert what_is_kept(database) == before
    with database.begin() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "ledger_version"})
        assert compare_metadata(context, METADATA) == []
        connection.exec_driver_sql("SET LOCAL ROLE migration_reader")
        for name in ("ledger_hours", "ledger_costs", "mine"):
            assert connection.exec_driver_sql(f"SELECT sum(spans) FROM {name}").scalar() == 40
    with database.begin() as connection:
        connection.exec_driver_sql("DROP OWNED BY migration_reader")
        connection.exec_driver_sql("DROP ROLE migration_reader")
        connection.exec_driver_sql("DROP VIEW mine")


def test_labels_with_any_character_are_stored(topic: RollupTopic, postgresql: PostgreSql) -> None:
    callers = ["a\0b", "a\ufffdb", "quote ' \" \\", "naïve 🦊"]
    topic.commit([span(caller=caller) for caller in callers], NOW_US)
    follower(topic, postgresql.url).run(until_end=True)
    with psycopg.connect(postgresql.url) as connection:
        found = connection.execute("SELECT caller, spans FROM ledger_costs").fetchall()
    assert sorted(found) == sorted((caller.replace("\0", "\ufffd"), 1) for caller in callers)


def test_a_reader_makes_bills_with_the_documented_rights_and_no_more(
    topic: RollupTopic, postgresql: PostgreSql
) -> None:
    topic.commit([span()], NOW_US)
    follower(topic, postgresql.url).run(until_end=True)
    owner, reader = (Database(url) for url in (postgresql.url, postgresql.url.replace("ledger@", "ledger_reader@")))
    text = (ROOT / "docs" / "billing.md").read_text()
    (rights,) = re.findall(r"```sql\n(CREATE ROLE ledger_reader.*?)```", text, re.DOTALL)
    role, usage, *grants = rights.strip().split(";\n")
    with owner.begin() as connection:
        for statement in (role, usage):
            connection.exec_driver_sql(statement)
    try:
        with pytest.raises(FatalError, match=r"permission denied .*; `tokentrace ledger` takes the owner"):
            reader.require_current()
        with owner.begin() as connection:
            for grant in grants:
                connection.exec_driver_sql(grant)
        reader.require_current()
        for database in (reader, owner):
            bill = Billing(database).bill(PERIOD, ["model"])
            assert bill.total["spans"] == 1
        with pytest.raises(FatalError, match="permission denied"), reader.begin() as connection:
            connection.exec_driver_sql("DELETE FROM ledger_hours")
    finally:
        reader.close()
        with owner.begin() as connection:
            connection.exec_driver_sql("DROP OWNED BY ledger_reader")
            connection.exec_driver_sql("DROP ROLE ledger_reader")


def test_a_missing_ledger_is_named_without_its_password_and_driver(postgresql: PostgreSql) -> None:
    database = Database(postgresql.url.replace("ledger@", "ledger:secret@"))
    with database.begin() as connection:
        for statement in ("DROP SCHEMA public CASCADE", "CREATE SCHEMA public"):
            connection.exec_driver_sql(statement)
    with pytest.raises(UsageError, match=r"There is no ledger in postgresql://ledger:\*+@127\.0\.0\.1"):
        database.require_current()
    database.close()
