"""The evaluator's thread: a member of the group `<group>.alerts` that evaluates while the rollups partition is its own.

The rollups topic has one partition, so the group gives it to one replica. What `Ownership` makes of the rollups is
committed in one transaction: alerts, the rules' states, and the position behind the last rollup that was evaluated.
Only then is it shown and delivered. The next owner reads the alerts topic and the rollups of the longest window, and
continues at the position; what was not committed is found again, with the same values and ids.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final, Protocol

from tokentrace.alerts.delivery import Deliverer
from tokentrace.alerts.ownership import EvaluatorTransition, Ownership, RollupLog
from tokentrace.alerts.payload import Record, group_text, moment
from tokentrace.alerts.rules import Rule
from tokentrace.alerts.snapshot import EvaluatorSnapshot
from tokentrace.alerts.store import AlertStore
from tokentrace.budgets.budget import Budget
from tokentrace.budgets.store import BudgetStore
from tokentrace.config.alerts import Delivery
from tokentrace.errors import FatalError, StopRequested, UnreadableRecord
from tokentrace.kafka import producer as kafka
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.outcome import Outcome
from tokentrace.kafka.single_partition import PartitionRecord, SinglePartitionConsumer, TailReader
from tokentrace.kafka.transaction import STEP_TIMEOUT_S, Identity, Offsets, TransactionalProducer
from tokentrace.model.measures import Layout
from tokentrace.state.checksums import record_headers, require_intact
from tokentrace.state.identity import transactional_id
from tokentrace.state.unreadable import RecordPlace

log = logging.getLogger(__name__)

#: Rollups that are read at once, and how long one is waited for.
BATCH: Final = 200
WAIT_S: Final = 0.2
#: Pause after a failure.
RETRY_S: Final = 2.0
#: Longest wait of a hand-over for deliveries in flight.
DRAIN_S: Final = 5.0
#: Time for a hand-over beyond the grace of a stop: deliveries in flight, and closing the clients.
HAND_OVER_S: Final = DRAIN_S + 5.0
_STOPPED: Final = f"Alert evaluation stopped on this replica; retrying in {RETRY_S:.0f} s: %s"


@dataclass(frozen=True, slots=True)
class EvaluatorSettings:
    """group_id: the workers' own group. budgets_topic: empty without budgets."""

    group_id: str
    replica: str
    rollups_topic: str
    alerts_topic: str
    budgets_topic: str = ""
    session_timeout_s: float = 45.0

    @property
    def evaluators_group(self) -> str:
        """The group whose one active member evaluates."""
        return f"{self.group_id}.alerts"

    @property
    def identity(self) -> Identity:
        """Of the transactions.

        Each commits an offset of the rollups, which the group accepts of its one owner only. So an evaluator that lost
        the partition commits nothing, whatever its id: of another replica, or that of release 0.1.0, without the group.
        """
        name = f"{transactional_id(self.group_id, self.replica)}.alerts"
        topics = self.alerts_topic + (f" and the topic {self.budgets_topic}" if self.budgets_topic else "")
        rights = (
            f"to write to the topic {topics} with the transactional id {name}, and to read with the group "
            f"{self.evaluators_group}"
        )
        return Identity(name, self.replica, rights)


