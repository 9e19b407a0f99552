"""Ownership: what the evaluator knows and decides while this replica owns the rollups partition.

`acquire` starts from what the previous owner committed. `apply` takes the rollups in order: those below the committed
position fill the windows and fire nothing, those from the position on are evaluated. `pending` returns everything that
one transaction has to make true, as an immutable value, and `committed` makes it visible once that has happened.

It makes no Kafka call and reads no clock, so the same stored records and the same rollups give the same alerts, with
the same ids and values, however often they are evaluated and by whom.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tokentrace import __version__
from tokentrace.alerts.delivery import Outcome, delivery_record
from tokentrace.alerts.evaluation import AlertTransition, Evaluation
from tokentrace.alerts.payload import Record, alert_record, budget_alert_record
from tokentrace.alerts.rollup_reader import Rollup, RollupReader
from tokentrace.alerts.rules import Rule
from tokentrace.alerts.snapshot import EvaluatorSnapshot
from tokentrace.alerts.store import (
    AlertStore,
    TopicRecord,
    alert_kind,
    parse_key,
    rule_record,
    rule_state,
    topic_record,
)
from tokentrace.alerts.watermark import MINUTE_US, Watermark
from tokentrace.alerts.windows import NEEDED_COST, NEEDED_SPANS
from tokentrace.budgets.book import BudgetBook
from tokentrace.budgets.budget import Budget
from tokentrace.budgets.store import BudgetStore
from tokentrace.config.alerts import Delivery
from tokentrace.model.measures import Layout
from tokentrace.state.headers import Headers

log = logging.getLogger(__name__)

#: A position without anything else to commit is committed this often.
COMMIT_INTERVAL_S: Final = 5.0
#: Outcomes of deliveries are committed this often: those that a crash takes are delivered again.
OUTCOME_INTERVAL_S: Final = 0.2
#: Sums of budgets are committed this often; a threshold that is reached is committed at once.
BUDGET_INTERVAL_S: Final = 1.0
#: The first evaluator of a group evaluates the rollups of this last time; those before are history.
FIRST_LOOK_BACK_S: Final = 120.0
#: Spans may end after their rollup was written, by as much as a clock may be ahead.
MARGIN_MINUTES: Final = 2


@dataclass(frozen=True, slots=True)
class RollupLog:
    """The rollups partition when it was acquired. first, end: its first offset, and the one behind its last record.

    offset_at: Unix time -> offset of the first record written then or later, None where there is none.
    """

    topic: str
    first: int
    end: int
    offset_at: Callable[[float], int | None]


@dataclass(frozen=True, slots=True)
class EvaluatorTransition:
    """Content of one transaction, which commits all of it or nothing.

    events, alerts: what fired or resolved, and its records. deliveries: alerts to deliver once they are committed.
    records, budget_records: keys and values for the alerts topic, and for that of the budgets. position: the rollups'
    offset to commit.
    """

    at_s: float
    events: Sequence[AlertTransition]
    alerts: Sequence[Record]
    deliveries: Sequence[tuple[Record, Delivery]]
    records: Sequence[TopicRecord]
    budget_records: Sequence[TopicRecord]
    position: int


@dataclass(slots=True)
class _Uncommitted:
    """Changes since the last commit. changed: names of rules. moved: whether the position or a count changed."""

    events: list[AlertTransition] = field(default_factory=list)
    records: list[TopicRecord] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)
    moved: bool = False


class Ownership:
    """One ownership of the rollups partition. Used by one thread; its snapshots may go to any."""

    def __init__(
        self,
        *,
        rules: Sequence[Rule],
        budgets: Sequence[Budget],
        layout: Layout,
        store: AlertStore,
        group_id: str,
        replica: str,
    ) -> None:
        """Use `acquire`, which also finds where to read."""
        self._group_id = group_id
        self._replica = replica
        self._rules = {rule.name: rule for rule in rules}
        self._deliveries = {rule.name: rule.delivery for rule in rules} | {
            budget.name: budget.delivery for budget in budgets
        }
        self._book = BudgetBook(budgets)
        self.evaluation = Evaluation(layout, tuple(rules))
        self.reader = RollupReader(layout, self.evaluation.windows.columns.needed, self.evaluation.number)
        self._watermark = Watermark()
        self._minute: int | None = None
        self._late = self._clamped = 0
        self._unreadable = store.unreadable
        self._silences = AlertStore(silences=dict(store.silences))
        self._delivery_failed = {name: record["delivery_failed"] for name, record in store.rules.items()}
        self._undelivered = {alert["id"]: alert for alert in store.pending() if self._delivery(alert) is not None}
        # Rules that are new or changed are stored with the first commit.
        self._uncommitted = _Uncommitted(changed=set(self._rules), moved=True)
        self._commit_due_s = self._outcomes_due_s = self._budgets_due_s = 0.0
        self._evaluation_seconds = 0.0
        #: Offset of the next rollup to evaluate, of the first one that fills the windows, and of the first one to read.
        self.position = self._windows_start = self.start = 0
        #: True once all rollups below `position` have been applied.
        self.evaluating = False

    @classmethod
    def acquire(
        cls,
        *,
        rules: Sequence[Rule],
        layout: Layout,
        store: AlertStore,
        rollups: RollupLog,
        group_id: str,
        replica: str,
        started_s: float,
        now_s: float,
        budgets: Sequence[Budget] = (),
        budget_store: BudgetStore | None = None,
    ) -> Ownership:
        """Continue from what is committed. store: the alerts topic. started_s: when this process started.

        budget_store: the topic of the budgets, None if it is empty.
        """
        owner = cls(rules=rules, budgets=budgets, layout=layout, store=store, group_id=group_id, replica=replica)
        back_s = 60.0 * (owner.evaluation.windows.longest + MARGIN_MINUTES)
        if store.evaluator is None:
            owner.position = _offset_at(rollups, started_s - FIRST_LOOK_BACK_S)
            filled_until_s = now_s
        else:
            owner._resume(store.evaluator, rollups)
            filled_until_s = store.evaluator["at"] / 1e6 if owner._minute is None else 60.0 * (owner._minute + 1)
        owner._windows_start = min(owner.position, _offset_at(rollups, filled_until_s - back_s))
        owner.start = owner._windows_start
        if budgets:
            owner._open_budgets(budgets, budget_store or BudgetStore(), rollups)
        owner._restore_rules(store)
        owner._uncommitted.records += store.expired(round(now_s * 1e6), owner._rules, owner._deliveries)
        return owner

    def _open_budgets(self, budgets: Sequence[Budget], store: BudgetStore, rollups: RollupLog) -> None:
        self._book = BudgetBook.open(budgets, store, first=rollups.first, end=rollups.end, now=self._now())
        self._unreadable += store.unreadable
        self.start = min(self.start, self._book.start)

    def _now(self) -> int | None:
        """The minute before which everything is counted."""
        return None if self._minute is None else self._minute + 1

    def _resume(self, memory: Mapping[str, Any], rollups: RollupLog) -> None:
        """memory: the record of the evaluator before."""
        reached_us = {int(partition): time_us for partition, time_us in memory["reached"].items()}
        self._watermark = Watermark(memory["source_partitions"], reached_us, memory["heard_at"])
        self._minute, self._late, self._clamped = memory["minute"], memory["late"], memory["clamped"]
        self.position = min(max(memory["position"], rollups.first), rollups.end)
        if self.position != memory["position"]:
            log.warning(
                "Topic %s has offsets %d to %d, but alerts were evaluated up to offset %d: the topic was recreated, or "
                "its retention removed rollups. Evaluation continues at offset %d.",
                rollups.topic, rollups.first, rollups.end, memory["position"], self.position,
            )  # fmt: skip

    def _restore_rules(self, store: AlertStore) -> None:
        for name, rule in self._rules.items():
            record = store.rules.get(name)
            if record is None:
                continue
            state = self.evaluation.states[name] = rule_state(rule, record)
            # The previous evaluator's value is shown until the next minute is complete.
            if store.evaluator is not None and record["subject"] == rule.subject:
                state.value = store.evaluator["values"].get(name)

    @property
    def rules(self) -> Sequence[Rule]:
        return tuple(self._rules.values())

    @property
    def budgets(self) -> Sequence[Budget]:
        return self._book.budgets

    # -- rollups -----------------------------------------------------------------------------------------------------

    def catch_up(self, offset: int) -> bool:
        """Begin to evaluate where the log is read up to the position; True the one time that this happens.

        offset: of the record that comes next, or the end of the log.
        """
        begins = not self.evaluating and offset >= self.position
        if begins:
            self.evaluating = True
            if self._minute is None:
                # What was counted before there were rules is history: it fills the windows, and fires nothing.
                self._minute = self._watermark.minute()
            if self._minute is not None:
                self.evaluation.windows.begin(self._minute)
        self._book.catch_up(offset, self._now())
        return begins

    def apply(self, rollup: Rollup, offset: int) -> None:
        """Add the next rollup of the log, and evaluate the minutes that it completes."""
        self.catch_up(offset)
        self._book.apply(
            offset,
            rollup.committed_at_us,
            rollup.minutes,
            rollup.groups,
            rollup.values[:, NEEDED_SPANS],
            rollup.values[:, NEEDED_COST],
            self.evaluation.groups,
        )
        if offset < self._windows_start:
            return
        late = self.evaluation.add(rollup.minutes, rollup.groups, rollup.statuses, rollup.values)
        self._watermark.observe(rollup.committed_at_us, rollup.source_partitions, rollup.reached_us)
        if not self.evaluating:
            return
        self._late += late
        self._clamped += rollup.clamped
        self.position = offset + 1
        self._uncommitted.moved = True
        minute = self._watermark.minute()
        if minute is None or (self._minute is not None and minute <= self._minute):
            return
        began = time.perf_counter()
        events = self.evaluation.advance(minute)
        self._evaluation_seconds = time.perf_counter() - began
        self._minute = minute
        self._book.advance(minute + 1)
        self._uncommitted.events += events
        self._uncommitted.changed.update(event.rule.name for event in events)

    def skip(self, offset: int) -> None:
        """Pass over the next rollup of the log, which cannot be read."""
        self.catch_up(offset)
        self.leave_out()
        self._book.pass_over(offset)
        if self.evaluating:
            self.position = offset + 1
            self._uncommitted.moved = True

    def leave_out(self) -> None:
        """Count a record that cannot be read."""
        self._unreadable += 1

    # -- silences and deliveries -------------------------------------------------------------------------------------

    def apply_silence(self, key: bytes | None, value: bytes | None, headers: Headers = None) -> bool:
        """Apply a later record of the alerts topic, of which only silences matter. Return whether it was one."""
        parsed = parse_key(key)
        if parsed is None or parsed[0] != "silence":
            return False
        self._silences.apply(key, value, headers)
        return True

    @property
    def silenced(self) -> Mapping[str, float]:
        """Rule -> event time until which nothing is delivered, Unix time."""
        return self._silences.silenced

    def undelivered(self) -> list[tuple[Record, Delivery]]:
        """Committed alerts that are neither delivered nor given up, in the order in which they fired."""
        found = ((alert, self._delivery(alert)) for alert in self._undelivered.values())
        return [(alert, delivery) for alert, delivery in found if delivery is not None]

    def _delivery(self, alert: Record) -> Delivery | None:
        """Return the delivery that is required now; None if its record is enough, or its rule or budget was removed."""
        delivery = self._deliveries.get(alert["alert"])
        return None if delivery is None or delivery.type == "kafka" else delivery

    def apply_outcome(self, outcome: Outcome, now_s: float) -> None:
        """Record what became of a delivery, or of a round of tries."""
        if outcome.kind == "failed" and self._book.delivery_failed(outcome.rule):
            return
        if outcome.kind == "failed":
            self._delivery_failed[outcome.rule] = self._delivery_failed.get(outcome.rule, 0) + 1
            self._uncommitted.changed.add(outcome.rule)
            self._uncommitted.moved = True
            return
        self._undelivered.pop(outcome.id, None)
        self._uncommitted.records.append(topic_record("delivery", outcome.id, delivery_record(outcome, now_s)))

    # -- committing --------------------------------------------------------------------------------------------------

    def pending(self, now_s: float, *, draining: bool = False) -> EvaluatorTransition | None:
        """Return the transition to commit now; None while nothing is due. draining: commit even if it is not due.

        Alerts are due at once. Between this and `committed` nothing may be applied.
        """
        new = self._uncommitted
        position_due = new.moved and now_s >= self._commit_due_s
        outcomes_due = bool(new.records) and now_s >= self._outcomes_due_s
        budgets_due = self._book.changed and now_s >= self._budgets_due_s
        firings = self._book.firings
        if not self.evaluating or not (
            new.events or firings or position_due or outcomes_due or budgets_due or draining
        ):
            return None
        silenced = self.silenced
        alerts = (
            *(
                alert_record(event, self._group_id, now_s, event.at_s < silenced.get(event.rule.name, 0.0))
                for event in new.events
            ),
            *(
                budget_alert_record(firing, self._group_id, now_s, firing.at_s < silenced.get(firing.budget.name, 0.0))
                for firing in firings
            ),
        )
        deliveries = ((alert, self._delivery(alert)) for alert in alerts if not alert["silenced"])
        return EvaluatorTransition(
            at_s=now_s,
            events=tuple(new.events),
            alerts=alerts,
            deliveries=tuple((alert, delivery) for alert, delivery in deliveries if delivery is not None),
            records=(
                *(topic_record(alert_kind(alert), alert["id"], alert) for alert in alerts),
                *new.records,
                *(self._rule_record(name) for name in sorted(new.changed & self._rules.keys())),
                topic_record("evaluator", None, self._evaluator_record(now_s)),
            ),
            budget_records=tuple(self._book.pending(self._replica)),
            position=self.position,
        )

    def committed(self, transition: EvaluatorTransition) -> EvaluatorSnapshot:
        """Make visible what `pending` returned, now that it is committed."""
        self._uncommitted = _Uncommitted()
        self._book.committed()
        self._budgets_due_s = transition.at_s + BUDGET_INTERVAL_S
        self._commit_due_s = transition.at_s + COMMIT_INTERVAL_S
        self._outcomes_due_s = transition.at_s + OUTCOME_INTERVAL_S
        self._undelivered |= {alert["id"]: alert for alert, _ in transition.deliveries}
        return self.snapshot()

    def snapshot(self) -> EvaluatorSnapshot:
        """The state as it is; equal to what is committed right after `catch_up` and in `committed`."""
        return EvaluatorSnapshot(
            replica=self._replica,
            rules=self.rules,
            states={
                name: replace(
                    state, instances={labels: replace(instance) for labels, instance in state.instances.items()}
                )
                for name, state in self.evaluation.states.items()
            },
            delivery_failed={name: self._delivery_failed.get(name, 0) for name in self._rules},
            silenced=self.silenced,
            late=self._late,
            clamped=self._clamped,
            unreadable=self._unreadable,
            time_s=0.0 if self._minute is None else (self._minute + 1) * MINUTE_US / 1e6,
            pending=len(self._undelivered),
            evaluation_seconds=self._evaluation_seconds,
            bytes=self.evaluation.windows.bytes(),
            budgets=self._book.view(),
        )

    def _rule_record(self, name: str) -> TopicRecord:
        state, failed = self.evaluation.states[name], self._delivery_failed.get(name, 0)
        return topic_record("rule", name, rule_record(self._rules[name], state, failed))

    def _evaluator_record(self, now_s: float) -> dict[str, Any]:
        states = self.evaluation.states
        return {
            "replica": self._replica,
            "version": __version__,
            "at": round(now_s * 1e6),
            "heard_at": self._watermark.at_us,
            "position": self.position,
            "minute": self._minute,
            "source_partitions": self._watermark.partitions,
            "reached": {str(partition): time_us for partition, time_us in self._watermark.reached_us.items()},
            "late": self._late,
            "clamped": self._clamped,
            "values": {name: state.value for name, state in states.items() if state.value is not None},
        }


def _offset_at(rollups: RollupLog, time_s: float) -> int:
    offset = rollups.offset_at(time_s)
    return rollups.end if offset is None else offset
