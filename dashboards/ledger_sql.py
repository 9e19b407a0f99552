"""The PostgreSQL queries of the ledger's dashboard. A test runs each of them and compares it with a recount.

They read the tables, not the view `ledger_costs`, so that the primary key of the hours finds the chosen time. All times
are UTC. USD are exact decimals: the sum of a period is multiplied, never divided, since numeric division rounds.
"""

from __future__ import annotations

from typing import Final

USD: Final = "0.000000001"
#: Hours, and parts of hours, that begin in the chosen time, like `tokentrace bill --from --to`.
FROM: Final = "$__unixEpochFrom()"
UNTIL: Final = "$__unixEpochTo()"


def _month(moment: str, months: int = 0) -> str:
    """Return the beginning of the month of a Unix time, or of one that comes later, as a Unix time."""
    begins = f"date_trunc('month', to_timestamp({moment}) AT TIME ZONE 'UTC') + interval '{months} month'"
    return f"extract(epoch FROM {begins})::bigint"


_LAST_SECOND: Final = "$__unixEpochTo() - 1"
_MONTH: Final = _month(_LAST_SECOND)
_NEXT_MONTH: Final = _month(_LAST_SECOND, 1)
_BUDGET: Final = "'${budget_usd}'::numeric"


def _cells(since: str, until: str) -> str:
    """Return the first part of a query: what was counted and corrected in this time, of the chosen groups.

    since, until: Unix times.
    """
    begins = "hour * 3600 + from_minute * 60"
    hours = f"hour >= {since} / 3600 AND {begins} >= {since} AND hour <= {until} / 3600 AND {begins} < {until}"
    chosen = "g.model IN ($model) AND g.caller IN ($caller)"
    return f"""WITH cells AS (
  SELECT h.hour, g.model, g.provider, g.caller, h.booked, h.cost_nano_usd, 0 AS correction_nano_usd, h.spans,
    h.prompt_tokens, h.completion_tokens
  FROM ledger_hours h JOIN ledger_groups g USING (group_id)
  WHERE {hours}
    AND {chosen}
  UNION ALL
  SELECT c.hour, g.model, g.provider, g.caller, NULL, c.cost_nano_usd, c.cost_nano_usd, 0, 0, 0
  FROM ledger_correction_cells c JOIN ledger_groups g USING (group_id)
  WHERE {hours}
    AND {chosen}
)
"""


#: Whole months, also where the chosen time begins or ends within one. Late: booked after the month was closed.
BILL_BY_MONTH: Final = (
    _cells(_month(FROM), _NEXT_MONTH)
    + f""", months AS (
  SELECT *, date_trunc('month', to_timestamp(hour * 3600) AT TIME ZONE 'UTC') AS begins FROM cells
)
SELECT to_char(begins, 'YYYY-MM') AS month, sum(cost_nano_usd) * {USD} AS usd,
  coalesce(sum(cost_nano_usd) FILTER (
    WHERE booked > extract(epoch FROM begins + interval '1 month')::bigint / 86400), 0) * {USD} AS late_usd,
  sum(correction_nano_usd) * {USD} AS corrections_usd, sum(spans) AS calls,
  sum(prompt_tokens) AS prompt_tokens, sum(completion_tokens) AS completion_tokens
FROM months GROUP BY begins ORDER BY begins DESC"""
)

BILL_BY_CALLER_AND_MODEL: Final = (
    _cells(FROM, UNTIL)
    + f"""SELECT caller, model, provider, sum(cost_nano_usd) * {USD} AS usd, sum(spans) AS calls,
  sum(prompt_tokens) AS prompt_tokens, sum(completion_tokens) AS completion_tokens
FROM cells GROUP BY caller, model, provider ORDER BY usd DESC, caller, model, provider"""
)

SPEND_BY_DAY: Final = (
    _cells(FROM, UNTIL)
    + f"""SELECT to_timestamp(hour / 24 * 86400) AS time, model AS metric, sum(cost_nano_usd) * {USD} AS usd
FROM cells GROUP BY hour / 24, model ORDER BY time, metric"""
)

SPENT: Final = _cells(FROM, UNTIL) + f"SELECT coalesce(sum(cost_nano_usd), 0) * {USD} AS usd FROM cells"

#: Of the last month of the chosen time: what is left at the end of each hour that had calls, and at an even pace.
BUDGET_BURN_DOWN: Final = (
    _cells(_MONTH, _NEXT_MONTH)
    + f""", month AS (
  SELECT {_MONTH} / 3600 AS first, {_NEXT_MONTH} / 3600 AS next, {_BUDGET} AS budget
), hours AS (
  SELECT hour, sum(cost_nano_usd) AS nano_usd FROM cells GROUP BY hour
)
SELECT to_timestamp(first * 3600) AS time, budget AS remaining, budget AS "even pace" FROM month
UNION ALL
SELECT to_timestamp((hour + 1) * 3600), budget - sum(nano_usd) OVER (ORDER BY hour) * {USD},
  budget * (next - hour - 1) / (next - first)
FROM hours CROSS JOIN month
UNION ALL
SELECT to_timestamp(next * 3600), NULL, 0 FROM month
ORDER BY time, remaining"""
)

BUDGET_LEFT: Final = (
    _cells(_MONTH, _NEXT_MONTH) + f"SELECT {_BUDGET} - coalesce(sum(cost_nano_usd), 0) * {USD} AS usd FROM cells"
)

#: In milliseconds, as Grafana has times. No row for a ledger that has read nothing.
COMMITTED_AT: Final = "SELECT committed_at_us / 1000 AS committed_at FROM ledger_position WHERE committed_at_us > 0"

GAPS: Final = """SELECT to_timestamp(from_us / 1000000) AS "from", to_timestamp(until_us / 1000000) AS until, reason
FROM ledger_gaps ORDER BY from_us, first_offset"""
GAP_COUNT: Final = "SELECT count(*) AS gaps FROM ledger_gaps"

MODELS: Final = "SELECT DISTINCT model FROM ledger_groups ORDER BY model"
CALLERS: Final = """SELECT DISTINCT caller AS __value, CASE caller WHEN '' THEN '(none)' ELSE caller END AS __text
FROM ledger_groups ORDER BY __text"""
#: Values of `All`, which Grafana inserts as they are.
ALL_MODELS: Final = "SELECT model FROM ledger_groups"
ALL_CALLERS: Final = "SELECT caller FROM ledger_groups"