class Evaluator:
    """Evaluates on its own thread from `start` to `stop`. `snapshot` may be read from any thread."""

    def __init__(
        self,
        *,
        settings: EvaluatorSettings,
        clients: KafkaClients,
        rules: Sequence[Rule],
        budgets: Sequence[Budget] = (),
        layout: Layout,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._clients = clients
        self._rules = tuple(rules)
        self._budgets = tuple(budgets)
        self._layout = layout
        self._clock = clock
        self._started_s = clock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)
        #: None while another replica is the evaluator.
        self.snapshot: EvaluatorSnapshot | None = None

    def start(self) -> None:
        """Join the group, and evaluate while the partition is this replica's."""
        self._thread.start()

    def stop(self) -> None:
        """Commit, leave the group and end. Waits for what is left of the time that a stop may take."""
        self._stopping.set()
        self._thread.join(self._clients.stop.bounded(4 * STEP_TIMEOUT_S) + HAND_OVER_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with ExitStack() as stack:
                    self._open(stack).run(self._stopping.is_set)
            except StopRequested:
                return
            # Counting continues whatever happens here.
            except FatalError as failure:
                log.error(_STOPPED, failure)
            except Exception as failure:
                log.exception(_STOPPED, repr(failure))
            self._stopping.wait(RETRY_S)

    def _open(self, stack: ExitStack) -> EvaluatorSession:
        settings, clients = self._settings, self._clients
        deliverer = Deliverer(self._clock)
        stack.callback(deliverer.stop)
        transactions = TransactionalProducer(clients, settings.identity)
        stack.callback(transactions.close)
        consumer = SinglePartitionConsumer(
            clients,
            topic=settings.rollups_topic,
            group_id=settings.evaluators_group,
            session_timeout_s=settings.session_timeout_s,
        )
        stack.callback(consumer.close)
        session = EvaluatorSession(
            settings=settings,
            consumer=consumer,
            transactions=transactions,
            deliverer=deliverer,
            read_store=lambda: AlertStore.read(clients, settings.alerts_topic, settings.group_id),
            read_tail=lambda offset: TailReader(
                clients, topic=settings.alerts_topic, group_id=settings.group_id, offset=offset
            ),
            take_over=self._take_over,
            show=self._show,
            clock=self._clock,
        )
        stack.callback(session.release)
        return session

    def _read_budgets(self) -> BudgetStore:
        settings = self._settings
        if not settings.budgets_topic:
            return BudgetStore()
        return BudgetStore.read(self._clients, settings.budgets_topic, settings.group_id)

    def _take_over(self, store: AlertStore, rollups: RollupLog) -> Ownership:
        return Ownership.acquire(
            rules=self._rules,
            budgets=self._budgets,
            budget_store=self._read_budgets(),
            layout=self._layout,
            store=store,
            rollups=rollups,
            group_id=self._settings.group_id,
            replica=self._settings.replica,
            started_s=self._started_s,
            now_s=self._clock(),
        )

    def _show(self, snapshot: EvaluatorSnapshot | None) -> None:
        self.snapshot = snapshot


class Silences(Protocol):
    """Reads what any replica appends to the alerts topic."""

    def poll(self) -> Sequence[PartitionRecord]: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class _Owned:
    """State while this member owns the partition. snapshot: None until it evaluates."""

    ownership: Ownership
    silences: Silences
    snapshot: EvaluatorSnapshot | None = None


class EvaluatorSession:
    """One membership of the group, from joining it to leaving it or to a failure."""

    def __init__(
        self,
        *,
        settings: EvaluatorSettings,
        consumer: SinglePartitionConsumer,
        transactions: TransactionalProducer,
        deliverer: Deliverer,
        read_store: Callable[[], AlertStore],
        read_tail: Callable[[int], Silences],
        take_over: Callable[[AlertStore, RollupLog], Ownership],
        show: Callable[[EvaluatorSnapshot | None], None],
        clock: Callable[[], float],
    ) -> None:
        """The caller closes the clients, after `release`."""
        self._settings = settings
        self._consumer = consumer
        self._transactions = transactions
        self._deliverer = deliverer
        self._read_store = read_store
        self._read_tail = read_tail
        self._take_over = take_over
        self._show = show
        self._clock = clock
        self._owned: _Owned | None = None

    def run(self, stopping: Callable[[], bool]) -> None:
        """Evaluate until `stopping`. Raises FatalError when this member cannot continue."""
        self._transactions.start()
        self._consumer.subscribe(self)
        while not stopping():
            self.turn()
        self.hand_over()

    def turn(self) -> None:
        """Read and evaluate what has arrived, and commit what is due."""
        records = self._consumer.poll(BATCH, WAIT_S)
        owned = self._owned
        if owned is None:
            return
        for record in records:
            if owned.ownership.catch_up(record.offset):
                self._begin(owned)
            if record.value is not None:
                self._apply(owned.ownership, record.value, record)
        self._collect_outcomes(owned)
        self._read_silences(owned)
        self._commit(owned, owned.ownership.pending(self._clock()))

    def _apply(self, ownership: Ownership, value: bytes, record: PartitionRecord) -> None:
        """Apply a rollup. One that cannot be read never can be: the evaluation goes on behind it."""
        try:
            require_intact(record.key, value, record.headers)
            rollup = ownership.reader.read(value, record.headers)
        except UnreadableRecord as error:
            ownership.skip(record.offset)
            log.error(
                "%s cannot be read: %s Alerts and budgets leave out the spans of this commit, which was made at %s, in "
                "the minutes up to then; metrics and totals contain them.",
                RecordPlace(self._settings.rollups_topic, 0, record.offset, record.key), error,
                moment(record.written_s),
            )  # fmt: skip
            return
        ownership.apply(rollup, record.offset)

    # -- the partition comes and goes: called inside `poll` ------------------------------------------------------------

    def acquire(self) -> int:
        """Continue from what is committed; return the offset to read from."""
        settings = self._settings
        self._consumer.await_stable_offset()
        store = self._read_store()
        first, end = self._consumer.offsets()
        ownership = self._take_over(store, RollupLog(settings.rollups_topic, first, end, self._consumer.offset_at))
        self._owned = _Owned(ownership, self._read_tail(store.end))
        return ownership.start

    def hand_over(self) -> None:
        """Wait for deliveries in flight and commit, so that the next owner does not repeat them."""
        owned = self._owned
        if owned is None:
            return
        self._deliverer.drain(DRAIN_S)
        self._collect_outcomes(owned)
        self._commit(owned, owned.ownership.pending(self._clock(), draining=True))

    def release(self) -> None:
        """Discard what is not committed, and stop all deliveries: another replica continues them."""
        owned, self._owned = self._owned, None
        self._show(None)
        self._deliverer.forget()
        while not self._deliverer.outcomes.empty():
            self._deliverer.outcomes.get()
        if owned is not None:
            owned.silences.close()

    # -- while it is this member's -----------------------------------------------------------------------------------

    def _begin(self, owned: _Owned) -> None:
        """The windows are filled: show what the owner before committed, and continue its deliveries."""
        self._publish(owned, owned.ownership.snapshot())
        for alert, delivery in owned.ownership.undelivered():
            self._deliver(alert, delivery)
        budgets = f", {len(owned.ownership.budgets)} budgets" if owned.ownership.budgets else ""
        log.info("This replica evaluates the alerts: %d rules%s.", len(owned.ownership.rules), budgets)

    def _collect_outcomes(self, owned: _Owned) -> None:
        while not self._deliverer.outcomes.empty():
            owned.ownership.apply_outcome(self._deliverer.outcomes.get(), self._clock())

    def _read_silences(self, owned: _Owned) -> None:
        changed = [self._apply_silence(owned.ownership, record) for record in owned.silences.poll()]
        if any(changed) and owned.snapshot is not None:
            self._publish(owned, replace(owned.snapshot, silenced=owned.ownership.silenced))

    def _apply_silence(self, ownership: Ownership, record: PartitionRecord) -> bool:
        try:
            return ownership.apply_silence(record.key, record.value, record.headers)
        except UnreadableRecord as error:
            ownership.leave_out()
            place = RecordPlace(self._settings.alerts_topic, 0, record.offset, record.key)
            log.error("%s cannot be read: %s It silences nothing; silence the rule again.", place, error)
            return False

    def _commit(self, owned: _Owned, transition: EvaluatorTransition | None) -> None:
        """Commit a transition in one transaction; only then show it and deliver its alerts."""
        if transition is None:
            return
        settings = self._settings
        records = [
            kafka.Record(topic, key, value, 0, record_headers(key, value))
            for topic, changes in (
                (settings.alerts_topic, transition.records),
                (settings.budgets_topic, transition.budget_records),
            )
            for key, value in changes
        ]
        offsets = Offsets(settings.rollups_topic, {0: transition.position}, self._consumer.group_metadata)
        outcome = self._transactions.commit(records, offsets)
        if outcome is not Outcome.COMMITTED:
            # None of it is committed: continue from what is, here or wherever the partition is now.
            self.release()
            lost = outcome is Outcome.DROPPED
            raise FatalError("another replica may evaluate them now." if lost else "a transaction was aborted.")
        self._publish(owned, owned.ownership.committed(transition))
        for alert in transition.alerts:
            group = group_text(alert["group"])
            log.info("Alert %s of rule %r%s: %s.", alert["status"], alert["alert"], group, alert["value"])
        for alert, delivery in transition.deliveries:
            self._deliver(alert, delivery)

    def _deliver(self, alert: Record, delivery: Delivery) -> None:
        self._deliverer.submit(alert, delivery)

    def _publish(self, owned: _Owned, snapshot: EvaluatorSnapshot) -> None:
        owned.snapshot = snapshot
        self._show(snapshot)
