"""An independent recount of budgets: plain Python over spans, with no code of tokentrace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from fnmatch import fnmatch
from typing import Any
from zoneinfo import ZoneInfo

from tests.oracle import recount

_NAMES = {"day": "%Y-%m-%d", "week": "%G-W%V", "month": "%Y-%m"}
#: Budget, period, group.
Place = tuple[str, str, tuple[tuple[str, str], ...]]


@dataclass
class Sums:
    """spent: nano-USD."""

    spent: Counter[Place] = field(default_factory=Counter)
    spans: Counter[Place] = field(default_factory=Counter)


def cost_of(span: Mapping[str, Any]) -> int:
    """The nano-USD of a span."""
    return sum(amount for (name, _), amount in recount([dict(span)]).items() if name == "tokentrace_cost_total")


def sums_of(budgets: Iterable[Mapping[str, Any]], spans: Iterable[Mapping[str, Any]]) -> Sums:
    """Sum up what each group has spent in each period. budgets: as they are configured."""
    sums = Sums()
    for span in spans:
        cost, ended = cost_of(span), datetime.fromtimestamp(span["ended_at"] // 1_000_000, UTC)
        for budget in budgets:
            globs = budget.get("filter", {}).items()
            if not all(fnmatch(span[label].lower(), glob.lower()) for label, glob in globs):
                continue
            local = ended.astimezone(ZoneInfo(budget.get("time_zone", "UTC")))
            group = tuple((label, span[label]) for label in budget.get("group_by", ()))
            place = budget["name"], local.strftime(_NAMES[budget.get("period", "month")]), group
            sums.spent[place] += cost
            sums.spans[place] += 1
    return sums


def thresholds_of(budgets: Iterable[Mapping[str, Any]], sums: Sums) -> set[tuple[Place, int]]:
    """Return the thresholds that were reached: (place, percent)."""
    found = set()
    for budget in budgets:
        limit = Decimal(str(budget["amount"])) * 10**9
        for place, spent in sums.spent.items():
            if place[0] == budget["name"]:
                found |= {(place, p) for p in budget.get("thresholds", (50, 80, 100)) if spent * 100 >= limit * p}
    return found


def place_of(verdict: Mapping[str, Any]) -> Place:
    """The place of a verdict, as gateways read it."""
    return verdict["budget"], verdict["period"], tuple(verdict["group"].items())


def nano(usd: str) -> int:
    amount = Decimal(usd) * 10**9
    assert amount == int(amount)
    return int(amount)
