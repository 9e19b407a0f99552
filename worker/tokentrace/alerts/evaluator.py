"""The evaluator: a member of a consumer group of its own that reads the rollups, and evaluates when they are its.

The rollups topic has one partition, so the group `<group>.alerts` gives it to one replica. What it finds is committed
in one transaction: alerts, the rules' memory, and the position behind the last rollup that was evaluated. Only then is
it shown and delivered. An owner that comes after reads the store, reads the rollups of the longest window again, and
goes on at the position; whatever was not committed is found again, with the same values and ids.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from tokentrace import __version__
from tokentrace.alerts.delivery import Deliverer, delivery_record
from tokentrace.alerts.evaluation import AlertTransition, Evaluation
from tokentrace.alerts.payload import alert_record
from tokentrace.alerts.rollup_reader import RollupReader
from tokentrace.alerts.rules import Rule
from tokentrace.alerts.snapshot import EvaluatorSnapshot
from tokentrace.alerts.store import AlertStore, TopicRecord, rule_record, rule_state, topic_record
from tokentrace.alerts.watermark import MINUTE_US, Watermark
from tokentrace.commit.exactly_once import TRANSACTION_TIMEOUT_S, Watchdog, discard
from tokentrace.errors import FatalError
from tokentrace.kafka.errors import FENCED, MEMBERSHIP_LOST, REFUSED, UNAUTHORIZED
from tokentrace.model.measures import Layout

log = logging.getLogger(__name__)
_library = logging.getLogger("librdkafka")

STEP_TIMEOUT_S: Final = 10.0
#: Rollups that are taken at once, and how long they are waited for.
BATCH: Final = 200
WAIT_S: Final = 0.2
#: What only moves the position is committed so often.
COMMIT_INTERVAL_S: Final = 5.0
#: Outcomes of deliveries are committed so soon: what a crash takes is delivered again.
OUTCOME_INTERVAL_S: Final = 0.2
#: After a failure, how long before it is tried again.
RETRY_S: Final = 2.0
#: How far back the first evaluator of a group looks for rollups that are to be evaluated; all before is history.
FIRST_LOOK_BACK_S: Final = 120.0
#: Spans may end after their rollup was written, by what a clock may be ahead.
MARGIN_MINUTES: Final = 2
_FAILED: Final = "Alerts are not evaluated by this replica for now: %s"
#: How long the end waits for deliveries that are under way.
DRAIN_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class EvaluatorSettings:
    """client_config: properties of librdkafka with bootstrap.servers. group_id: the workers' own group."""

    client_config: Mapping[str, Any]
    group_id: str
    replica: str
    rollups_topic: str
    alerts_topic: str
    session_timeout_s: float = 45.0


@dataclass(slots=True)
class _Reign:
    """All that this replica knows while the partition is its own."""

    evaluation: Evaluation
    reader: RollupReader
    watermark: Watermark
    store: AlertStore
    position: int
    minute: int | None
    late: int = 0
    clamped: int = 0
    delivery_failed: dict[str, int] = field(default_factory=dict)
    events: list[AlertTransition] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)
    entries: list[TopicRecord] = field(default_factory=list)
    begun: bool = False
    moved: bool = False
    heard_us: int = 0


