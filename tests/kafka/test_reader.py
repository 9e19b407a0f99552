"""Reading a topic whole: where it starts and ends, what it waits for, and what it gives up on."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, Message

from tests.kafka.fakes import Scripted, ScriptedClients, Waits, failure
from tokentrace.errors import ClientFailed, FatalError, StopRequested, UsageError
from tokentrace.kafka import reader as module
from tokentrace.kafka.reader import TopicReader, partition_count, result_of, retry_transient


def record(partition: int, offset: int, code: int | None = None) -> Message:
    """A consumed record, or an error in a record's place."""
    error = None if code is None else KafkaError(code, "scripted")
    return Message(topic="t", partition=partition, offset=offset, value=b"%d@%d" % (partition, offset), error=error)


def end_of(partition: int, offset: int) -> Message:
    return record(partition, offset, KafkaError._PARTITION_EOF)


class Broker:
    """One topic. ends: partition -> end. stable: the same for committed reads, one answer after the other."""

    def __init__(self, ends: dict[int, int], batches: Sequence[Sequence[Message]] = ()) -> None:
        self.ends = ends
        self.stable: list[dict[int, int]] = []
        self.failures: list[BaseException] = []
        self.refusal = KafkaError.UNKNOWN_TOPIC_OR_PART
        self.batches = [list(batch) for batch in batches]
        self.partition_counts = [len(ends)]
        self.assigned: list[tuple[int, int]] = []
        self.open = 0

    def reader(self, stop: Waits | None = None) -> TopicReader:
        broker = self

        class Admin(Scripted):
            def list_topics(self, topic: str | None = None, **_: Any) -> Any:
                if broker.failures:
                    raise broker.failures.pop(0)
                counts = broker.partition_counts
                count = counts.pop(0) if len(counts) > 1 else counts[0]
                return SimpleNamespace(topics={"t": SimpleNamespace(partitions=dict.fromkeys(range(count)))})

            def describe_topics(self, asked: Any, **_: Any) -> dict[str, Future[Any]]:
                return {"other": future(None, failure(broker.refusal))}

        class Consumer(Scripted):
            def __init__(self, *arguments: Any, **keywords: Any) -> None:
                super().__init__(*arguments, **keywords)
                broker.open += 1

            def offsets_for_times(self, asked: list[Any], **_: Any) -> Any:
                if broker.failures:
                    raise broker.failures.pop(0)
                ends = broker.ends
                if self.config["isolation.level"] == "read_committed" and broker.stable:
                    ends = broker.stable.pop(0)
                return [SimpleNamespace(partition=tp.partition, offset=ends[tp.partition], error=None) for tp in asked]

            def assign(self, partitions: list[Any]) -> None:
                broker.assigned += [(partition.partition, partition.offset) for partition in partitions]

            def consume(self, *_: Any) -> list[Message]:
                return broker.batches.pop(0) if broker.batches else []

            def close(self) -> None:
                broker.open -= 1

        self.clients = ScriptedClients(stop, admin=Admin, consumer=Consumer)
        return TopicReader(self.clients, "t", "g")


def future(result: Any, error: BaseException | None) -> Future[Any]:
    answer: Future[Any] = Future()
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)
    return answer


def read(broker: Broker, **starts: int) -> list[bytes | None]:
    found = broker.reader().read_to_end({int(name[1:]): offset for name, offset in starts.items()})
    return [message.value() for message in found]


def test_every_partition_is_read_in_order_up_to_its_end() -> None:
    broker = Broker({0: 3, 1: 2}, [[record(0, 0), record(1, 0)], [record(1, 1), record(0, 1), record(0, 2)]])
    assert read(broker, p0=0, p1=0) == [b"0@0", b"1@0", b"1@1", b"0@1", b"0@2"]
    assert broker.open == 0


def test_markers_of_transactions_count_as_offsets() -> None:
    broker = Broker({0: 4}, [[record(0, 0), record(0, 1)], [end_of(0, 4)]])
    assert read(broker, p0=0) == [b"0@0", b"0@1"]


def test_records_beyond_the_end_are_left_out() -> None:
    broker = Broker({0: 1, 1: 2}, [[record(0, 0), record(0, 1), record(1, 0), record(0, 2), record(1, 1)]])
    assert read(broker, p0=0, p1=0) == [b"0@0", b"1@0", b"1@1"]


def test_a_start_is_where_reading_begins_and_one_at_the_end_reads_nothing() -> None:
    broker = Broker({0: 9, 1: 5, 2: 0}, [[record(0, 7), record(0, 8)]])
    assert read(broker, p0=7, p1=5, p2=0) == [b"0@7", b"0@8"]
    assert broker.assigned == [(0, 7)]


