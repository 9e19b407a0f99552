"""The ledger's database: SQLite or PostgreSQL, its migrations, and what its errors mean."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError

from tokentrace.errors import FatalError, TokentraceError, UsageError
from tokentrace.model.secrets import hide_secrets

log = logging.getLogger(__name__)

#: Longest wait for a lock that another process has, seconds.
_LOCK_TIMEOUT_S: Final = 30
#: Parameters of libpq, unless the URL has others: a server whose machine is gone, and which so never says that it ends,
#: is given up after a minute instead of a quarter of an hour.
_POSTGRESQL_WAITS: Final = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
#: Two processes that migrate one after the other; any number that nothing else uses.
_MIGRATION_LOCK: Final = 7_203_114_520
#: SQLSTATE of a statement that the user may not run.
_NO_RIGHTS: Final = "42501"
_RIGHTS: Final = (
    "`tokentrace ledger` takes the owner of the database, and a bill a user that may read all tables of the ledger "
    "(docs/billing.md)."
)
_FORMS: Final = "sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"


class DatabaseUnavailable(TokentraceError):
    """The database does not answer, or not in time. It may later."""


class Database:
    """One database. Every method raises DatabaseUnavailable while it does not answer."""

    def __init__(self, url: str) -> None:
        """Raises UsageError for a URL that is not one of SQLite or PostgreSQL."""
        try:
            parsed = sa.make_url(url)
        except sa.exc.ArgumentError:
            raise UsageError(f"ledger.url is not a URL of a database; write {_FORMS}.") from None
        self.dialect = parsed.get_backend_name()
        if self.dialect not in ("sqlite", "postgresql"):
            raise UsageError(f"ledger.url names a database of kind {self.dialect!r}; write {_FORMS}.")
        self._file = Path(parsed.database) if self.dialect == "sqlite" and parsed.database else None
        if self.dialect == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        self.name = parsed.set(drivername=self.dialect).render_as_string(hide_password=True)
        wait = {"timeout": _LOCK_TIMEOUT_S} if self.dialect == "sqlite" else _POSTGRESQL_WAITS
        wait = {name: value for name, value in wait.items() if name not in parsed.query}
        try:
            self._engine = sa.create_engine(parsed, connect_args=wait, pool_pre_ping=True)
        except ImportError as error:
            raise UsageError(
                f"The driver of PostgreSQL is missing ({error}): pip install 'tokentrace[ledger]'"
            ) from None
        if self.dialect == "sqlite":
            sa.event.listen(self._engine, "connect", _set_up_sqlite)
            sa.event.listen(self._engine, "begin", _begin_sqlite)

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """Run a transaction: it commits at the end, and rolls back on any error.

        Raises FatalError for what another try would not change.
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except (sa.exc.OperationalError, sa.exc.InterfaceError) as error:
            raise DatabaseUnavailable(f"The ledger's database does not answer: {_reason(error)}.") from error
        except sa.exc.DBAPIError as error:
            if error.connection_invalidated:
                raise DatabaseUnavailable(
                    f"The connection to the ledger's database broke: {_reason(error)}."
                ) from error
            rights = f"; {_RIGHTS}" if getattr(error.orig, "sqlstate", "") == _NO_RIGHTS else "."
            raise FatalError(f"The ledger's database refuses a statement: {_reason(error)}{rights}") from error

    @contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """Run a transaction all of whose statements read the ledger of one moment."""
        with self.begin() as connection:
            if self.dialect == "postgresql":
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            yield connection

    def migrate(self) -> None:
        """Bring the tables to this release. Raises FatalError where a later release has changed them."""
        if self._file is not None and not self._file.parent.is_dir():
            # A volume that is not mounted, perhaps: a new ledger beside the old one would hide that.
            raise FatalError(f"ledger.url: the folder {self._file.parent} does not exist.")
        try:
            with self.begin() as connection:
                if self.dialect == "postgresql":
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
                config = _alembic()
                found, head = _revision(connection), ScriptDirectory.from_config(config).get_current_head()
                if found not in (None, head):
                    log.warning("Changing the ledger's tables to those of this release: a large ledger takes minutes.")
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                if found not in (None, head):
                    log.warning("The ledger's tables are those of this release.")
        except CommandError as error:
            raise FatalError(_LATER) from error

    def require_current(self) -> None:
        """Raises UsageError without a ledger, or with one of another release."""
        missing = f"There is no ledger in {self.name}; `tokentrace ledger run` makes one."
        if self._file is not None and not self._file.exists():
            raise UsageError(missing)
        with self.begin() as connection:
            found = _revision(connection)
        if found is None:
            raise UsageError(missing)
        script = ScriptDirectory.from_config(_alembic())
        if found != script.get_current_head():
            known = {revision.revision for revision in script.walk_revisions()}
            raise UsageError(_EARLIER if found in known else _LATER)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


_LATER: Final = "A later release of tokentrace has changed the ledger's tables. Run at least that release."
_EARLIER: Final = (
    "The ledger's tables are those of an earlier release; `tokentrace ledger run` of this one changes them."
)


def _revision(connection: sa.Connection) -> str | None:
    """Return the revision of the tables, None where there are none."""
    context = MigrationContext.configure(connection, opts={"version_table": "ledger_version"})
    return context.get_current_revision()


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _set_up_sqlite(connection: Any, _: object) -> None:
    """Let readers read while the ledger writes, and leave the beginning of transactions to `_begin_sqlite`."""
    connection.isolation_level = None
    # A crash of the machine may take the last transactions, position included: their rollups are read again.
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=OFF"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _reason(error: sa.exc.DBAPIError) -> str:
    return hide_secrets(" ".join(str(error.orig).split())).rstrip(".")
