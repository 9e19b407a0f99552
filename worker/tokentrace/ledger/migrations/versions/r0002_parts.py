"""Parts of hours in the keys of cells: rows that are there are whole hours. Periods of corrections in microseconds.

A migration is a record of its time: it names columns itself and imports nothing of the package.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

PART = ("from_minute", "until_minute")
#: Table -> its primary key. Cells have the part behind the source.
KEYS = {
    "ledger_hours": ("hour", "group_id", "status", "source", *PART, "booked"),
    "ledger_units": ("hour", "group_id", "status", "source", *PART, "booked", "unit"),
    "ledger_correction_cells": ("correction_id", "hour", "group_id", "status", "source", *PART),
}
WHOLE = {"from_minute": 0, "until_minute": 60}
#: Columns of corrections, before and now.
TIMES = {"from_hour": "from_us", "until_hour": "until_us"}
HOUR_US = 3_600_000_000

#: Of migration 0001, with the first minute of the part in `time`. PostgreSQL keeps its rights and what depends on it.
VIEW = """
SELECT h.hour * 3600 + h.from_minute * 60 AS time, g.model, g.provider, g.caller, g.dimensions,
  CASE h.status WHEN 0 THEN 'ok' WHEN 1 THEN 'error' ELSE 'timeout' END AS status,
  CASE h.source WHEN 0 THEN 'reported' WHEN 1 THEN 'computed' WHEN 2 THEN 'unpriced' WHEN 3 THEN 'estimated'
    ELSE 'mixed' END AS source,
  h.booked * 86400 AS booked_day, h.cost_nano_usd, h.spans, h.prompt_tokens, h.completion_tokens,
  h.cached_prompt_tokens, h.reasoning_tokens, 0 AS correction_id
FROM ledger_hours h JOIN ledger_groups g ON g.group_id = h.group_id
UNION ALL
SELECT c.hour * 3600 + c.from_minute * 60, g.model, g.provider, g.caller, g.dimensions,
  CASE c.status WHEN 0 THEN 'ok' WHEN 1 THEN 'error' ELSE 'timeout' END,
  CASE c.source WHEN 0 THEN 'reported' WHEN 1 THEN 'computed' WHEN 2 THEN 'unpriced' WHEN 3 THEN 'estimated'
    ELSE 'mixed' END,
  e.entered_at_us / 86400000000 * 86400, c.cost_nano_usd, 0, 0, 0, 0, 0, c.correction_id
FROM ledger_correction_cells c JOIN ledger_corrections e ON e.correction_id = c.correction_id
JOIN ledger_groups g ON g.group_id = c.group_id
"""


def upgrade() -> None:
    """Add the parts."""
    if op.get_bind().dialect.name == "postgresql":
        for table, key in KEYS.items():
            _extend(table, key)
        op.execute(f"CREATE OR REPLACE VIEW ledger_costs AS {VIEW}")
    else:
        # The new tables take the names of the old ones, whatever views are of these.
        op.execute("PRAGMA legacy_alter_table=ON")
        op.execute("DROP VIEW ledger_costs")
        for table, key in KEYS.items():
            _copy(table, key)
        op.execute(f"CREATE VIEW ledger_costs AS {VIEW}")
    for before, now in TIMES.items():
        op.execute(f"ALTER TABLE ledger_corrections RENAME COLUMN {before} TO {now}")
        op.execute(f"UPDATE ledger_corrections SET {now} = {now} * {HOUR_US}")
    if op.get_bind().dialect.name == "sqlite":
        op.execute("PRAGMA legacy_alter_table=OFF")


def _extend(table: str, key: tuple[str, ...]) -> None:
    """Add the columns to a table of PostgreSQL, which gives the rows that are there the default without a change."""
    for name, value in WHOLE.items():
        op.execute(f"ALTER TABLE {table} ADD COLUMN {name} SMALLINT NOT NULL DEFAULT {value}")
        op.execute(f"ALTER TABLE {table} ALTER COLUMN {name} DROP DEFAULT")
    op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey, ADD PRIMARY KEY ({', '.join(key)})")


def _copy(table: str, key: tuple[str, ...]) -> None:
    """Copy a table of SQLite, whose key cannot be changed, to one with the columns."""
    columns = [column["name"] for column in sa.inspect(op.get_bind()).get_columns(table)]
    values = [name for name in columns if name not in key]
    types = {name: sa.Text() if name == "unit" else sa.Integer() for name in (*key, *values)}
    op.create_table(
        f"{table}_new",
        *(sa.Column(name, types[name], primary_key=True, autoincrement=False) for name in key),
        *(sa.Column(name, types[name], nullable=False) for name in values),
        sqlite_with_rowid=False,
        sqlite_strict=True,
    )
    found = ", ".join(str(WHOLE[name]) if name in WHOLE else name for name in (*key, *values))
    op.execute(f"INSERT INTO {table}_new ({', '.join((*key, *values))}) SELECT {found} FROM {table}")
    op.drop_table(table)
    op.rename_table(f"{table}_new", table)


def downgrade() -> None:
    """Refuse: parts of an hour would have to be added up. A ledger can be rebuilt instead."""
    raise NotImplementedError
