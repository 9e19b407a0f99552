"""The topics of the evaluators in memory, and evaluators that own the rollups one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.alerts.helpers import FIRST, Record
from tests.harness import LAYOUT, Harness
from tests.spanfactory import message
from tokentrace.alerts.ownership import EvaluatorTransition, Ownership, RollupLog
from tokentrace.alerts.rules import Rule
from tokentrace.alerts.snapshot import EvaluatorSnapshot
from tokentrace.alerts.store import AlertStore, TopicRecord
from tokentrace.alerts.watermark import GRACE_US, MINUTE_US
from tokentrace.budgets.budget import Budget
from tokentrace.budgets.store import BudgetStore
from tokentrace.state import StateCodec
from tokentrace.state.records import Progress

GROUP_ID = "g"


def at_s(minute: float) -> float:
    """Unix time of the beginning of a minute; minutes are counted from FIRST."""
    return (FIRST + minute) * 60.0


class Topics:
    """The rollups, the alerts and the budgets topic. Times of writing are event times, a little later."""

    def __init__(self) -> None:
        self.rollups: list[tuple[float, bytes]] = []
        #: The first offset that the rollups topic still has.
        self.first = 0
        self.alerts: list[TopicRecord] = []
        self.budgets: list[TopicRecord] = []
        self._harness = Harness()
        self._codec = StateCodec(LAYOUT)

    @property
    def end(self) -> int:
        """The offset behind the last rollup."""
        return self.first + len(self.rollups)

    def commit(
        self,
        complete: int,
        spans: Iterable[Record] = (),
        *,
        clamped: int = 0,
        partition: int = 0,
        partitions: int = 1,
        written_s: float | None = None,
    ) -> None:
        """Write the rollup of a commit of these spans, which completes minute `complete` of one partition."""
        harness, values = self._harness, [message(span) for span in spans]
        if values:
            harness.count(values)
        rows, groups = harness.delta.by_minute(), harness.groups
        cells = [
            (groups.groups[group], status)
            for group, status in zip(
                groups.cell_group[rows.cells].tolist(), groups.cell_status[rows.cells].tolist(), strict=True
            )
        ]
        reached_us = (FIRST + complete + 1) * MINUTE_US + GRACE_US
        progress = Progress(partitions, {partition: reached_us}, clamped)
        written_s = reached_us / 1e6 if written_s is None else written_s
        self.rollups += [
            (written_s, value)
            for value in self._codec.rollups("r", written_s, rows.minutes, cells, rows.values, progress)
        ]
        harness.delta.clear()

    def acquire(
        self,
        *rules: Rule,
        budgets: Sequence[Budget] = (),
        replica: str = "r",
        started_s: float = at_s(0),
        now_s: float | None = None,
    ) -> Ownership:
        """A new owner, which has read nothing of the rollups yet."""
        store = AlertStore()
        for key, value in self.alerts:
            store.apply(key, value)
        return Ownership.acquire(
            rules=rules,
            budgets=budgets,
            budget_store=self.budget_store(),
            layout=LAYOUT,
            store=store,
            rollups=RollupLog("rollups", self.first, self.end, self._offset_at),
            group_id=GROUP_ID,
            replica=replica,
            started_s=started_s,
            now_s=self.now_s if now_s is None else now_s,
        )

    def budget_store(self) -> BudgetStore:
        """The content of the budgets topic."""
        store = BudgetStore()
        for key, value in self.budgets:
            store.apply(key, value)
        return store

    @property
    def now_s(self) -> float:
        """Time at which the last rollup was written."""
        return self.rollups[-1][0] if self.rollups else at_s(0)

    def _offset_at(self, time_s: float) -> int | None:
        written = (offset for offset, (written_s, _) in enumerate(self.rollups, self.first) if written_s >= time_s)
        return next(written, None)

    def read(self, owner: Ownership, end: int | None = None) -> None:
        """Apply the rollups up to `end` that `owner` has not applied yet."""
        end = self.end if end is None else end
        for offset in range(owner.position if owner.evaluating else owner.start, end):
            owner.apply(owner.reader.read(self.rollups[offset - self.first][1]), offset)
        owner.catch_up(end)

    def write(self, owner: Ownership, transition: EvaluatorTransition) -> EvaluatorSnapshot:
        """The transaction: what is pending becomes true."""
        self.alerts += transition.records
        self.budgets += transition.budget_records
        return owner.committed(transition)

    def drain(self, owner: Ownership, now_s: float | None = None) -> EvaluatorTransition:
        """Commit all that there is."""
        transition = owner.pending(self.now_s if now_s is None else now_s, draining=True)
        assert transition is not None
        self.write(owner, transition)
        return transition


def facts(alerts: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    """Return the facts of alerts that must not depend on who evaluates, and when."""
    return [
        (alert["id"], alert["alert"], alert["status"], alert["fired_at"], alert["value"], alert["span_count"])
        for alert in alerts
    ]


def kinds(alerts: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """(status, minute at whose end it was found) of each alert."""
    return [(alert["status"], alert["fired_at"] // MINUTE_US - FIRST - 1) for alert in alerts]
