"""The consumer at its edges: errors that arrive as messages, stale fetches, offsets that are not stable yet.

The consumer here is a script. That groups work is proven on a real Kafka: tests/integration/test_group.py, tests/chaos.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from confluent_kafka import ConsumerGroupState, KafkaError, KafkaException, Message

from tests.harness import Clock
from tests.kafka.fakes import ScriptedClients, Waits, failure
from tokentrace.errors import FatalError, StopRequested, Unreachable, UsageError
from tokentrace.kafka.broker_watch import LOOK_S, SILENT_S
from tokentrace.kafka.membership import SourceSettings, instance_id
from tokentrace.kafka.offsets import Start
from tokentrace.kafka.outcome import Outcome
from tokentrace.kafka.source import KafkaSource
from tokentrace.model.messages import RawBatch


def record(
    partition: int, offset: int, code: int | None = None, timestamp: tuple[int, int] = (1, 5000), text: str = "scripted"
) -> Message:
    """A consumed message, or an error in a message's place."""
    error = None if code is None else KafkaError(code, text)
    value = b"%d@%d" % (partition, offset)
    return Message(topic="spans", partition=partition, offset=offset, value=value, error=error, timestamp=timestamp)


class Scripted:
    """A consumer that follows a script."""

    def __init__(self, config: dict[str, Any], logger: Any = None) -> None:
        self.config = config
        self.batches: list[Any] = []
        self.committed_answers: list[Any] = []
        self.watermarks: list[Any] = []
        self.calls: list[tuple[str, Any]] = []
        self.seek_errors: list[BaseException] = []
        self.metadata: Any = None
        self.commit: Any = None
        #: Called inside close(), as the library calls back.
        self.on_close: Callable[[], None] = lambda: None

    def close(self) -> None:
        self.on_close()

    def subscribe(self, topics: list[str], **callbacks: Any) -> None:
        self.callbacks = callbacks

    def consume(self, *_: Any) -> list[Message]:
        batch = self.batches.pop(0) if self.batches else []
        return list(batch() if callable(batch) else batch)

    def committed(self, partitions: list[Any], timeout: float) -> Any:
        answer = self.committed_answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        answers = []
        for partition in partitions:
            # As an offset, or as an offset and its leader epoch.
            found = answer.get(partition.partition, -1001)
            offset, epoch = found if isinstance(found, tuple) else (found, None)
            answers.append(
                SimpleNamespace(
                    partition=partition.partition, offset=offset, leader_epoch=epoch, metadata=None, error=None
                )
            )
        return answers

    def get_watermark_offsets(self, *_: Any, **__: Any) -> Any:
        answer = self.watermarks.pop(0) if self.watermarks else (0, 100)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def seek(self, partition: Any) -> None:
        self.calls.append(("seek", [(partition.partition, partition.offset)]))
        if self.seek_errors:
            raise self.seek_errors.pop(0)

    def list_topics(self, *_: Any, **__: Any) -> Any:
        if isinstance(self.metadata, BaseException):
            raise self.metadata
        return self.metadata

    def assignment(self) -> list[Any]:
        assigned: dict[int, Any] = {}
        for name, partitions in self.calls:
            for partition, _ in partitions or []:
                if name == "incremental_assign":
                    assigned[partition] = None
                elif name == "incremental_unassign":
                    assigned.pop(partition, None)
        return at(*assigned)

    def poll(self, *_: Any) -> None:
        self.calls.append(("poll", None))

    def __getattr__(self, name: str) -> Any:
        def note(partitions: Any = None, **_: Any) -> Any:
            found = [(partition.partition, partition.offset) for partition in partitions] if partitions else partitions
            self.calls.append((name, found))

        return note


class Group:
    """An admin client that describes the group: in each answer its state, and the partitions that members own."""

    answers: ClassVar[list[Any]] = []

    def __init__(self, config: dict[str, Any], logger: Any = None) -> None:
        pass

    def describe_consumer_groups(self, groups: list[str], **_: Any) -> dict[str, Future[Any]]:
        answer = Group.answers.pop(0) if Group.answers else (ConsumerGroupState.STABLE, range(100))
        future: Future[Any] = Future()
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            state, owned = answer
            assignment = SimpleNamespace(topic_partitions=[*at(*owned), *at(99, topic="other")])
            future.set_result(SimpleNamespace(state=state, members=[SimpleNamespace(assignment=assignment)]))
        return dict.fromkeys(groups, future)