def test_reader_does_not_read_empty_partitions() -> None:
    broker = Broker({0: 0})
    assert read(broker, p0=0) == []
    assert broker.assigned == []
    assert broker.open == 0


def test_open_transactions_below_the_end_are_waited_for() -> None:
    broker = Broker({0: 4}, [[record(0, 0), end_of(0, 4)]])
    broker.stable = [{0: 1}, {0: 1}, {0: 4}]
    assert read(broker, p0=0) == [b"0@0"]
    assert broker.stable == []


def test_without_a_wait_reading_ends_at_the_first_open_transaction() -> None:
    broker = Broker({0: 4}, [[record(0, 0), record(0, 1), record(0, 2)]])
    broker.stable = [{0: 1}]
    found = broker.reader().read_to_end({0: 0}, await_open=False)
    assert [message.value() for message in found] == [b"0@0"]


def test_a_topic_that_was_created_a_moment_ago_is_waited_for() -> None:
    broker = Broker({0: 1}, [[record(0, 0)]])
    broker.failures = [failure(KafkaError.UNKNOWN_TOPIC_OR_PART), failure(KafkaError.LEADER_NOT_AVAILABLE)]
    assert read(broker, p0=0) == [b"0@0"]


def test_missing_rights_are_an_error_at_once() -> None:
    broker = Broker({0: 1})
    broker.failures = [failure(KafkaError.TOPIC_AUTHORIZATION_FAILED)]
    with pytest.raises(FatalError, match=r"The end of topic 't' cannot be found: scripted"):
        read(broker, p0=0)


def test_an_error_in_a_records_place_is_an_error() -> None:
    broker = Broker({0: 1}, [[record(0, 0, KafkaError.TOPIC_AUTHORIZATION_FAILED)]])
    with pytest.raises(FatalError, match=r"'t' cannot be read: scripted"):
        read(broker, p0=0)
    assert broker.open == 0


@pytest.mark.parametrize(
    ("code", "passes"), [(KafkaError.NOT_LEADER_FOR_PARTITION, True), (KafkaError.TOPIC_AUTHORIZATION_FAILED, False)]
)
def test_an_error_of_an_outage_is_told_from_a_refusal(code: int, passes: bool) -> None:
    with pytest.raises(FatalError) as raised:
        read(Broker({0: 1}, [[record(0, 0, code)]]), p0=0)
    assert isinstance(raised.value, ClientFailed) is passes


def test_a_topic_that_stands_still_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALL_TIMEOUT_S", 0.0)
    with pytest.raises(FatalError, match="cannot be read to its end"):
        read(Broker({0: 1}), p0=0)
    broker = Broker({0: 1})
    broker.stable = [{0: 0}] * 2
    with pytest.raises(FatalError, match="A transaction on topic 't' does not end"):
        read(broker, p0=0)


def test_reading_ends_when_the_worker_stops() -> None:
    broker = Broker({0: 1})
    reader = broker.reader(Waits(stop_after=3))
    with pytest.raises(StopRequested):
        list(reader.read_to_end({0: 0}))
    assert broker.open == 0
    broker = Broker({0: 1})
    broker.stable = [{0: 0}] * 100
    with pytest.raises(StopRequested):
        list(broker.reader(Waits(stop_after=3)).read_to_end({0: 0}))
    assert len(broker.stable) == 97


def test_an_answer_that_does_not_come_is_not_waited_for_beyond_a_stop() -> None:
    stop = Waits()
    stop.set()
    with pytest.raises(StopRequested):
        result_of(Future(), stop)
    with pytest.raises(StopRequested):
        retry_transient(lambda _: None, 60.0, stop)


def test_partition_count_waits_for_a_new_topic_and_then_gives_up() -> None:
    broker = Broker({0: 0})
    broker.partition_counts = [0, 0, 12]
    assert broker.reader().partition_count() == 12
    broker.partition_counts = [0]
    broker.reader()
    with pytest.raises(FatalError, match="has no partitions"):
        partition_count(broker.clients, broker.clients.admin(), "t", timeout_s=0.0)


def test_exists_asks_the_broker_and_says_when_there_is_none() -> None:
    broker = Broker({0: 0})
    assert broker.reader().exists()
    assert not TopicReader(broker.clients, "other", "g").exists()
    broker.refusal = KafkaError.TOPIC_AUTHORIZATION_FAILED
    with pytest.raises(UsageError, match="'other' may not be described with these credentials"):
        TopicReader(broker.clients, "other", "g").exists()
    broker.failures = [failure(KafkaError._TRANSPORT) for _ in range(1000)]
    with pytest.raises(UsageError, match=r"No Kafka broker answers at x:1 \(scripted\)"):
        TopicReader(broker.clients, "t", "g").exists()
