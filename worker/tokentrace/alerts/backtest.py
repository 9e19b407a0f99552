"""Backtest: the alerts that rules and budgets would have fired over past spans.

The spans go through the pipeline, the `Ownership` and the `BudgetBook` that workers use. All of them are applied before
the first minute is complete, so none is late.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tokentrace.aggregate.delta import Delta, MinuteRows
from tokentrace.aggregate.groups import GroupIndex
from tokentrace.aggregate.pipeline import Pipeline
from tokentrace.alerts.evaluation import MINUTE_S, AlertTransition
from tokentrace.alerts.ownership import Ownership, RollupLog
from tokentrace.alerts.rollup_reader import Rollup
from tokentrace.alerts.rules import Rule
from tokentrace.alerts.store import AlertStore
from tokentrace.alerts.watermark import GRACE_US, MINUTE_US
from tokentrace.alerts.windows import NEEDED_COST, NEEDED_SPANS
from tokentrace.budgets.book import BudgetBook
from tokentrace.budgets.budget import Budget, BudgetFiring
from tokentrace.model.arrays import Ints
from tokentrace.model.measures import Layout
from tokentrace.model.messages import RawBatch


class Backtest:
    """Counts past spans, then evaluates.

    left_out: number of counted spans that have no possible time. unpriced: those that count as 0 USD.
    """

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        groups: GroupIndex,
        layout: Layout,
        rules: Sequence[Rule],
        budgets: Sequence[Budget] = (),
        group_id: str,
    ) -> None:
        """groups: those that the pipeline counts into. group_id: the consumer group that the alerts name."""
        self._pipeline = pipeline
        self._groups = groups
        self._delta = Delta(layout)
        self._rules = rules
        self._budgets = budgets
        #: Minutes, groups, spans and costs of all increments, for the budgets.
        self._increments: list[tuple[Ints, Ints, Ints, Ints]] = []
        self._owner = Ownership.acquire(
            rules=self._rules,
            layout=layout,
            store=AlertStore(),
            rollups=RollupLog("", 0, 0, lambda _: None),
            group_id=group_id,
            replica="",
            started_s=0.0,
            now_s=0.0,
        )
        self._last: int | None = None
        self.spans = self.left_out = self.unpriced = 0
        self.rejected: Counter[str] = Counter()

    def take(self, batches: Iterable[RawBatch]) -> None:
        """Count the spans of these messages."""
        for batch in batches:
            self._pipeline.count(batch, self._delta)
            self._flush()

    def _flush(self) -> None:
        delta = self._delta
        for rows in delta.by_minute().parts():
            self._apply_rows(rows)
        self.spans += sum(delta.counted.values())
        self.rejected.update(delta.reasons)
        delta.clear()

    def _apply_rows(self, rows: MinuteRows) -> None:
        """Apply one part of the increments."""
        groups = self._groups
        unpriced = Layout.column("unpriced")
        if unpriced < rows.values.shape[1]:
            self.unpriced += int(rows.values[:, unpriced].sum())
        timely = rows.minutes > 0
        self.left_out += int(rows.values[~timely, Layout.column("spans")].sum())
        minutes, cells = rows.minutes[timely], rows.cells[timely]
        if len(minutes):
            evaluation, known = self._owner.evaluation, groups.groups
            numbers = [evaluation.number(known[group]) for group in groups.cell_group[cells].tolist()]
            statuses = groups.cell_status[cells].astype(np.int64)
            values = rows.values[timely][:, evaluation.windows.columns.needed]
            self._apply(minutes, np.array(numbers, np.int64), statuses, values)
            if self._budgets:
                sums = values[:, NEEDED_SPANS], values[:, NEEDED_COST]
                self._increments.append((minutes, np.array(numbers, np.int64), *sums))
            self._last = max(self._last or 0, int(minutes.max()))

    def _apply(
        self, minutes: Ints, groups: Ints, statuses: Ints, values: Ints, reached_us: Mapping[int, int] | None = None
    ) -> None:
        """Apply a rollup. reached_us: event time of the one partition, only once everything has been applied."""
        rollup = Rollup("", 0, minutes, groups, statuses, values, len(reached_us or {}), reached_us or {}, 0)
        self._owner.apply(rollup, self._owner.position)

    def events(self) -> list[AlertTransition]:
        """Return what fires and resolves, up to each rule's first evaluation after the last span. Call it once."""
        if self._last is None or not self._rules:
            return []
        # The last evaluation of each rule is at the beginning of this minute.
        ends = {rule.name: -(-(self._last + 1) // rule.interval) * rule.interval for rule in self._rules}
        nothing = np.zeros(0, np.int64)
        width = len(self._owner.evaluation.windows.columns.needed)
        end_us = max(ends.values()) * MINUTE_US + GRACE_US
        self._apply(nothing, nothing, nothing, nothing.reshape(0, width), {0: end_us})
        transition = self._owner.pending(0.0, draining=True)
        events = transition.events if transition is not None else ()
        return [event for event in events if event.at_s <= ends[event.rule.name] * MINUTE_S]

    def budget_firings(self) -> list[BudgetFiring]:
        """Return the thresholds that are reached, each in its minute: the spans are summed up in order of time."""
        book = BudgetBook(self._budgets)
        if self._increments:
            columns = [np.concatenate(parts) for parts in zip(*self._increments, strict=True)]
            order = np.argsort(columns[0], kind="stable")
            bounds = np.flatnonzero(np.diff(columns[0][order])) + 1
            for number, rows in enumerate(np.split(order, bounds)):
                minutes, groups, spans, costs = (column[rows] for column in columns)
                book.apply(number, 0, minutes, groups, spans, costs, self._owner.evaluation.groups)
        return book.firings