class Loop:
    """Listener that records the calls that the worker's loop gets."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[Any]]] = []
        self.refuse: set[int] = set()
        self.failure: BaseException | None = None
        #: Partitions that were announced, and the consumer's calls up to then.
        self.prepared: list[tuple[list[int], list[str]]] = []
        self.consumer: Any = None
        #: The consumer's calls before each look at what is counted.
        self.looks: list[list[str]] = []
        #: The answer to `load_counted`.
        self.known = False
        self.committed_generation = 0
        #: (kind, partition, records).
        self.gaps: list[tuple[str, int, int]] = []
        self.counted_offsets: dict[int, int] = {}

    def load_counted(self) -> bool:
        self.looks.append([name for name, _ in self.consumer.calls] if self.consumer else [])
        return self.known

    def begin(self, positions: Mapping[int, int]) -> None:
        self.calls.append(("begin", [*positions.items()]))

    def counted(self, partition: int) -> int:
        return self.counted_offsets.get(partition, 0)

    def generation(self, partition: int) -> int:
        return self.committed_generation

    def on_removed(self, partition: int, first: int, records: int) -> None:
        self.calls.append(("removed", [(partition, first)]))
        self.gaps.append(("lost", partition, records))

    def on_truncated(self, partition: int, end: int, records: int) -> None:
        self.calls.append(("truncated", [(partition, end)]))
        self.gaps.append(("truncated", partition, records))

    def refuse_offsets(self, starts: Mapping[int, Start]) -> set[int]:
        return self.refuse & starts.keys()

    def load_state(self, partitions: Sequence[int]) -> None:
        self.prepared.append((list(partitions), [name for name, _ in self.consumer.calls] if self.consumer else []))

    def on_assign(self, partitions: Sequence[int]) -> None:
        self.calls.append(("assign", list(partitions)))
        if self.failure is not None:
            raise self.failure

    def on_revoke(self, partitions: Sequence[int]) -> None:
        self.calls.append(("revoke", list(partitions)))

    def on_lost(self, partitions: Sequence[int]) -> None:
        self.calls.append(("lost", list(partitions)))


def at(*partitions: int, topic: str = "spans") -> list[Any]:
    return [SimpleNamespace(topic=topic, partition=partition, offset=-1001) for partition in partitions]


@pytest.fixture
def parts() -> tuple[KafkaSource, Scripted, Loop]:
    return member()


def member(stop: Waits | None = None, start: Any = "earliest") -> tuple[KafkaSource, Scripted, Loop]:
    stop = stop or Waits()
    clients = ScriptedClients(stop, consumer=Scripted, admin=Group)
    settings = SourceSettings(topic="spans", group_id="g", member_id="r0", start=start)
    source = KafkaSource(settings, clients, Clock(10.0), stop.clock)
    loop = Loop()
    if start == "earliest":
        source.subscribe(loop)
    return source, clients.made[0], loop


def assign(source: KafkaSource, consumer: Scripted, **offsets: Any) -> None:
    """Assign partitions p0, p1, ... that have these committed offsets."""
    numbers = {int(name[1:]): offset for name, offset in offsets.items()}
    consumer.committed_answers.append(numbers)
    consumer.callbacks["on_assign"](consumer, at(*numbers))


Parts = tuple[KafkaSource, Scripted, Loop]


def test_source_starts_at_the_committed_offset_and_retries_until_it_is_stable(parts: Parts) -> None:
    source, consumer, loop = parts
    unstable = KafkaException(KafkaError(KafkaError.UNSTABLE_OFFSET_COMMIT, "unstable"))
    consumer.committed_answers += [unstable, unstable]
    loop.consumer = consumer
    assign(source, consumer, p0=7, p1=3)
    assert ("incremental_assign", [(0, 7), (1, 3)]) in consumer.calls
    [looked] = loop.looks
    assert "committed" not in looked, "what is counted is read before the group's offsets"
    [(prepared, calls)] = loop.prepared
    assert prepared == [0, 1]
    assert "incremental_assign" not in calls, "what is known of a partition is read before it is"
    assert loop.calls == [("assign", [0, 1])]
    assert source.assigned == (0, 1)


def test_a_partition_that_was_never_committed_starts_at_the_configured_end(parts: Parts) -> None:
    source, consumer, _ = parts
    no_leader = KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE, "none"))
    consumer.watermarks = [no_leader, (4, 90)]
    assign(source, consumer, p0=-1001)
    assert ("incremental_assign", [(0, 4)]) in consumer.calls


def settle(source: KafkaSource) -> RawBatch | None:
    """Poll once the brokers have had the time to say where a log was cut off."""
    source._log_check._cut_due_s = 0.0
    return source.poll(10, 0.0)


def latest(counted: bool, **committed: int) -> Parts:
    """A member that starts at the latest, in a topic of two partitions of which the group has these offsets."""
    source, consumer, loop = member(start="latest")
    source.topic_partitions = 2
    loop.known = counted
    consumer.committed_answers.append({int(name[1:]): offset for name, offset in committed.items()})
    source.subscribe(loop)
    return source, consumer, loop


def test_a_new_group_begins_at_the_end_and_says_so_at_once_to_be_committed() -> None:
    source, consumer, loop = latest(counted=False)
    consumer.watermarks = [(4, 90), (5, 70), (0, 20)]
    assign(source, consumer, p0=-1001, p1=-1001, p2=-1001)
    assert ("incremental_assign", [(0, 90), (1, 70), (2, 0)]) in consumer.calls, "partition 2 was added later"
    assert loop.calls == [("begin", [(0, 90), (1, 70), (2, 0)]), ("assign", [0, 1, 2])]


@pytest.mark.parametrize(("counted", "committed"), [(True, {}), (False, {"p1": 7})], ids=["state", "offsets"])
def test_a_partition_that_a_known_group_has_not_read_begins_at_its_beginning(
    counted: bool, committed: dict[str, int]
) -> None:
    source, consumer, loop = latest(counted, **committed)
    if counted:
        consumer.committed_answers.clear()
    consumer.watermarks = [(4, 90)]
    assign(source, consumer, p0=-1001, p1=7)
    assert ("incremental_assign", [(0, 4), (1, 7)]) in consumer.calls
    assert loop.calls[0] == ("begin", [(0, 4)]), "what is committed already is not committed again"


def test_offsets_that_are_refused_for_good_end_the_worker(parts: Parts) -> None:
    source, consumer, _ = parts
    consumer.committed_answers.append(KafkaException(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED, "no")))
    consumer.callbacks["on_assign"](consumer, at(0))
    with pytest.raises(FatalError, match="refuses this worker's offsets"):
        source.poll(10, 0.0)


def test_an_exception_in_a_callback_is_raised_from_poll_and_not_inside_the_library(parts: Parts) -> None:
    source, consumer, loop = parts
    loop.failure = ValueError("in a callback")
    assign(source, consumer, p0=0)
    with pytest.raises(ValueError, match="in a callback"):
        source.poll(10, 0.0)
    assert source.poll(10, 0.0) is None


def test_a_partition_that_may_not_start_is_held(parts: Parts) -> None:
    source, consumer, loop = parts
    loop.refuse = {1}
    assign(source, consumer, p0=5, p1=5)
    assert ("pause", [(1, 5)]) in consumer.calls
    assert source.blocked == {1}
    source.pause({0, 1})
    source.resume({0, 1})
    assert consumer.calls[-1] == ("resume", [(0, -1001)])
    consumer.callbacks["on_revoke"](consumer, at(1))
    assert source.blocked == set()


def test_messages_from_before_a_rebalance_are_not_given_again(parts: Parts) -> None:
    source, consumer, _ = parts
    assign(source, consumer, p0=5)
    consumer.batches = [[record(0, 3), record(0, 4), record(0, 5), record(9, 1)], [record(9, 2)]]
    batch = source.poll(10, 0.0)
    assert batch is not None
    assert list(batch.values) == [b"0@5"]
    assert batch.positions == {0: 6}
    assert source.poll(10, 0.0) is None


@pytest.mark.parametrize("event", ["on_lost", "on_revoke"])
@pytest.mark.parametrize("again", [5, 3])
def test_messages_of_a_partition_that_came_back_within_the_call_are_read_again(
    parts: Parts, event: str, again: int
) -> None:
    """Some were fetched before it went, and are followed by others of the same offsets."""
    source, consumer, _ = parts
    assign(source, consumer, p0=5, p1=7)

    def rebalance() -> list[Message]:
        consumer.callbacks[event](consumer, at(0))
        consumer.committed_answers = [{0: again}]
        consumer.callbacks["on_assign"](consumer, at(0))
        consumer.calls.clear()
        eof = record(0, 7, KafkaError._PARTITION_EOF)
        return [record(0, 5), record(1, 7), record(0, 6), eof, record(0, again), record(0, again + 1)]

    consumer.batches = [rebalance, [record(0, again), record(0, again + 1)]]
    batch = source.poll(10, 0.0)
    assert batch is not None
    assert list(batch.values) == [b"1@7"]
    assert source.positions == {0: again, 1: 8}
    assert source.caught_up == set()
    assert consumer.calls == [("incremental_unassign", [(0, -1001)]), ("incremental_assign", [(0, again)])]
    batch = source.poll(10, 0.0)
    assert batch is not None
    assert batch.positions == {0: again + 2}


def test_caught_up_are_partitions_whose_end_was_reached(parts: Parts) -> None:
    source, consumer, loop = parts
    loop.refuse = {2}
    assign(source, consumer, p0=5, p1=7, p2=3)
    consumer.batches = [
        [record(0, 5), record(0, 6, KafkaError._PARTITION_EOF), record(2, 3, KafkaError._PARTITION_EOF)],
        [record(0, 6)],
    ]
    source.poll(10, 0.0)
    assert source.caught_up == {0}
    assert source.positions == {0: 6, 1: 7}, "a blocked partition is not consumed"
    source.poll(10, 0.0)
    assert source.caught_up == set()


@pytest.mark.parametrize(
    ("protocol", "leave_on_stop", "instance_id"),
    [("classic", False, "g.r0"), ("classic", True, None), ("consumer", False, None), ("consumer", True, None)],
)
def test_a_classic_member_that_does_not_leave_on_stop_is_static(
    protocol: Any, leave_on_stop: bool, instance_id: str | None
) -> None:
    settings = SourceSettings(
        topic="t", group_id="g", member_id="r0", protocol=protocol, session_timeout_s=6.0, leave_on_stop=leave_on_stop
    )
    config = settings.consumer_settings()
    assert config["group.protocol"] == protocol
    assert config.get("group.instance.id") == instance_id
    assert config.get("heartbeat.interval.ms") == (1500 if protocol == "classic" else None)


@pytest.mark.parametrize(
    ("group_id", "member_id", "expected"),
    [
        ("spans", "r-0", "spans.r-0"),
        ("billing/eu 1", "r-0", "billing_eu_1.r-0"),
        ("g" * 240, "r" * 60, "g" * 188 + "." + "r" * 60),
        ("g", "r" * 249, "r" * 249),
    ],
)
def test_instance_id_holds_of_the_group_what_kafka_allows(group_id: str, member_id: str, expected: str) -> None:
    assert instance_id(group_id, member_id) == expected


def test_lag_is_the_distance_from_the_commit_to_the_end_and_gone_when_the_partition_is(parts: Parts) -> None:
    source, consumer, _ = parts
    assign(source, consumer, p0=5)
    consumer.batches = [[record(0, 5)], [record(0, 6, KafkaError._PARTITION_EOF)]]
    source.poll(10, 0.0)
    consumer.watermarks = [(0, 16), (0, 6), (0, 6)]
    assert source.lag()[0][:2] == (11, 5.0)
    source.poll(10, 0.0)
    assert source.lag()[0][:2] == (1, 5.0)
    source.on_committed({0: 6})
    assert source.lag() == {0: (0, 0.0, 0.0)}
    consumer.callbacks["on_lost"](consumer, at(0))
    assert source.lag() == {}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (KafkaError._FATAL, "no longer accepts this worker"),
        (KafkaError._FENCED, "no longer accepts this worker"),
        (KafkaError.FENCED_INSTANCE_ID, "unique?"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "refuses this worker"),
    ],
)
def test_errors_that_are_final_end_the_worker(parts: Parts, code: int, message: str) -> None:
    source, consumer, _ = parts
    consumer.batches = [[record(0, 0, code)]]
    with pytest.raises(FatalError, match=message):
        source.poll(10, 0.0)


@pytest.mark.parametrize("code", [KafkaError._MAX_POLL_EXCEEDED, KafkaError._TRANSPORT])
def test_errors_that_pass_are_only_told(parts: Parts, code: int) -> None:
    source, consumer, _ = parts
    assign(source, consumer, p0=0)
    consumer.batches = [[record(0, 0, code), record(0, 0)]]
    batch = source.poll(10, 0.0)
    assert batch is not None
    assert len(batch) == 1


LOST = KafkaError._AUTO_OFFSET_RESET
CUT = "Partition log truncation detected at offset 8 (leader epoch 2): broker end offset is 5 (offset leader epoch 0)"


def test_a_position_that_retention_removed_moves_on_and_is_counted(parts: Parts) -> None:
    source, consumer, loop = parts
    assign(source, consumer, p0=5)
    consumer.watermarks = [(12, 40)]
    consumer.batches = [[record(0, 5, LOST), record(8, 5, LOST)]]
    consumer.committed_answers = [{0: 5}]
    assert source.poll(10, 0.0) is None
    settle(source)
    assert loop.gaps == [("lost", 0, 7)]
    assert consumer.calls[-1] == ("incremental_assign", [(0, 12)])
    assert loop.calls[-1] == ("removed", [(0, 12)])
    assert source.poll(10, 0.0) is None
    assert loop.gaps == [("lost", 0, 7)]


@pytest.mark.parametrize(("generation", "logged"), [(0, 1), (1, 2)], ids=["commit failed", "committed"])
def test_a_gap_is_reported_again_where_the_commit_behind_it_failed(
    parts: Parts, caplog: pytest.LogCaptureFixture, generation: int, logged: int
) -> None:
    """The counts that a failed commit loses have the gap among them."""
    source, consumer, loop = parts
    for committed in (0, generation):
        loop.committed_generation = committed
        assign(source, consumer, p0=5)
        consumer.batches = [[record(0, 5), record(0, 6), record(0, 7), record(0, 8, LOST)], []]
        consumer.watermarks, consumer.committed_answers = [(0, 6)], [{0: 5}]
        source.poll(10, 0.0)
        settle(source)
        assert loop.calls[-1] == ("truncated", [(0, 6)])
    assert loop.gaps == [("truncated", 0, 2)] * 2
    assert caplog.text.count("has lost its tail") == logged


@pytest.mark.parametrize(
    ("watermarks", "text", "end"),
    [((0, 6), "scripted", 6), ((0, 7), CUT, 5), ((0, 99), CUT, 5)],
    ids=["log ends before", "log has grown again", "log has grown beyond"],
)
def test_a_log_that_lost_its_tail_is_read_on_behind_what_it_kept(
    parts: Parts, caplog: pytest.LogCaptureFixture, watermarks: tuple[int, int], text: str, end: int
) -> None:
    """Records that were read before the error came are counted first: only then does the log's new generation begin."""
    source, consumer, loop = parts
    assign(source, consumer, p0=5)
    consumer.batches = [[record(0, 5), record(0, 6), record(0, 7), record(0, 8, LOST, text=text)], [], [record(0, end)]]
    consumer.watermarks, consumer.committed_answers = [watermarks], [{0: 5}]
    batch = source.poll(10, 0.0)
    assert batch is not None
    assert batch.positions == {0: 8}
    assert loop.calls == [("assign", [0])]
    settle(source)
    assert consumer.calls[-2:] == [("incremental_unassign", [(0, -1001)]), ("incremental_assign", [(0, end)])]
    assert loop.calls[-1] == ("truncated", [(0, end)])
    assert loop.gaps == [("truncated", 0, 8 - end)]
    assert f"Partition 0 has lost its tail, up to offset 8; continuing at its new end, {end}." in caplog.text
    batch = source.poll(10, 0.0)
    assert batch is not None
    assert batch.positions == {0: end + 1}


