"""Hours by group, the position in the rollups, gaps and corrections.

A migration is a record of its time: it names columns itself and imports nothing of the package.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
SMALL = sa.SmallInteger().with_variant(sa.Integer(), "sqlite")
CLUSTERED = {"sqlite_with_rowid": False, "sqlite_strict": True}
SUMS = (
    "cost_nano_usd",
    "spans",
    "prompt_tokens",
    "completion_tokens",
    "cached_prompt_tokens",
    "reasoning_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "audio_prompt_tokens",
    "image_prompt_tokens",
    "audio_completion_tokens",
    "image_completion_tokens",
    "web_searches",
    "priced_reported",
    "priced_computed",
    "unpriced",
    "priced_estimated",
)

#: Hours with words instead of codes, for people and for dashboards.
VIEW = """
CREATE VIEW ledger_costs AS
SELECT h.hour * 3600 AS time, g.model, g.provider, g.caller, g.dimensions,
  CASE h.status WHEN 0 THEN 'ok' WHEN 1 THEN 'error' ELSE 'timeout' END AS status,
  CASE h.source WHEN 0 THEN 'reported' WHEN 1 THEN 'computed' WHEN 2 THEN 'unpriced' WHEN 3 THEN 'estimated'
    ELSE 'mixed' END AS source,
  h.booked * 86400 AS booked_day, h.cost_nano_usd, h.spans, h.prompt_tokens, h.completion_tokens,
  h.cached_prompt_tokens, h.reasoning_tokens, 0 AS correction_id
FROM ledger_hours h JOIN ledger_groups g ON g.group_id = h.group_id
UNION ALL
SELECT c.hour * 3600, g.model, g.provider, g.caller, g.dimensions,
  CASE c.status WHEN 0 THEN 'ok' WHEN 1 THEN 'error' ELSE 'timeout' END,
  CASE c.source WHEN 0 THEN 'reported' WHEN 1 THEN 'computed' WHEN 2 THEN 'unpriced' WHEN 3 THEN 'estimated'
    ELSE 'mixed' END,
  e.entered_at_us / 86400000000 * 86400, c.cost_nano_usd, 0, 0, 0, 0, 0, c.correction_id
FROM ledger_correction_cells c JOIN ledger_corrections e ON e.correction_id = c.correction_id
JOIN ledger_groups g ON g.group_id = c.group_id
"""


def key(*names: str) -> list[sa.Column[int]]:
    small = ("status", "source")
    return [sa.Column(name, SMALL if name in small else BIG, primary_key=True, autoincrement=False) for name in names]


def numbers(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, BIG, nullable=False) for name in names]


def texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, nullable=False) for name in names]


def upgrade() -> None:
    """Create all tables."""
    cell = ("hour", "group_id", "status", "source", "booked")
    identity = sa.Column("identity", sa.Text, nullable=False, unique=True)
    labels = texts("model", "provider", "caller", "dimensions")
    op.create_table("ledger_groups", *key("group_id"), identity, *labels, sqlite_strict=True)
    op.create_table("ledger_hours", *key(*cell), *numbers(*SUMS), **CLUSTERED)
    unit = sa.Column("unit", sa.Text, primary_key=True)
    op.create_table("ledger_units", *key(*cell), unit, *numbers("quantity"), **CLUSTERED)
    op.create_table(
        "ledger_position",
        sa.Column("topic", sa.Text, primary_key=True),
        *texts("topic_id"),
        *numbers("first_offset", "next_offset", "committed_at_us"),
        sqlite_strict=True,
    )
    op.create_table(
        "ledger_gaps",
        sa.Column("topic_id", sa.Text, primary_key=True),
        *key("first_offset"),
        *numbers("next_offset", "from_us", "until_us"),
        *texts("reason"),
        *numbers("accepted_at_us"),
        sqlite_strict=True,
    )
    op.create_table(
        "ledger_corrections",
        *key("correction_id"),
        *numbers("entered_at_us", "from_hour", "until_hour"),
        *texts("reason", "prices"),
        sqlite_strict=True,
    )
    op.create_table(
        "ledger_correction_cells",
        *key("correction_id", "hour", "group_id", "status", "source"),
        *numbers("cost_nano_usd"),
        **CLUSTERED,
    )
    op.execute(VIEW)


def downgrade() -> None:
    """Remove all tables."""
    op.execute("DROP VIEW ledger_costs")
    for name in ("correction_cells", "corrections", "gaps", "position", "units", "hours", "groups"):
        op.drop_table(f"ledger_{name}")
