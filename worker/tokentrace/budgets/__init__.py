"""Budgets: what the fleet has spent in a calendar period, against an amount.

Spans count to the day, week or month in which they ended, by the calendar of the budget's time zone. The sums are exact
and durable: the evaluator of the alerts keeps them in a compacted topic, in one transaction with its position in the
rollups. The same records are the verdicts that gateways read.

rollup -> book -> spending (accounts by period and group) -> verdicts and firings -> records
"""

from __future__ import annotations