def test_the_brokers_are_asked_where_a_log_was_cut_off_before_its_end_is_taken_for_it() -> None:
    stop = Waits()
    source, consumer, loop = member(stop)
    assign(source, consumer, p0=(8, 3))
    source.poll(10, 0.0)
    consumer.batches = [[record(0, 8, LOST)], [], [record(0, 8, LOST, text=CUT), record(0, 8, LOST)]]
    consumer.watermarks, consumer.committed_answers = [(0, 7), (0, 7)], [{0: 8}]
    source.poll(10, 0.0)
    assert consumer.calls[-2:] == [("incremental_assign", [(0, 7)]), ("pause", [(0, 7)])], (
        "a seek begins within the log"
    )
    source.poll(10, 0.0)
    assert [call for call in consumer.calls if call[0] == "seek"] == [("seek", [(0, 8)])] * 2
    assert loop.calls == [("assign", [0])]
    source.poll(10, 0.0)
    source.poll(10, 0.0)
    assert loop.calls[-1] == ("truncated", [(0, 5)]), "5 is where it was cut off, 7 its end by now"
    consumer.batches = [[record(0, 5)], [record(0, 8, LOST, text=CUT)]]
    for _ in range(3):
        settle(source)
    assert source.positions == {0: 6}, "what was done is not done again"


