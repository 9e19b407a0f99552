"""Tables of the ledger, as the newest migration leaves them. All numbers are integers of 64 bits.

A row of `ledger_hours` is what one booking day added to one hour, or part of an hour, of one group, status and price
source. `hour` is in hours and `booked` in days since the epoch, UTC; the part is the minutes of the hour from
`from_minute` to before `until_minute`. The booking day is that of the commit, so that a rebuild from the same rollups
gives the same rows, and the ledger of an earlier day is the rows that were booked until then.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from tokentrace.model.measures import RARE_SUMS, SUMS, UNIT_OF
from tokentrace.pricing import SOURCE_SUMS, SOURCES

#: Sources of the costs of a row. In a mixed row, the rollups do not say which part of the cost has which source.
LEDGER_SOURCES: Final = (*SOURCES, "mixed")
MIXED: Final = len(SOURCES)

#: Sums with a column of their own, and those that are rows of `ledger_units`.
HOUR_SUMS: Final = ("cost_nano_usd", "spans", *(name for name in SUMS if name in UNIT_OF), *SOURCE_SUMS)
UNIT_SUMS: Final = RARE_SUMS

METADATA: Final = sa.MetaData()
#: In SQLite, a strict table refuses a sum beyond 64 bits instead of keeping a float.
_BIG: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_SMALL: Final = sa.SmallInteger().with_variant(sa.Integer(), "sqlite")


def _key_columns() -> list[sa.Column[int]]:
    return [
        sa.Column("hour", _BIG, primary_key=True, autoincrement=False),
        sa.Column("group_id", _BIG, primary_key=True, autoincrement=False),
        sa.Column("status", _SMALL, primary_key=True, autoincrement=False),
        sa.Column("source", _SMALL, primary_key=True, autoincrement=False),
        *_part_columns(),
        sa.Column("booked", _BIG, primary_key=True, autoincrement=False),
    ]


def _part_columns() -> list[sa.Column[int]]:
    names = ("from_minute", "until_minute")
    return [sa.Column(name, _SMALL, primary_key=True, autoincrement=False) for name in names]


#: Label values by group. identity: a hash of all labels. dimensions: a JSON object of those that have a value.
GROUPS: Final = sa.Table(
    "ledger_groups",
    METADATA,
    sa.Column("group_id", _BIG, primary_key=True, autoincrement=False),
    sa.Column("identity", sa.Text, nullable=False, unique=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("caller", sa.Text, nullable=False),
    sa.Column("dimensions", sa.Text, nullable=False),
    sqlite_strict=True,
)

HOURS: Final = sa.Table(
    "ledger_hours",
    METADATA,
    *_key_columns(),
    *(sa.Column(name, _BIG, nullable=False) for name in HOUR_SUMS),
    sqlite_with_rowid=False,
    sqlite_strict=True,
)

#: Units that few spans have.
UNITS: Final = sa.Table(
    "ledger_units",
    METADATA,
    *_key_columns(),
    sa.Column("unit", sa.Text, primary_key=True),
    sa.Column("quantity", _BIG, nullable=False),
    sqlite_with_rowid=False,
    sqlite_strict=True,
)

#: One row: the topic that is read, and the offset behind the last record that is in the ledger.
#: first_offset: where the ledger began. committed_at_us: when the last of its rollups was committed, Unix time.
POSITION: Final = sa.Table(
    "ledger_position",
    METADATA,
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("topic_id", sa.Text, nullable=False),
    sa.Column("first_offset", _BIG, nullable=False),
    sa.Column("next_offset", _BIG, nullable=False),
    sa.Column("committed_at_us", _BIG, nullable=False),
    sqlite_strict=True,
)

#: Rollups that are not in the ledger: offsets from `first` up to before `next`. Unix times, microseconds.
GAPS: Final = sa.Table(
    "ledger_gaps",
    METADATA,
    sa.Column("topic_id", sa.Text, primary_key=True),
    sa.Column("first_offset", _BIG, primary_key=True, autoincrement=False),
    sa.Column("next_offset", _BIG, nullable=False),
    sa.Column("from_us", _BIG, nullable=False),
    sa.Column("until_us", _BIG, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("accepted_at_us", _BIG, nullable=False),
    sqlite_strict=True,
)

#: Corrections of costs, each a dated entry with its period, and its cells. Neither is ever changed.
CORRECTIONS: Final = sa.Table(
    "ledger_corrections",
    METADATA,
    sa.Column("correction_id", _BIG, primary_key=True, autoincrement=False),
    sa.Column("entered_at_us", _BIG, nullable=False),
    sa.Column("from_us", _BIG, nullable=False),
    sa.Column("until_us", _BIG, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("prices", sa.Text, nullable=False),
    sqlite_strict=True,
)
CORRECTION_CELLS: Final = sa.Table(
    "ledger_correction_cells",
    METADATA,
    sa.Column("correction_id", _BIG, primary_key=True, autoincrement=False),
    sa.Column("hour", _BIG, primary_key=True, autoincrement=False),
    sa.Column("group_id", _BIG, primary_key=True, autoincrement=False),
    sa.Column("status", _SMALL, primary_key=True, autoincrement=False),
    sa.Column("source", _SMALL, primary_key=True, autoincrement=False),
    *_part_columns(),
    sa.Column("cost_nano_usd", _BIG, nullable=False),
    sqlite_with_rowid=False,
    sqlite_strict=True,
)
