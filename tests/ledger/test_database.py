"""The ledger's tables, and what is said about databases that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from tests.ledger.helpers import fill_first_tables, sqlite_url, what_is_kept
from tokentrace.errors import FatalError, UsageError
from tokentrace.ledger.database import Database
from tokentrace.ledger.tables import HOUR_SUMS, METADATA, UNIT_SUMS
from tokentrace.model.measures import UNIT_OF


def test_migrations_leave_the_tables_that_the_code_uses(tmp_path: Path) -> None:
    database = Database(sqlite_url(tmp_path))
    for _ in range(2):
        database.migrate()
    database.require_current()
    with database.begin() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "ledger_version"})
        assert compare_metadata(context, METADATA) == []


def test_the_ledger_has_every_unit() -> None:
    assert set(UNIT_OF) <= {*HOUR_SUMS, *UNIT_SUMS}


def test_a_sum_beyond_64_bits_is_refused(tmp_path: Path) -> None:
    database = Database(sqlite_url(tmp_path))
    database.migrate()
    insert = "INSERT INTO ledger_correction_cells VALUES (1, 1, 1, 1, 1, 0, 60, 9223372036854775807)"
    with database.begin() as connection:
        connection.exec_driver_sql(insert)
    with pytest.raises(FatalError), database.begin() as connection:
        connection.exec_driver_sql("UPDATE ledger_correction_cells SET cost_nano_usd = cost_nano_usd + 10")


def test_a_ledger_of_the_first_tables_is_one_of_whole_hours(tmp_path: Path) -> None:
    database = Database(sqlite_url(tmp_path))
    before = fill_first_tables(database, "CREATE VIEW mine AS SELECT hour, spans FROM ledger_hours")
    for _ in range(2):
        database.migrate()
    assert what_is_kept(database) == before
    with database.begin() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "ledger_version"})
        assert compare_metadata(context, METADATA) == []
        assert connection.exec_driver_sql("SELECT sum(spans) FROM mine").scalar() == 40


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("ledger.db", "not a URL of a database"),
        ("mysql://localhost/x", "a database of kind 'mysql'"),
    ],
)
def test_other_databases_are_refused(url: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        Database(url)


def test_a_folder_that_is_missing_is_not_made(tmp_path: Path) -> None:
    """It may be a volume that is not mounted: its ledger would seem to be empty."""
    with pytest.raises(FatalError, match=r"ledger.url: the folder .*/volume does not exist\."):
        Database(sqlite_url(tmp_path / "volume")).migrate()
    assert not (tmp_path / "volume").exists()


def test_a_ledger_that_is_missing_or_of_another_release_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There is no ledger in sqlite:.*; `tokentrace ledger run` makes one"):
        Database(sqlite_url(tmp_path)).require_current()
    database = Database(sqlite_url(tmp_path))
    database.migrate()
    with sa.create_engine(sqlite_url(tmp_path)).begin() as connection:
        connection.exec_driver_sql("UPDATE ledger_version SET version_num = '9999'")
    with pytest.raises(UsageError, match="A later release"):
        database.require_current()
    with pytest.raises(FatalError, match="A later release"):
        database.migrate()
