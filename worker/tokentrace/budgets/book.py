"""Book: all budgets, as the evaluator sums them up and as it commits them.

`open` continues from what is committed. `apply` takes the rollups in order: a budget that is known takes those from the
committed position on, a new one all that the topic still has. `pending` returns what one transaction has to make true,
and `committed` follows once that has happened. It makes no Kafka call and reads no clock.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from tokentrace.budgets.budget import Budget, BudgetFiring
from tokentrace.budgets.records import (
    TopicRecord,
    account_of,
    budget_key,
    budget_record,
    position_record,
    spending_of,
    verdict_key,
    verdict_record,
)
from tokentrace.budgets.spending import BudgetLine, Counters, Spending
from tokentrace.budgets.store import BudgetStore
from tokentrace.model.arrays import Ints
from tokentrace.model.snapshot import Group

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BudgetView:
    """A budget as it is committed, for metrics. lines: the groups of the current period."""

    name: str
    group_by: tuple[str, ...]
    lines: Sequence[BudgetLine]
    counters: Counters


class BudgetBook:
    """All budgets of one evaluator, used by its thread."""

    def __init__(self, budgets: Iterable[Budget]) -> None:
        """Use `open`."""
        self._spending = {budget.name: Spending(budget) for budget in budgets}
        #: Budgets without records, until all of the log is read that was there when they came.
        self._new: set[str] = set()
        #: Budgets whose sums miss what was counted before the next rollup.
        self._incomplete: set[str] = set()
        self._history_end = 0
        self._now: int | None = None
        self._forgotten: list[bytes] = []
        self._moved = False
        #: Offset of the first rollup to read, and of the next one that budgets of old have to sum up.
        self.start = self.position = 0

    @classmethod
    def open(
        cls, budgets: Iterable[Budget], store: BudgetStore, *, first: int, end: int, now: int | None = None
    ) -> BudgetBook:
        """Continue from what is committed.

        first, end: offsets of the rollups topic. now: the minute before which everything is counted, None if unknown.
        """
        book = cls(budgets)
        book._now, book._history_end = now, end
        position = end if store.position is None else store.position
        book.position = min(max(position, first), end)
        if book.position != position:
            log.warning(
                "The rollups topic has offsets %d to %d, but budgets are summed up to offset %d: it was recreated, or "
                "its retention removed rollups. The verdicts say since when they are complete.",
                first, end, position,
            )  # fmt: skip
        for name in [*book._spending]:
            book._restore(name, store, gap=book.position != position)
        book._forget(store)
        book.start = first if book._new else book.position
        return book

    def _restore(self, name: str, store: BudgetStore, *, gap: bool) -> None:
        budget, record, verdicts = self._spending[name].budget, store.budgets.get(name), store.verdicts.get(name, {})
        new = f"Budget {name!r} begins with the rollups that are still there"
        try:
            if store.position is None or record is None or record["subject"] != budget.subject:
                log.info("%s.", new)
            elif record["verdicts"] != len(verdicts):
                log.error("%s: %d of its %d verdicts can be read.", new, len(verdicts), record["verdicts"])
            else:
                spending = spending_of(budget, record)
                for verdict in verdicts.values():
                    spending.put(account_of(budget, verdict))
                self._spending[name] = spending
                if gap:
                    self._incomplete.add(name)
                spending.begin(self._now)
                return
        except (KeyError, ValueError, TypeError) as error:
            log.error("%s: a record of it is damaged (%r).", new, error)
        self._new.add(name)
        self._incomplete.add(name)
        self._spending[name] = Spending(budget, begun=False)

    def _forget(self, store: BudgetStore) -> None:
        """Remove what is stored of budgets that begin again or do not exist any more."""
        for name in {*store.budgets, *store.verdicts}:
            if name not in self._spending or name in self._new:
                self._forgotten += store.verdicts.get(name, {})
            if name not in self._spending:
                self._forgotten.append(budget_key(name))

    @property
    def budgets(self) -> Sequence[Budget]:
        return tuple(spending.budget for spending in self._spending.values())

    # -- input -------------------------------------------------------------------------------------------------------

    def apply(
        self,
        offset: int,
        committed_at_us: int,
        minutes: Ints,
        groups: Ints,
        spans: Ints,
        costs: Ints,
        known: Sequence[Group],
    ) -> None:
        """Add the rollup at an offset; the rest as `Spending.apply`. committed_at_us: time of its commit."""
        for name, spending in self._spending.items():
            if offset < self.position and name not in self._new:
                continue
            if name in self._incomplete:
                self._incomplete.remove(name)
                # Nothing was counted before the first record of the log.
                spending.since_us = committed_at_us if offset else None
            spending.apply(minutes, groups, spans, costs, known, self._now)
        self.pass_over(offset)

    def pass_over(self, offset: int) -> None:
        """Go on behind a rollup."""
        if offset >= self.position:
            self.position, self._moved = offset + 1, True

    def catch_up(self, offset: int, now: int | None) -> None:
        """Begin new budgets where the log is read that was there when they came.

        offset: of the record that comes next, or the end of the log. now: the minute before which all is counted.
        """
        if not self._new or offset < self._history_end:
            return
        for name in self._new:
            self._spending[name].begin(now)
        self._new.clear()
        if now is not None:
            self.advance(now)

    def advance(self, now: int) -> None:
        """Advance event time: everything before this minute is counted."""
        self._now = now
        for spending in self._begun():
            spending.advance(now)

    def delivery_failed(self, name: str) -> bool:
        """Count a failed round of tries; return whether it was for a budget."""
        spending = self._spending.get(name)
        if spending is None:
            return False
        spending.counters.delivery_failed += 1
        spending.counted = True
        return True

    # -- output ------------------------------------------------------------------------------------------------------

    def _begun(self) -> Iterator[Spending]:
        return (spending for spending in self._spending.values() if spending.begun)

    @property
    def firings(self) -> list[BudgetFiring]:
        """Thresholds that were reached since the last commit, in the order of the rollups."""
        return [firing for spending in self._begun() for firing in spending.firings]

    @property
    def changed(self) -> bool:
        """True if there is a verdict to commit."""
        return bool(self._forgotten) or any(spending.changed or spending.removed for spending in self._begun())

    def pending(self, replica: str) -> list[TopicRecord]:
        """Return the records of a commit; none if nothing has changed. Until `committed` nothing may be applied."""
        records: list[TopicRecord] = [(key, None) for key in self._forgotten]
        for spending in self._begun():
            name = spending.budget.name
            records += [(verdict_key(name, period, labels), None) for period, labels in spending.removed]
            records += [verdict_record(spending, account, self._now) for account in spending.changed.values()]
            if spending.changed or spending.removed or spending.counted:
                records.append(budget_record(spending))
        if records or (self._moved and self._spending):
            records.append(position_record(self.position, replica, self._now))
        return records

    def committed(self) -> None:
        """Go on from what `pending` returned, now that it is committed."""
        self._forgotten, self._moved = [], False
        for spending in self._begun():
            spending.changes_committed()

    def view(self) -> list[BudgetView]:
        """Return the budgets as they are; equal to what is committed right after `committed`."""
        now = self._now
        return [
            BudgetView(
                spending.budget.name,
                spending.budget.group_by,
                [] if now is None else spending.lines(now),
                replace(spending.counters),
            )
            for spending in self._begun()
        ]