def test_a_topic_that_was_recreated_is_read_from_its_beginning(parts: Parts) -> None:
    source, consumer, loop = parts
    assign(source, consumer, p0=5)
    consumer.batches = [[record(0, 5, LOST)]]
    consumer.watermarks, consumer.committed_answers = [(0, 3)], [{}]  # Kafka removes the offsets of a topic with it.
    source.poll(10, 0.0)
    settle(source)
    assert loop.calls[-1] == ("truncated", [(0, 0)])


def test_an_offset_that_was_set_beyond_the_log_is_read_on_from_what_is_counted(parts: Parts) -> None:
    source, consumer, loop = parts
    loop.counted_offsets = {0: 30}
    assign(source, consumer, p0=60)
    consumer.batches = [[record(0, 60, LOST)]]
    consumer.watermarks, consumer.committed_answers = [(0, 40)], [{0: 60}]
    source.poll(10, 0.0)
    settle(source)
    assert loop.calls[-1] == ("begin", [(0, 30)])
    assert source.positions == {0: 30}


def test_a_log_whose_bounds_are_not_known_yet_is_asked_for_again() -> None:
    stop = Waits()
    source, consumer, loop = member(stop)
    assign(source, consumer, p0=5)
    consumer.batches = [[record(0, 5, LOST)]]
    no_leader = KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE, "none"))
    consumer.watermarks, consumer.committed_answers = [no_leader, (0, 3)], [{0: 5}]
    for _ in range(8):
        source.poll(10, 0.0)
        stop.now_s += 0.6
    assert loop.calls[-1] == ("truncated", [(0, 3)])


