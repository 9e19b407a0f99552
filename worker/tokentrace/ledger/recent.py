"""Recent bills: this month and the last one, in UTC, by each of some labels, small enough for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tokentrace.ledger.database import Database
from tokentrace.ledger.period import find_zone, month
from tokentrace.ledger.query import Bill, Billing
from tokentrace.ledger.words import changes, incomplete

#: Rows of a month and label, and gaps that are named. The others are one row together, or a number.
MOST_ROWS: Final = 20
MOST_GAPS: Final = 10


def recent_bills(url: str, labels: Sequence[str], now_s: float) -> dict[str, Any]:
    """Return the bills as a JSON object. Costs are text, since a browser's numbers hold 53 bits.

    Raises UsageError without a ledger, DatabaseUnavailable where its database does not answer.
    """
    database = Database(url)
    try:
        database.require_current()
        billing = Billing(database)
        known = billing.labels()
        # A label that no group has is empty in all of them.
        by = [name for name in labels if name in known]
        bills = [billing.bill(month(name, find_zone("UTC")), by) for name in _months(now_s)]
    finally:
        # No connection is kept while nobody looks.
        database.close()
    return {
        "until_s": min(bill.committed_at_us for bill in bills) / 1e6 or None,
        "months": [_month(bill, labels) for bill in bills],
    }


def _months(now_s: float) -> tuple[str, str]:
    this = datetime.fromtimestamp(now_s, UTC).replace(day=1)
    return f"{this:%Y-%m}", f"{this - timedelta(days=1):%Y-%m}"


def _month(bill: Bill, labels: Sequence[str]) -> dict[str, Any]:
    gaps = list(bill.gaps)
    return {
        "month": f"{bill.period.begins:%Y-%m}",
        **_figures(bill.total),
        "rows": {label: _rows(_by_value(bill, label)) for label in labels},
        "changes": list(changes(bill)),
        # The latest are of the most interest.
        "gaps": [incomplete(gap) for gap in gaps[-MOST_GAPS:]],
        "more_gaps": max(len(gaps) - MOST_GAPS, 0),
    }


def _by_value(bill: Bill, label: str) -> dict[str, dict[str, int]]:
    place = bill.by.index(label) if label in bill.by else None
    sums: dict[str, dict[str, int]] = {}
    for labels, row in bill.rows.items():
        _add(sums.setdefault("" if place is None else labels[place], {}), row)
    return sums


def _rows(sums: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """Return the rows that cost most, and one of all the others."""
    order = sorted(sums, key=lambda value: (-sums[value].get("cost_nano_usd", 0), value))
    rows = [{"value": value, **_figures(sums[value])} for value in order[:MOST_ROWS]]
    others = order[MOST_ROWS:]
    if others:
        rest: dict[str, int] = {}
        for value in others:
            _add(rest, sums[value])
        rows.append({"value": None, "others": len(others), **_figures(rest)})
    return rows


def _add(sums: dict[str, int], row: Mapping[str, int]) -> None:
    for name in ("cost_nano_usd", "spans"):
        sums[name] = sums.get(name, 0) + row.get(name, 0)


def _figures(sums: Mapping[str, int]) -> dict[str, Any]:
    return {"spans": sums.get("spans", 0), "cost_nano_usd": str(sums.get("cost_nano_usd", 0))}
