"""Budgets: amounts as integers, and the groups that they select."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from zoneinfo import ZoneInfo

from tokentrace.budgets.calendar import Calendar, Period
from tokentrace.config.alerts import Delivery
from tokentrace.config.budgets import BudgetSection
from tokentrace.model.digests import digest
from tokentrace.model.globs import matches
from tokentrace.model.snapshot import BASE_LABELS, Group

#: Values of the labels that a budget is grouped by.
Labels = tuple[str, ...]

NANO: Final = 10**9


@dataclass(frozen=True, slots=True)
class Budget:
    """A budget, ready to be evaluated. keep: minutes. globs: label -> glob.

    subject: digest of what it sums. A budget whose amount or thresholds change keeps its sums, one whose subject
    changes begins again.
    """

    name: str
    amount_nano_usd: int
    calendar: Calendar
    globs: Mapping[str, str]
    group_by: tuple[str, ...]
    thresholds: tuple[int, ...]
    max_groups: int
    keep: int
    severity: str
    delivery: Delivery
    subject: str

    @classmethod
    def of(cls, section: BudgetSection) -> Budget:
        """Make a budget from its configuration."""
        filters = section.filter
        globs = {label: glob for label in BASE_LABELS if (glob := getattr(filters, label)) is not None}
        globs |= dict(sorted(filters.dimensions.items()))
        subject = [section.period, section.time_zone, globs, section.group_by]
        return cls(
            name=section.name,
            amount_nano_usd=int(section.amount * NANO),
            calendar=Calendar(section.period, ZoneInfo(section.time_zone)),
            globs=globs,
            group_by=section.group_by,
            thresholds=section.thresholds,
            max_groups=section.max_groups,
            keep=int(section.keep // 60),
            severity=section.severity,
            delivery=section.delivery,
            subject=digest(subject, 16),
        )

    def selects(self, group: Group) -> bool:
        """Return whether spans of a group count."""
        return all(matches(glob, group.label(label)) for label, glob in self.globs.items())

    def labels(self, group: Group) -> Labels:
        """Return the values of `group_by`."""
        return tuple(group.label(name) for name in self.group_by)

    def reached(self, spent_nano_usd: int, limit_nano_usd: int) -> tuple[int, ...]:
        """Return the thresholds that a sum has reached, in percent of the limit."""
        return tuple(percent for percent in self.thresholds if spent_nano_usd * 100 >= limit_nano_usd * percent)


@dataclass(frozen=True, slots=True)
class BudgetFiring:
    """A threshold that was reached. at_s: end of the last minute with spans that reached it, Unix time."""

    budget: Budget
    period: Period
    labels: Labels
    percent: int
    at_s: int
    spent_nano_usd: int
    limit_nano_usd: int
    spans: int

    def id(self, group_id: str) -> str:
        """Return the same id for the same threshold, period, group and limit in every process."""
        budget = self.budget
        place = [budget.name, budget.subject, self.period.name, self.labels, self.percent, self.limit_nano_usd]
        return digest([group_id, "budget", *place], 32)


def forecast(spent_nano_usd: int, period: Period, known_from: int, now: int) -> int | None:
    """Return the sum at the end of the period, if spending goes on as it has; None before the first minute.

    known_from, now: minutes; what was spent before `known_from` is not in the sum, and all before `now` is.
    """
    begin = max(period.start, known_from)
    elapsed = min(now, period.end) - begin
    if elapsed <= 0:
        return None
    return spent_nano_usd + spent_nano_usd * (period.end - begin - elapsed) // elapsed


def usd(nano_usd: int) -> str:
    """Return an amount in USD as an exact decimal without an exponent."""
    sign, amount = ("-", -nano_usd) if nano_usd < 0 else ("", nano_usd)
    whole, fraction = divmod(amount, NANO)
    return f"{sign}{whole}" + (f".{fraction:09}".rstrip("0") if fraction else "")


def nano_usd(amount: str) -> int:
    """Return the nano-dollars of what `usd` wrote."""
    whole, _, fraction = amount.partition(".")
    nano = abs(int(whole)) * NANO + int(fraction.ljust(9, "0"))
    return -nano if amount.startswith("-") else nano


def group_of(budget_labels: Sequence[str], labels: Labels) -> dict[str, str]:
    """Return label -> value."""
    return dict(zip(budget_labels, labels, strict=True))