def test_a_log_that_lost_its_tail_waits_for_a_batch_that_waits_for_its_schema(parts: Parts) -> None:
    source, consumer, loop = parts
    assign(source, consumer, p0=5)
    consumer.batches = [[record(0, 5), record(0, 6, LOST, text=CUT)]]
    consumer.watermarks, consumer.committed_answers = [(0, 5)], [{0: 5}]
    source.poll(10, 0.0)
    source.pause([0])
    source.poll(10, 0.0)
    assert ("truncated", [(0, 5)]) not in loop.calls
    source.resume([0])
    settle(source)
    assert loop.calls[-1] == ("truncated", [(0, 5)])


def test_a_position_with_an_epoch_is_fetched_once_the_brokers_check_it(parts: Parts) -> None:
    source, consumer, _ = parts
    consumer.committed_answers.append({0: (5, 3), 1: 9})
    consumer.callbacks["on_assign"](consumer, at(0, 1))
    assert consumer.calls[-1] == ("pause", [(0, 5)])
    not_begun = KafkaException(KafkaError(KafkaError._STATE, "not begun"))
    consumer.seek_errors = [not_begun]
    source.poll(10, 0.0)
    assert consumer.calls[-1] == ("seek", [(0, 5)])
    source.poll(10, 0.0)
    assert consumer.calls[-2:] == [("seek", [(0, 5)]), ("resume", [(0, -1001)])]
    source.poll(10, 0.0)
    assert consumer.calls[-1] == ("resume", [(0, -1001)])


