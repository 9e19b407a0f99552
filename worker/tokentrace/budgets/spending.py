"""Spending: the accounts of one budget, by period and group, and the thresholds that they reach.

Sums are Python's integers, in nano-dollars, so they are exact at any size and do not depend on the order of the spans.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from tokentrace.budgets.budget import Budget, BudgetFiring, Labels, forecast
from tokentrace.budgets.calendar import Period
from tokentrace.model.arrays import Ints
from tokentrace.model.snapshot import OVERFLOW, Group
from tokentrace.model.wide import sum_runs

MINUTE_US: Final = 60_000_000
#: The number of groups that the budget does not select.
_NOT_SELECTED: Final = -1


@dataclass(slots=True)
class Account:
    """The sum of one group in one period. limit: of the period. reached: thresholds that have fired, percent."""

    period: Period
    labels: Labels
    limit_nano_usd: int
    spent_nano_usd: int = 0
    spans: int = 0
    reached: tuple[int, ...] = ()

    @property
    def verdict(self) -> str:
        """Return `exceeded` once the limit is spent, `warning` once a threshold below it is reached, else `ok`."""
        if self.spent_nano_usd >= self.limit_nano_usd:
            return "exceeded"
        return "warning" if self.reached else "ok"


@dataclass(slots=True)
class Counters:
    """Counts of a budget as long as it exists.

    firings: thresholds that fired. delivery_failed: rounds of tries. expired_spans: spans whose period was not kept any
    more. overflowed_spans: spans beyond `max_groups`.
    """

    firings: int = 0
    delivery_failed: int = 0
    expired_spans: int = 0
    overflowed_spans: int = 0


@dataclass(frozen=True, slots=True)
class BudgetLine:
    """One group in the current period, for metrics. forecast: None before the first minute of the period."""

    labels: Labels
    spent_nano_usd: int
    limit_nano_usd: int
    forecast_nano_usd: int | None


class Spending:
    """The accounts of one budget."""

    def __init__(
        self, budget: Budget, *, since_us: int | None = None, counters: Counters | None = None, begun: bool = True
    ) -> None:
        """since_us: spans that were counted before this time are not in the sums; None if all are.

        begun: whether thresholds fire: not while a new budget sums up what was counted before it.
        """
        self.budget = budget
        self.since_us = since_us
        self.counters = counters or Counters()
        #: Period's name -> group -> account.
        self.accounts: dict[str, dict[Labels, Account]] = {}
        #: Changes since `changes_committed`. removed: (period's name, group).
        self.changed: dict[tuple[str, Labels], Account] = {}
        self.removed: list[tuple[str, Labels]] = []
        self.firings: list[BudgetFiring] = []
        self.counted = False
        self.begun = begun
        self._instances: Ints = np.zeros(0, np.int64)
        self._labels: list[Labels] = []
        self._numbers: dict[Labels, int] = {}

    def __len__(self) -> int:
        return sum(map(len, self.accounts.values()))

    def __iter__(self) -> Iterator[Account]:
        for accounts in self.accounts.values():
            yield from accounts.values()

    def put(self, account: Account) -> None:
        """Add an account as it was committed."""
        self.accounts.setdefault(account.period.name, {})[account.labels] = account

    # -- spans -------------------------------------------------------------------------------------------------------

    def apply(
        self, minutes: Ints, groups: Ints, spans: Ints, costs: Ints, known: Sequence[Group], now: int | None
    ) -> None:
        """Add increments, int64[r] each. groups: numbers of `known`. now: the minute before which all is counted."""
        instances = self._instances_of(known)[groups]
        rows = np.flatnonzero(instances != _NOT_SELECTED)
        if not len(rows):
            return
        distinct, minute_of = np.unique(minutes[rows], return_inverse=True)
        in_order = [self.budget.calendar.period_of(minute) for minute in distinct.tolist()]
        periods = list(dict.fromkeys(in_order))
        period_of = np.searchsorted([period.start for period in periods], [period.start for period in in_order])
        keys = period_of[minute_of] * len(self._labels) + instances[rows]
        order = np.argsort(keys, kind="stable")
        rows, keys = rows[order], keys[order]
        starts = np.flatnonzero(np.diff(keys, prepend=-1))
        sums = zip(
            keys[starts].tolist(),
            sum_runs(costs[rows], starts).tolist(),
            np.add.reduceat(spans[rows], starts).tolist(),
            np.maximum.reduceat(minutes[rows], starts).tolist(),
            strict=True,
        )
        for key, cost, count, latest in sums:
            period, labels = divmod(key, len(self._labels))
            self._add(periods[period], self._labels[labels], cost, count, latest, now)

    def _instances_of(self, known: Sequence[Group]) -> Ints:
        """Return the instance of each group, int64[len(known)], of which those that are new are looked up."""
        if len(self._instances) < len(known):
            new = known[len(self._instances) :]
            found = [
                self._number(self.budget.labels(group)) if self.budget.selects(group) else _NOT_SELECTED
                for group in new
            ]
            self._instances = np.concatenate([self._instances, np.array(found, np.int64)])
        return self._instances

    def _number(self, labels: Labels) -> int:
        number = self._numbers.setdefault(labels, len(self._labels))
        if number == len(self._labels):
            self._labels.append(labels)
        return number

    def _add(self, period: Period, labels: Labels, cost: int, count: int, latest: int, now: int | None) -> None:
        self.counted = True
        if now is not None and period.end + self.budget.keep <= now:
            self.counters.expired_spans += count
            return
        accounts = self.accounts.setdefault(period.name, {})
        if labels not in accounts and len(accounts) >= self.budget.max_groups:
            labels = (OVERFLOW,) * len(labels)
            self.counters.overflowed_spans += count
        account = accounts.get(labels)
        if account is None:
            account = accounts[labels] = Account(period, labels, self.budget.amount_nano_usd)
        account.spent_nano_usd += cost
        account.spans += count
        self.changed[period.name, labels] = account
        if self.begun:
            self._check_thresholds(account, (latest + 1) * 60)

    def _check_thresholds(self, account: Account, at_s: int, *, fires: bool = True) -> None:
        """Fire the thresholds that the account has reached since the last check; others may be reached again."""
        reached = self.budget.reached(account.spent_nano_usd, account.limit_nano_usd)
        if reached == account.reached:
            return
        new = [percent for percent in reached if percent not in account.reached] if fires else []
        account.reached = reached
        self.changed[account.period.name, account.labels] = account
        self.counters.firings += len(new)
        self.firings += [
            BudgetFiring(
                self.budget, account.period, account.labels, percent, at_s,
                account.spent_nano_usd, account.limit_nano_usd, account.spans,
            )
            for percent in new
        ]  # fmt: skip

    # -- time --------------------------------------------------------------------------------------------------------

    def begin(self, now: int | None) -> None:
        """Check every account as it is: those of periods that are over fire nothing, the others have today's limit."""
        self.begun = True
        for account in self:
            over = now is not None and account.period.end <= now
            if not over and account.limit_nano_usd != self.budget.amount_nano_usd:
                account.limit_nano_usd = self.budget.amount_nano_usd
                self.changed[account.period.name, account.labels] = account
            at = account.period.end if over or now is None else now
            self._check_thresholds(account, at * 60, fires=not over)

    def advance(self, now: int) -> None:
        """Drop the periods that are not kept any more. A budget without groups has an account from the first minute."""
        for name in [name for name, accounts in self.accounts.items() if self._is_past(accounts, now)]:
            self.removed += [(name, labels) for labels in self.accounts.pop(name)]
            self.changed = {key: account for key, account in self.changed.items() if key[0] != name}
        period = self.budget.calendar.period_of(now)
        if not self.budget.group_by and period.name not in self.accounts:
            account = Account(period, (), self.budget.amount_nano_usd)
            self.put(account)
            self.changed[period.name, ()] = account

    def _is_past(self, accounts: Mapping[Labels, Account], now: int) -> bool:
        return all(account.period.end + self.budget.keep <= now for account in accounts.values())

    # -- output ------------------------------------------------------------------------------------------------------

    def known_from(self) -> int:
        """Return the minute from which on the sums are complete, 0 if they are from the first span."""
        return 0 if self.since_us is None else -(-self.since_us // MINUTE_US)

    def lines(self, now: int) -> list[BudgetLine]:
        """Return the groups of the period that `now` is in."""
        accounts = self.accounts.get(self.budget.calendar.period_of(now).name, {})
        return [
            BudgetLine(
                account.labels,
                account.spent_nano_usd,
                account.limit_nano_usd,
                forecast(account.spent_nano_usd, account.period, self.known_from(), now),
            )
            for account in accounts.values()
        ]

    def changes_committed(self) -> None:
        """Forget what is committed now."""
        self.changed, self.removed, self.firings, self.counted = {}, [], [], False
