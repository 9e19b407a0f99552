"""A group member for one partition, with a client that follows a script."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, TopicPartition

from tests.kafka.fakes import Scripted, ScriptedClients, Waits, failure
from tokentrace.errors import FatalError, StopRequested
from tokentrace.kafka.single_partition import SinglePartitionConsumer, TailReader


class Message:
    """A record, or the end of the partition, or an error."""

    def __init__(self, offset: int = 0, value: bytes | None = None, error: int | None = None) -> None:
        self._offset, self._value = offset, value
        self._error = None if error is None else KafkaError(error, "scripted")

    def error(self) -> KafkaError | None:
        return self._error

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes:
        return b"key"

    def value(self) -> bytes | None:
        return self._value

    def headers(self) -> None:
        return None

    def timestamp(self) -> tuple[int, int]:
        return 1, 5000


class ScriptedConsumer(Scripted):
    """before: what the group does inside the next `consume`. messages: what that gives."""

    def __init__(self, config: dict[str, Any], logger: Any = None) -> None:
        super().__init__(config, logger)
        self.callbacks: dict[str, Callable[..., None]] = {}
        self.before: list[str] = []
        self.messages: list[Message] = []
        self.found: Any = None

    def subscribe(self, topics: list[str], **callbacks: Callable[..., None]) -> None:
        self.calls.append(f"subscribe {topics}")
        self.callbacks = callbacks

    def consume(self, *_: Any) -> list[Message]:
        while self.before:
            self.callbacks[self.before.pop(0)](self, [TopicPartition("t", 0)])
        messages, self.messages = self.messages, []
        return messages

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        self.calls.append(f"assign at {partitions[0].offset}")

    def assign(self, partitions: list[TopicPartition]) -> None:
        self.calls.append(f"assign at {partitions[0].offset}")

    def committed(self, *_: Any, **__: Any) -> list[TopicPartition]:
        self._call("committed")
        return [TopicPartition("t", 0, 5)]

    def get_watermark_offsets(self, *_: Any, **__: Any) -> tuple[int, int]:
        self._call("get_watermark_offsets")
        return 3, 9

    def offsets_for_times(self, asked: list[TopicPartition], **_: Any) -> list[TopicPartition]:
        self.calls.append(f"offsets for {asked[0].offset} ms")
        return [self.found]


class Listener:
    """Records its calls among those of the client, so that their order shows."""

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls
        self.error: Exception | None = None

    def acquire(self) -> int:
        self._record("acquire")
        return 7

    def hand_over(self) -> None:
        self._record("hand over")

    def release(self) -> None:
        self._record("release")

    def _record(self, what: str) -> None:
        self.calls.append(what)
        if self.error is not None:
            error, self.error = self.error, None
            raise error


def member(stop: Waits | None = None) -> tuple[SinglePartitionConsumer, ScriptedConsumer, Listener]:
    clients = ScriptedClients(stop, consumer=ScriptedConsumer)
    consumer = SinglePartitionConsumer(clients, topic="t", group_id="g", session_timeout_s=6.0)
    (client,) = clients.made
    listener = Listener(client.calls)
    consumer.subscribe(listener)
    client.calls.clear()
    return consumer, client, listener


def test_member_stays_where_it_is_when_others_join() -> None:
    _, client, _ = member()
    config = client.config
    assert config["partition.assignment.strategy"] == "cooperative-sticky"
    assert (config["session.timeout.ms"], config["heartbeat.interval.ms"]) == (6000, 1500)
    assert (config["isolation.level"], config["enable.auto.commit"]) == ("read_committed", False)
    assert "group.instance.id" not in config


@pytest.mark.parametrize(
    ("events", "calls"),
    [
        (["on_assign"], ["acquire", "assign at 7"]),
        (["on_revoke"], ["hand over", "release", "incremental_unassign"]),
        (["on_lost"], ["release", "incremental_unassign"]),
    ],
    ids=lambda case: case[0],
)
def test_member_follows_who_owns_the_partition(events: list[str], calls: list[str]) -> None:
    consumer, client, _ = member()
    client.before = events
    consumer.poll(10, 0.0)
    assert client.calls == calls


def test_member_that_closes_acquires_nothing() -> None:
    consumer, client, _ = member()
    consumer.close()
    client.calls.clear()
    client.before = ["on_assign"]
    consumer.poll(10, 0.0)
    assert client.calls == []


@pytest.mark.parametrize("event", ["on_assign", "on_revoke", "on_lost"])
def test_member_raises_what_its_listener_raised_after_the_rebalance(event: str) -> None:
    consumer, client, listener = member()
    client.before, listener.error = [event], FatalError("of the listener")
    with pytest.raises(FatalError, match="of the listener"):
        consumer.poll(10, 0.0)
    if event != "on_assign":
        assert client.calls[-2:] == ["release", "incremental_unassign"]
    assert consumer.poll(10, 0.0) == []


def test_member_reads_records_and_the_end_of_the_partition() -> None:
    consumer, client, _ = member()
    client.messages = [Message(7, b"a"), Message(9, None), Message(11, error=KafkaError._PARTITION_EOF)]
    assert consumer.poll(10, 0.0) == [
        (7, b"a", None, b"key", 5.0),
        (9, b"", None, b"key", 5.0),
        (11, None, None, None, 0.0),
    ]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (KafkaError._AUTO_OFFSET_RESET, "'t' was recreated, or its retention removed"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "does not let this worker read topic 't' as a member of group 'g'"),
        (KafkaError._FENCED, "no longer accepts this member of group 'g'"),
        (KafkaError._FATAL, "no longer accepts this member of group 'g'"),
    ],
)
def test_member_that_cannot_continue_says_why(code: int, said: str) -> None:
    consumer, client, _ = member()
    client.messages = [Message(error=code)]
    with pytest.raises(FatalError, match=said):
        consumer.poll(10, 0.0)


def test_member_waits_out_an_error_that_passes() -> None:
    consumer, client, _ = member()
    client.messages = [Message(error=KafkaError._TRANSPORT), Message(7, b"a")]
    assert consumer.poll(10, 0.0) == [(7, b"a", None, b"key", 5.0)]


def test_member_waits_for_the_transaction_of_an_earlier_owner() -> None:
    consumer, client, _ = member()
    client.errors["committed"] = [failure(KafkaError.UNSTABLE_OFFSET_COMMIT)] * 2
    consumer.await_stable_offset()
    assert client.calls == ["committed"] * 3
    client.errors["committed"] = [failure(KafkaError.GROUP_AUTHORIZATION_FAILED)]
    with pytest.raises(FatalError, match="refuses this worker's offsets"):
        consumer.await_stable_offset()


def test_member_gives_up_a_transaction_that_does_not_end() -> None:
    consumer, client, _ = member()
    client.errors["committed"] = [failure(KafkaError.UNSTABLE_OFFSET_COMMIT) for _ in range(1000)]
    with pytest.raises(FatalError, match="'t' cannot be read: the group's offsets are not stable"):
        consumer.await_stable_offset()


def test_member_waits_for_no_transaction_once_the_worker_stops() -> None:
    stop = Waits(stop_after=2)
    consumer, client, _ = member(stop)
    client.errors["committed"] = [failure(KafkaError.UNSTABLE_OFFSET_COMMIT) for _ in range(1000)]
    with pytest.raises(StopRequested):
        consumer.await_stable_offset()
    assert client.calls == ["committed"] * 2


def test_member_finds_offsets_by_time() -> None:
    consumer, client, _ = member()
    assert consumer.offsets() == (3, 9)
    client.found = TopicPartition("t", 0, 6)
    assert consumer.offset_at(1.5) == 6
    assert client.calls[-1] == "offsets for 1500 ms"
    client.found = TopicPartition("t", 0, -1)
    assert consumer.offset_at(-3.0) is None
    assert client.calls[-1] == "offsets for 0 ms"
    client.errors["get_watermark_offsets"] = [failure(KafkaError._TIMED_OUT)]
    with pytest.raises(FatalError, match="offsets of topic 't' cannot be read: scripted"):
        consumer.offsets()


def test_tail_reads_what_is_appended_from_its_offset_on() -> None:
    clients = ScriptedClients(consumer=ScriptedConsumer)
    tail = TailReader(clients, topic="t", group_id="g", offset=4)
    (client,) = clients.made
    assert client.calls == ["assign at 4"]
    client.messages = [Message(4, b"a"), Message(error=KafkaError._TRANSPORT), Message(5)]
    assert tail.poll() == [(4, b"a", None, b"key", 5.0), (5, None, None, b"key", 5.0)]
    tail.close()
    assert client.calls[-1] == "close"