def test_a_position_whose_epoch_cannot_be_checked_is_fetched_all_the_same(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    source, consumer, loop = parts
    loop.refuse = {1}
    consumer.committed_answers.append({0: (5, 3), 1: (9, 3)})
    consumer.callbacks["on_assign"](consumer, at(0, 1))
    consumer.seek_errors = [KafkaException(KafkaError(KafkaError._INVALID_ARG, "scripted"))]
    source.poll(10, 0.0)
    assert "The log of partition 0 could not be checked (scripted)." in caplog.text
    assert ("resume", [(0, -1001)]) in consumer.calls
    assert ("resume", [(1, -1001)]) not in consumer.calls, "a blocked partition stays held"


def test_positions_carry_the_leader_epoch_of_the_record_before_them(parts: Parts) -> None:
    source, consumer, _ = parts
    assigned: list[Any] = []
    consumer.incremental_assign = lambda partitions: assigned.extend(partitions)  # type: ignore[attr-defined]
    consumer.committed_answers.append({0: (5, 3), 1: 9})
    consumer.callbacks["on_assign"](consumer, at(0, 1))
    assert [(p.partition, p.offset, p.leader_epoch) for p in assigned] == [(0, 5, 3), (1, 9, None)]
    assert source.epochs([0, 1]) == {0: 3}
    committed: list[Any] = []
    consumer.commit = lambda offsets, asynchronous: committed.extend(offsets)
    source.commit({0: 7, 1: 9})
    assert [(p.partition, p.offset, p.leader_epoch) for p in committed] == [(0, 7, 3), (1, 9, None)]


def test_close_does_not_wait_for_the_offsets_of_partitions_that_arrive_meanwhile(parts: Parts) -> None:
    """A consumer that closes gets no answer about offsets: this kept a worker from ending, for ever."""
    source, consumer, loop = parts
    unanswered = KafkaException(KafkaError(KafkaError._TIMED_OUT, "not answered"))
    consumer.committed_answers = [unanswered]
    consumer.on_close = lambda: consumer.callbacks["on_assign"](consumer, at(0, 1))
    source.close()
    assert consumer.committed_answers == [unanswered]
    assert loop.calls == []


def test_a_rewind_reads_again_from_what_is_committed(parts: Parts) -> None:
    source, consumer, _ = parts
    assign(source, consumer, p0=5)
    consumer.batches = [[record(0, 5)]]
    source.poll(10, 0.0)
    consumer.committed_answers = [{0: 2}]
    source.rewind()
    assert consumer.calls[-2:] == [("incremental_unassign", [(0, -1001)]), ("incremental_assign", [(0, 2)])]


def test_commit_sends_the_offsets(parts: Parts) -> None:
    source, consumer, _ = parts
    committed: list[tuple[int, int]] = []
    consumer.commit = lambda offsets, asynchronous: committed.extend((o.partition, o.offset) for o in offsets)
    assert source.commit({0: 7, 2: 9}) is Outcome.COMMITTED
    assert committed == [(0, 7), (2, 9)]


@pytest.mark.parametrize("raised", [True, False], ids=["raised", "by partition"])
@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (KafkaError.ILLEGAL_GENERATION, Outcome.DROPPED),
        (KafkaError._NO_OFFSET, Outcome.DROPPED),
        (KafkaError.REQUEST_TIMED_OUT, Outcome.RETRY),
        (KafkaError._WAIT_COORD, Outcome.RETRY),
        (KafkaError.FENCED_INSTANCE_ID, None),
    ],
)
def test_commit_tells_errors_apart(parts: Parts, code: int, outcome: Outcome | None, raised: bool) -> None:
    source, consumer, _ = parts
    error = KafkaError(code, "scripted")

    def commit(offsets: list[Any], asynchronous: bool) -> list[Any]:
        if raised:
            raise KafkaException(error)
        return [SimpleNamespace(error=None), SimpleNamespace(error=error)]

    consumer.commit = commit
    if outcome is None:
        with pytest.raises(FatalError, match=r"is its worker\.replica_id unique"):
            source.commit({0: 7, 1: 8})
    else:
        assert source.commit({0: 7, 1: 8}) is outcome
    partly = not raised
    assert source.commit_in_doubt is (partly or code == KafkaError.REQUEST_TIMED_OUT), "whether any may be committed"


def test_a_pause_holds_for_its_partitions_until_they_are_resumed(parts: Parts) -> None:
    source, consumer, _ = parts
    assign(source, consumer, p0=5, p1=5)
    source.pause({1})
    assert consumer.calls[-1] == ("pause", [(1, -1001)])
    assign(source, consumer, p3=1)
    assert consumer.calls[-1] == ("incremental_assign", [(3, 1)])
    source.resume({1})
    assert consumer.calls[-1] == ("resume", [(1, -1001)])


def test_a_pause_holds_over_a_new_assignment_of_its_partition(parts: Parts) -> None:
    source, consumer, _ = parts
    assign(source, consumer, p0=5)
    source.pause({0})
    consumer.committed_answers.append({0: 12})
    source.rewind()
    assert consumer.calls[-2:] == [("incremental_assign", [(0, 12)]), ("pause", [(0, 12)])]


def test_a_revoked_partition_is_not_paused_when_it_returns(parts: Parts) -> None:
    source, consumer, _ = parts
    assign(source, consumer, p0=5)
    source.pause({0})
    consumer.callbacks["on_revoke"](consumer, at(0))
    assign(source, consumer, p0=6)
    assert consumer.calls[-1] == ("incremental_assign", [(0, 6)])


def test_refused_credentials_are_told_with_what_to_check(parts: Parts) -> None:
    source, consumer, _ = parts
    consumer.config["error_cb"](KafkaError(KafkaError._AUTHENTICATION, "bad password"))
    with pytest.raises(UsageError, match=r"sasl\.password"):
        source.poll(10, 0.0)


def test_all_brokers_down_is_remembered_until_a_message_comes(parts: Parts) -> None:
    source, consumer, _ = parts
    assign(source, consumer, p0=0)
    consumer.config["error_cb"](KafkaError(KafkaError._ALL_BROKERS_DOWN, "down"))
    assert source.unreachable == "No Kafka broker answers at x:1."
    consumer.batches = [[record(0, 0)]]
    source.poll(10, 0.0)
    assert source.unreachable == ""