class Evaluator:
    """Evaluates on a thread of its own from `start` to `stop`. `view` may be read from any thread."""

    def __init__(
        self,
        settings: EvaluatorSettings,
        rules: Sequence[Rule],
        layout: Layout,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._rules = {rule.name: rule for rule in rules}
        self._layout = layout
        self._clock = clock
        self._started_s = clock()
        self._stopping = threading.Event()
        self._reign: _Reign | None = None
        self._failure: BaseException | None = None
        self._consumer: Consumer | None = None
        self._producer: Producer | None = None
        self._tail: Consumer | None = None
        self._deliverer: Deliverer | None = None
        self._commit_due_s = 0.0
        self._outcomes_due_s = 0.0
        self._evaluation_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)
        #: None while another replica is the evaluator.
        self.view: EvaluatorSnapshot | None = None

    def start(self) -> None:
        """Join the group and evaluate when it is this replica's turn."""
        self._thread.start()

    def stop(self) -> None:
        """Commit, leave the group and end."""
        self._stopping.set()
        self._thread.join(4 * STEP_TIMEOUT_S)

    # -- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._open()
                while not self._stopping.is_set():
                    self._turn()
                self._finish()
            # Counting goes on whatever happens here.
            except FatalError as failure:
                log.error(_FAILED, failure)
            except KafkaException as failure:
                log.error(_FAILED, self._told(failure.args[0]))
            except Exception as failure:
                log.exception(_FAILED, repr(failure))
            finally:
                self._close()
            self._stopping.wait(RETRY_S)

    def _told(self, error: KafkaError) -> str:
        settings = self._settings
        if error.code() in REFUSED:
            return (
                f"Kafka refuses it ({error.str()}). It has to be allowed to read {settings.rollups_topic}, to read and "
                f"write {settings.alerts_topic}, and to use the group {settings.group_id}.alerts and the transactional "
                f"id {settings.replica}.alerts."
            )
        if error.fatal() or error.code() in FENCED:
            return (
                f"Kafka no longer accepts it ({error.str()}). Another worker with the replica id {settings.replica!r} "
                "may have started: give every worker its own worker.replica_id."
            )
        return str(error.str())

    def _open(self) -> None:
        settings = self._settings
        self._deliverer = Deliverer(self._clock)
        self._producer = Producer(
            {
                **settings.client_config,
                "transactional.id": f"{settings.replica}.alerts",
                "transaction.timeout.ms": int(TRANSACTION_TIMEOUT_S * 1000),
                "linger.ms": 0,
                "compression.type": "lz4",
                # See `commit.exactly_once`.
                "metadata.recovery.strategy": "none",
            },
            logger=_library,
        )
        self._insist(lambda: self._producer.init_transactions(STEP_TIMEOUT_S))  # type: ignore[union-attr]
        self._consumer = Consumer(
            {
                **settings.client_config,
                "group.id": f"{settings.group_id}.alerts",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",
                # The partition stays where it is when others come. No static membership: when its owner leaves,
                # another goes on at once.
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": int(settings.session_timeout_s * 1000),
                "heartbeat.interval.ms": min(3000, int(settings.session_timeout_s * 1000 / 4)),
            },
            logger=_library,
        )
        self._consumer.subscribe(
            [settings.rollups_topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def _close(self) -> None:
        self._abdicate()
        for client in (self._consumer, self._tail):
            if client is not None:
                client.close()
        if self._producer is not None:
            discard(self._producer)
        if self._deliverer is not None:
            self._deliverer.stop()
        self._consumer = self._tail = self._producer = self._deliverer = None

    def _finish(self) -> None:
        """In order: what is being delivered is waited for, so that the next owner does not repeat it."""
        if self._reign is None or self._deliverer is None:
            return
        self._deliverer.drain(DRAIN_S)
        self._collect_outcomes()
        self._commit()

    def _turn(self) -> None:
        assert self._consumer is not None
        messages = self._consumer.consume(BATCH, WAIT_S)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        for message in messages:
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                self._hear(error)
            elif self._reign is not None:
                self._take(self._reign, message)
        if self._reign is None:
            return
        self._collect_outcomes()
        self._hear_silences(self._reign)
        now_s = self._clock()
        reign = self._reign
        due = reign.moved and now_s >= self._commit_due_s
        if reign.events or due or (reign.entries and now_s >= self._outcomes_due_s):
            self._commit()

    # -- rollups -----------------------------------------------------------------------------------------------------

    def _take(self, reign: _Reign, message: Message) -> None:
        offset = message.offset() or 0
        if offset >= reign.position:
            self._begin(reign)
        if message.error() is None:
            self._evaluate(reign, message.value() or b"", offset)

    def _hear(self, error: KafkaError) -> None:
        """What Kafka says, with or without the partition. Raises FatalError where it is not going to pass."""
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise FatalError(
                f"Topic {self._settings.rollups_topic!r} was made anew, or its retention has removed rollups that were "
                f"not evaluated ({error.str()})."
            )
        if error.code() in FENCED | REFUSED or error.fatal():
            raise KafkaException(error)
        log.info("Kafka, to the evaluator: %s", error.str())

    def _begin(self, reign: _Reign) -> None:
        """All that was evaluated before has been read again."""
        if reign.begun:
            return
        reign.begun = True
        if reign.minute is None:
            # What was counted before there were rules is history: it fills the windows, and fires nothing.
            reign.minute = reign.watermark.minute()
        if reign.minute is not None:
            reign.evaluation.windows.begin(reign.minute)
        for record in reign.store.pending():
            self._deliver(record)
        self._show(reign)
        log.info("This replica evaluates the alerts: %d rules.", len(self._rules))

    def _evaluate(self, reign: _Reign, value: bytes, offset: int) -> None:
        rollup = reign.reader.read(value)
        late = reign.evaluation.add(rollup.minutes, rollup.groups, rollup.statuses, rollup.values)
        if reign.begun or reign.minute is None:
            reign.watermark.observe(rollup.committed_at_us, rollup.source_partitions, rollup.reached_us)
        if not reign.begun:
            return
        reign.late += late
        reign.clamped += rollup.clamped
        reign.heard_us = max(reign.heard_us, rollup.committed_at_us)
        reign.position = offset + 1
        reign.moved = True
        minute = reign.watermark.minute()
        if minute is None or (reign.minute is not None and minute <= reign.minute):
            return
        began = time.perf_counter()
        reign.events += reign.evaluation.advance(minute)
        self._evaluation_seconds = time.perf_counter() - began
        reign.minute = minute

    # -- taking over and giving up -----------------------------------------------------------------------------------

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if not partitions:
            return
        try:
            start = self._take_over(consumer)
            consumer.incremental_assign([TopicPartition(self._settings.rollups_topic, 0, start)])
        except Exception as failure:
            self._failure = self._failure or failure

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if not partitions:
            return
        try:
            self._finish()
        except Exception as failure:
            self._failure = self._failure or failure
        self._abdicate()
        consumer.incremental_unassign(partitions)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._abdicate()
        consumer.incremental_unassign(partitions)

    def _abdicate(self) -> None:
        self.view = None
        self._reign = None
        if self._deliverer is not None:
            self._deliverer.forget()
            while not self._deliverer.outcomes.empty():
                self._deliverer.outcomes.get()

    def _take_over(self, consumer: Consumer) -> int:
        """Know what is committed; the offset at which to begin to read."""
        settings = self._settings
        self._await_stable_offset(consumer)
        store = AlertStore.read(settings.client_config, settings.alerts_topic, settings.group_id)
        evaluation = Evaluation(self._layout, tuple(self._rules.values()))
        reader = RollupReader(self._layout, evaluation.windows.columns.needed, evaluation.number)
        memory = store.evaluator
        low, high = consumer.get_watermark_offsets(TopicPartition(settings.rollups_topic, 0), timeout=STEP_TIMEOUT_S)
        if memory is not None and not low <= memory["position"] <= high:
            log.warning(
                "The rollups that come next (offset %d) are not in topic %s any more; alerts begin anew from what is "
                "there.", memory["position"], settings.rollups_topic,
            )  # fmt: skip
            memory = {**memory, "position": low if memory["position"] < low else high}
        back_s = 60.0 * (evaluation.windows.longest + MARGIN_MINUTES)
        if memory is None:
            position = self._offset_at(consumer, self._started_s - FIRST_LOOK_BACK_S, high)
            start = self._offset_at(consumer, self._clock() - back_s, high)
            watermark, minute, late, clamped = Watermark(), None, 0, 0
        else:
            position, minute = memory["position"], memory["minute"]
            late, clamped = memory["late"], memory["clamped"]
            reached = {int(partition): time_us for partition, time_us in memory["reached"].items()}
            watermark = Watermark(memory["source_partitions"], reached, memory["heard_at"])
            until_s = memory["at"] / 1e6 if minute is None else 60.0 * (minute + 1)
            start = self._offset_at(consumer, until_s - back_s, high)
        for name, rule in self._rules.items():
            if name in store.rules:
                state = evaluation.states[name] = rule_state(rule, store.rules[name])
                # Until the next minute is over, what the evaluator before has shown.
                if memory is not None and store.rules[name]["subject"] == rule.subject:
                    state.value = memory["values"].get(name)
        self._reign = _Reign(
            evaluation=evaluation,
            reader=reader,
            watermark=watermark,
            store=store,
            position=position,
            minute=minute,
            late=late,
            clamped=clamped,
            delivery_failed={name: record["delivery_failed"] for name, record in store.rules.items()},
            # Rules that are new, or not what they were, are remembered from the start.
            touched=set(self._rules),
            entries=store.expired(round(self._clock() * 1e6), self._rules),
            moved=True,
            heard_us=0 if memory is None else memory["heard_at"],
        )
        self._listen(store.end)
        self._commit_due_s = self._clock()
        return min(start, position)

    def _await_stable_offset(self, consumer: Consumer) -> None:
        """While a transaction of an earlier owner is open the group's offset is not stable, nor is the store."""
        while not self._stopping.is_set():
            asked = [TopicPartition(self._settings.rollups_topic, 0)]
            try:
                error = consumer.committed(asked, timeout=STEP_TIMEOUT_S)[0].error
            except KafkaException as failure:
                error = failure.args[0]
            if error is None:
                return
            if error.fatal() or error.code() in FENCED | REFUSED:
                raise KafkaException(error)
            time.sleep(0.1)

    def _offset_at(self, consumer: Consumer, time_s: float, end: int) -> int:
        """The first offset of a rollup that was written at this time or later."""
        asked = TopicPartition(self._settings.rollups_topic, 0, max(int(time_s * 1000), 0))
        found = consumer.offsets_for_times([asked], timeout=STEP_TIMEOUT_S)[0]
        if found.error is not None:
            raise FatalError(f"Offsets of {self._settings.rollups_topic} cannot be found: {found.error.str()}.")
        return int(found.offset) if found.offset >= 0 else end

    # -- silences ----------------------------------------------------------------------------------------------------

    def _listen(self, offset: int) -> None:
        """Any replica may be asked for silence, and writes it to the store."""
        if self._tail is None:
            self._tail = Consumer(
                {
                    **self._settings.client_config,
                    "group.id": self._settings.group_id,  # Required by the library; it never joins or commits.
                    "enable.auto.commit": False,
                    "isolation.level": "read_committed",
                    "auto.offset.reset": "earliest",
                },
                logger=_library,
            )
        self._tail.assign([TopicPartition(self._settings.alerts_topic, 0, offset)])

    def _hear_silences(self, reign: _Reign) -> None:
        assert self._tail is not None
        before = dict(reign.store.silences)
        for message in self._tail.consume(100, 0.0):
            if message.error() is None:
                reign.store.apply(message.key(), message.value())
        if reign.store.silences != before and self.view is not None:
            self.view = replace(self.view, silenced=_silenced(reign.store))

    # -- committing --------------------------------------------------------------------------------------------------

    def _collect_outcomes(self) -> None:
        reign, deliverer = self._reign, self._deliverer
        if reign is None or deliverer is None:
            return
        while not deliverer.outcomes.empty():
            outcome = deliverer.outcomes.get()
            if outcome.kind == "failed":
                reign.delivery_failed[outcome.rule] = reign.delivery_failed.get(outcome.rule, 0) + 1
                reign.touched.add(outcome.rule)
                reign.moved = True
            else:
                reign.entries.append(topic_record("delivery", outcome.id, delivery_record(outcome, self._clock())))

    def _commit(self) -> None:
        """One transaction; what is in it is shown and delivered once it is committed."""
        reign = self._reign
        if reign is None or not reign.begun:
            return
        now_s = self._clock()
        silenced = _silenced(reign.store)
        alerts = [
            alert_record(event, self._settings.group_id, now_s, event.at_s < silenced.get(event.rule.name, 0.0))
            for event in reign.events
        ]
        for event in reign.events:
            reign.touched.add(event.rule.name)
        entries = [
            *(topic_record("alert", alert["id"], alert) for alert in alerts),
            *reign.entries,
            *(self._rule_entry(reign, name) for name in sorted(reign.touched) if name in self._rules),
            topic_record("evaluator", None, self._memory(reign, now_s)),
        ]
        try:
            self._transact(entries, reign.position)
        except KafkaException as failure:
            self._give_up(failure.args[0])
            return
        reign.events, reign.entries, reign.moved = [], [], False
        reign.touched.clear()
        self._commit_due_s = now_s + COMMIT_INTERVAL_S
        self._outcomes_due_s = now_s + OUTCOME_INTERVAL_S
        self._show(reign)
        for alert in alerts:
            log.info("Alert %s of rule %r: %s.", alert["status"], alert["alert"], alert["value"])
            if not alert["silenced"]:
                self._deliver(alert)

    def _transact(self, entries: Sequence[TopicRecord], position: int) -> None:
        producer, consumer = self._producer, self._consumer
        assert producer is not None
        assert consumer is not None
        producer.begin_transaction()
        for key, value in entries:
            while True:
                try:
                    producer.produce(self._settings.alerts_topic, key=key, value=value, partition=0)
                    break
                except BufferError:
                    producer.poll(0.1)
        offsets = [TopicPartition(self._settings.rollups_topic, 0, position)]
        with Watchdog("send_offsets_to_transaction"):
            producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), STEP_TIMEOUT_S)
        self._insist(lambda: producer.commit_transaction(STEP_TIMEOUT_S))

    def _insist(self, step: Callable[[], Any]) -> None:
        while True:
            try:
                step()
                return
            except KafkaException as failure:
                error = failure.args[0]
                if error.fatal() or error.txn_requires_abort() or not error.retriable() or error.code() in FENCED:
                    raise

    def _give_up(self, error: KafkaError) -> None:
        """Nothing of it is committed: begin again from what is, here or wherever the partition is now."""
        assert self._producer is not None
        if error.fatal() or error.code() in FENCED | UNAUTHORIZED:
            raise KafkaException(error)
        producer = self._producer
        self._insist(lambda: producer.abort_transaction(STEP_TIMEOUT_S))
        self._abdicate()
        if error.code() in MEMBERSHIP_LOST:
            raise FatalError(f"another replica may evaluate them now ({error.str()}).")
        raise FatalError(f"a transaction was aborted ({error.str()}).")

    def _rule_entry(self, reign: _Reign, name: str) -> TopicRecord:
        rule, state = self._rules[name], reign.evaluation.states[name]
        return topic_record("rule", name, rule_record(rule, state, reign.delivery_failed.get(name, 0)))

    def _memory(self, reign: _Reign, now_s: float) -> dict[str, Any]:
        return {
            "replica": self._settings.replica,
            "version": __version__,
            "at": round(now_s * 1e6),
            "heard_at": reign.heard_us,
            "position": reign.position,
            "minute": reign.minute,
            "source_partitions": reign.watermark.partitions,
            "reached": {str(partition): time_us for partition, time_us in reign.watermark.reached_us.items()},
            "late": reign.late,
            "clamped": reign.clamped,
            "values": {name: each.value for name, each in reign.evaluation.states.items() if each.value is not None},
        }

    def _deliver(self, record: Mapping[str, Any]) -> None:
        rule = self._rules.get(record["alert"])
        if rule is not None and rule.delivery.type != "kafka" and self._deliverer is not None:
            self._deliverer.submit(record, rule.delivery)

    def _show(self, reign: _Reign) -> None:
        states = {
            name: replace(state, instances={labels: replace(each) for labels, each in state.instances.items()})
            for name, state in reign.evaluation.states.items()
        }
        self.view = EvaluatorSnapshot(
            replica=self._settings.replica,
            rules=tuple(self._rules.values()),
            states=states,
            delivery_failed={name: reign.delivery_failed.get(name, 0) for name in self._rules},
            silenced=_silenced(reign.store),
            late=reign.late,
            clamped=reign.clamped,
            time_s=0.0 if reign.minute is None else (reign.minute + 1) * MINUTE_US / 1e6,
            pending=self._deliverer.pending if self._deliverer is not None else 0,
            evaluation_seconds=self._evaluation_seconds,
            bytes=reign.evaluation.windows.bytes(),
        )


def _silenced(store: AlertStore) -> dict[str, float]:
    return {name: record["until"] / 1e6 for name, record in store.silences.items()}