def test_all_brokers_down_is_over_once_one_answers_on_a_quiet_topic(parts: Parts) -> None:
    source, consumer, _ = parts
    clock = Clock(1.0)
    source._brokers._monotonic = clock
    assign(source, consumer, p0=0)
    consumer.config["error_cb"](KafkaError(KafkaError._ALL_BROKERS_DOWN, "down"))
    consumer.metadata = failure(KafkaError._TRANSPORT)
    source.poll(10, 0.0)
    assert source.unreachable
    consumer.metadata = topics(None)
    source.poll(10, 0.0)
    assert source.unreachable, "the next look comes later"
    clock.now_s += LOOK_S
    source.poll(10, 0.0)
    assert source.unreachable == ""


def test_brokers_that_answer_nothing_on_a_quiet_topic_are_unreachable(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    source, consumer, _ = parts
    clock = Clock(1.0)
    source._brokers._monotonic = clock
    assign(source, consumer, p0=0)
    consumer.batches = [[record(0, 0)]]
    assert source.poll(10, 0.0) is not None
    consumer.metadata = failure(KafkaError._TRANSPORT)
    while clock.now_s < 1.0 + SILENT_S:
        source.poll(10, 0.0)
        assert source.unreachable == ""
        clock.now_s += LOOK_S
    clock.now_s += 1.0
    for _ in range(3):
        source.poll(10, 0.0)
        clock.now_s += LOOK_S
    assert source.unreachable == "No Kafka broker answers at x:1."
    assert [line.getMessage() for line in caplog.records if "answers" in line.getMessage()] == [
        "No Kafka broker answers at x:1. None has for 16 s."
    ]
    consumer.metadata = topics(None)
    source.poll(10, 0.0)
    assert source.unreachable == ""


def topics(code: int | None) -> Any:
    error = None if code is None else KafkaError(code, "scripted")
    return SimpleNamespace(topics={"spans": SimpleNamespace(error=error, partitions={0: None})})


def test_connecting_waits_longer_each_time_and_stops_when_told() -> None:
    stop = Waits(stop_after=6)
    source, consumer, _ = member(stop)
    consumer.metadata = KafkaException(KafkaError(KafkaError._TRANSPORT, "down"))
    assert source.connect() is False
    assert stop.waited_s == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    source, consumer, _ = member(Waits(stop_after=1))
    consumer.metadata = topics(KafkaError.UNKNOWN_TOPIC_OR_PART)
    assert source.connect() is False
    assert "Topic 'spans' does not exist" in source.unreachable
    source, consumer, _ = member()
    consumer.metadata = topics(None)
    assert source.connect() is True
    assert source.unreachable == ""
    assert ("poll", None) not in consumer.calls, "an error of the group is reported once, and not to be lost here"


def test_a_topic_that_this_user_may_not_read_is_told(parts: Parts) -> None:
    source, consumer, _ = parts
    consumer.metadata = topics(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    with pytest.raises(UsageError, match="refuses access to topic 'spans'"):
        source.connect()


def test_a_record_without_a_timestamp_is_as_old_as_now(parts: Parts) -> None:
    source, consumer, _ = parts
    assign(source, consumer, p0=0)
    consumer.batches = [[record(0, 0, timestamp=(0, 0))]]
    batch = source.poll(10, 0.0)
    assert batch is not None
    assert batch.envelope(0).timestamp_ms is None
    consumer.watermarks = [(0, 2)]
    assert source.lag()[0].seconds == 0.0


def unknown() -> KafkaException:
    return KafkaException(KafkaError(KafkaError._UNKNOWN_PARTITION, "unknown"))


def test_a_partition_that_the_topic_does_not_have_is_left_unread_and_asked_for_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stop = Waits()
    source, consumer, loop = member(stop)
    consumer.watermarks = [unknown() for _ in range(60)]
    assign(source, consumer, p0=5, p1=-1001)
    assert ("incremental_assign", [(0, 5)]) in consumer.calls
    assert source.assigned == (0,)
    assert source.pending == {1: "topic 'spans' has no such partition"}
    assert "Partition 1 of topic spans is not consumed: topic 'spans' has no such partition." in caplog.text
    assert loop.calls == [("assign", [0, 1])]
    assert stop.now_s < 30.0

    lines = len(caplog.records)
    for _ in range(3):  # It appears with the third.
        stop.now_s += 10.0
        consumer.committed_answers = [{1: -1001}]
        consumer.watermarks = [unknown()] if _ < 2 else [(3, 9)]
        source.poll(10, 0.0)
    assert ("incremental_assign", [(1, 3)]) in consumer.calls
    assert (source.pending, source.positions) == ({}, {0: 5, 1: 3})
    assert len(caplog.records) == lines, "what is known already is not said again"


def test_a_partition_that_is_not_read_yet_can_be_revoked(parts: Parts) -> None:
    source, consumer, loop = parts
    consumer.watermarks = [unknown() for _ in range(60)]
    assign(source, consumer, p0=5, p1=-1001)
    consumer.callbacks["on_revoke"](consumer, at(0, 1))
    assert loop.calls[-1] == ("revoke", [0, 1])
    assert consumer.calls[-1] == ("incremental_unassign", [(0, -1001)]), "the library rejects one it does not have"
    assert source.pending == {}


def test_offsets_that_stay_unstable_leave_the_partitions_unread_until_they_are_stable() -> None:
    stop = Waits()
    source, consumer, _ = member(stop)
    unstable = KafkaException(KafkaError(KafkaError.UNSTABLE_OFFSET_COMMIT, "unstable"))
    consumer.committed_answers = [unstable for _ in range(400)]
    consumer.callbacks["on_assign"](consumer, at(0))
    assert source.pending == {0: "the group's offsets are not stable (unstable)"}
    assert stop.now_s == pytest.approx(30.0, abs=0.2)
    stop.now_s += 10.0
    consumer.committed_answers = [{0: 7}]
    source.poll(10, 0.0)
    assert source.positions == {0: 7}


def test_an_assignment_that_an_outage_ends_is_made_again() -> None:
    """The group has assigned the partitions, and does not do so again."""
    source, consumer, loop = member()
    load_counted = loop.load_counted

    def unreachable() -> bool:
        loop.load_counted = load_counted  # type: ignore[method-assign]
        raise Unreachable("No broker answers.")

    loop.load_counted = unreachable  # type: ignore[method-assign]
    assign(source, consumer, p0=5, p1=7)
    assert source.pending == dict.fromkeys((0, 1), "No broker answers")
    with pytest.raises(Unreachable):
        source.poll(10, 0.0)
    source.rewind()
    consumer.committed_answers = [{0: 5, 1: 7}]
    source.poll(10, 0.0)
    assert (source.pending, source.positions) == ({}, {0: 5, 1: 7})


def test_a_stop_ends_an_assignment_that_waits() -> None:
    source, consumer, _ = member(Waits(stop_after=2))
    consumer.watermarks = [unknown() for _ in range(60)]
    assign(source, consumer, p0=-1001)
    assert consumer.calls[-1] == ("incremental_assign", []), "the library assigns what its callback does not"
    with pytest.raises(StopRequested):
        source.poll(10, 0.0)


@pytest.mark.parametrize(("committed", "joins"), [({1: 4, 2: 7}, 1), ({1: 4, 2: 7, 3: 0}, 0)])
def test_the_group_is_joined_again_once_for_partitions_that_no_member_reads(
    committed: dict[int, int], joins: int
) -> None:
    """Partition 0 is of this member, which has not committed yet; the others are of others, or of nobody."""
    stop = Waits()
    source, consumer, _ = member(stop)
    source.topic_partitions = 4
    assign(source, consumer, p0=-1001)
    source.poll(10, 0.0)
    consumer.committed_answers = [committed]
    for _ in range(5):
        stop.now_s += 10.0
        source.poll(10, 0.0)
    assert [name for name, _ in consumer.calls].count("unsubscribe") == joins
    assert consumer.committed_answers == []


STABLE, REBALANCING = ConsumerGroupState.STABLE, ConsumerGroupState.PREPARING_REBALANCING


@pytest.mark.parametrize(
    ("answers", "joins_after_s"),
    [
        ([(STABLE, [0, 1]), (STABLE, [0, 1]), (STABLE, [0, 1, 2, 3])], 25),
        ([(STABLE, [0, 1]), (STABLE, [0, 1, 2, 3])], None),
        ([(STABLE, [0, 1]), (STABLE, [0, 2, 3]), (STABLE, [0, 2, 3]), (STABLE, range(4))], 40),
        ([(REBALANCING, []), (REBALANCING, []), (STABLE, [0, 1]), (STABLE, [0, 1]), (STABLE, range(4))], 45),
        ([failure(KafkaError._TIMED_OUT), (STABLE, [0]), (STABLE, [0]), (STABLE, range(4))], 35),
        ([failure(KafkaError.GROUP_AUTHORIZATION_FAILED)], None),
    ],
    ids=["unread", "moving", "moving twice", "rebalancing", "unanswered", "refused"],
)
def test_the_group_is_joined_again_for_partitions_that_stay_without_an_owner(
    answers: list[Any], joins_after_s: int | None
) -> None:
    """A member that was killed while it gave them up is back, and the group takes the rebalance for ended."""
    stop = Waits()
    source, consumer, _ = member(stop)
    source.topic_partitions = 4
    assign(source, consumer, p0=5)
    consumer.committed_answers = [dict.fromkeys(range(4), 7) for _ in range(20)]
    Group.answers = list(answers)
    joined = []
    for _ in range(30):
        stop.now_s += 5.0
        before = [name for name, _ in consumer.calls].count("unsubscribe")
        source.poll(10, 0.0)
        if [name for name, _ in consumer.calls].count("unsubscribe") > before:
            joined.append(round(stop.now_s))
    assert joined == ([] if joins_after_s is None else [joins_after_s])
    assert Group.answers == []


def test_partitions_of_another_topic_are_not_read_and_the_group_is_joined_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stop = Waits()
    source, consumer, loop = member(stop)
    consumer.committed_answers = [{}]
    consumer.callbacks["on_assign"](consumer, at(0, 1, topic="before"))
    assert source.assigned == ()
    assert loop.calls == [("assign", [])]
    assert "The group still assigns partitions of before" in caplog.text
    source.poll(10, 0.0)
    assert [name for name, _ in consumer.calls].count("unsubscribe") == 1
    consumer.callbacks["on_revoke"](consumer, at(0, 1, topic="before"))
    assert loop.calls[-1] == ("revoke", [])
    assign(source, consumer, p0=5)
    assert source.positions == {0: 5}
    source.poll(10, 0.0)
    assert [name for name, _ in consumer.calls].count("unsubscribe") == 1
