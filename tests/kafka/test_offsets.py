"""Start offsets: what a member asks for, until the answer can be relied on, the time is over or the worker stops."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, TopicPartition

from tests.kafka.fakes import Scripted, Waits, failure
from tokentrace.errors import FatalError, StopRequested, Unanswered
from tokentrace.kafka.offsets import Committed, CommittedOffsets, Start, StartOffsets


class Consumer(Scripted):
    """A member of a group that has committed these offsets. partition_errors: partition -> error code, once."""

    def __init__(self) -> None:
        super().__init__({})
        self.offsets: dict[int, int] = {}
        self.partition_errors: dict[int, int] = {}

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[Any]:
        self._call("committed")
        for asked in partitions:
            asked.offset = self.offsets.get(asked.partition, -1001)
        if self.partition_errors:
            partition, code = self.partition_errors.popitem()
            return [
                type("Result", (), {"partition": partition, "offset": -1001, "error": KafkaError(code, "scripted")})
            ]
        return partitions

    def get_watermark_offsets(self, *_: Any, **__: Any) -> tuple[int, int]:
        self._call("get_watermark_offsets")
        return 4, 90


@pytest.fixture
def consumer() -> Consumer:
    return Consumer()


def committed(consumer: Consumer, stop: Waits | None = None) -> CommittedOffsets:
    return CommittedOffsets(consumer, "t", stop or Waits())  # type: ignore[arg-type]


def start_offsets(consumer: Consumer, stop: Waits | None = None) -> StartOffsets:
    return StartOffsets(consumer, "t", stop or Waits())  # type: ignore[arg-type]


@pytest.mark.parametrize("code", [KafkaError.UNSTABLE_OFFSET_COMMIT, KafkaError._TIMED_OUT])
def test_committed_offsets_are_asked_for_until_they_are_stable(consumer: Consumer, code: int) -> None:
    consumer.offsets = {0: 7}
    consumer.errors["committed"] = [failure(code), failure(code)]
    consumer.partition_errors = {1: code}
    assert committed(consumer).stable([0, 1], 30.0) == {0: Committed(7), 1: None}
    assert consumer.calls == ["committed"] * 4


@pytest.mark.parametrize("code", [KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.FENCED_INSTANCE_ID])
def test_committed_offsets_that_kafka_refuses_are_fatal(consumer: Consumer, code: int) -> None:
    consumer.errors["committed"] = [failure(code)]
    with pytest.raises(FatalError, match="refuses this worker's offsets: scripted"):
        committed(consumer).stable([0], 30.0)


def test_committed_offsets_that_stay_unstable_are_given_up_in_time(consumer: Consumer) -> None:
    consumer.errors["committed"] = [failure(KafkaError.UNSTABLE_OFFSET_COMMIT)]
    with pytest.raises(Unanswered, match=r"the group's offsets are not stable \(scripted\)"):
        committed(consumer).stable([0], 0.0)


def test_committed_offsets_are_not_waited_for_beyond_a_stop(consumer: Consumer) -> None:
    stop = Waits(stop_after=2)
    consumer.errors["committed"] = [failure(KafkaError.UNSTABLE_OFFSET_COMMIT) for _ in range(100)]
    with pytest.raises(StopRequested):
        committed(consumer, stop).stable([0], 30.0)
    assert consumer.calls == ["committed"] * 2
    with pytest.raises(StopRequested):
        committed(consumer, stop).stable([0], 30.0)
    assert consumer.calls == ["committed"] * 2, "nothing is asked once the worker stops"


def test_a_partition_begins_where_the_group_is(consumer: Consumer) -> None:
    consumer.offsets = {0: 7}
    assert start_offsets(consumer).find([0], 30.0) == ({0: Start(7, 7)}, {})


def test_a_partition_that_was_never_committed_begins_at_its_beginning_once_it_has_a_leader(consumer: Consumer) -> None:
    consumer.errors["get_watermark_offsets"] = [failure(KafkaError.LEADER_NOT_AVAILABLE)]
    assert start_offsets(consumer).find([0], 30.0) == ({0: Start(4, None)}, {})


def test_partitions_that_a_new_group_skips_begin_at_their_end_and_later_ones_at_their_beginning(
    consumer: Consumer,
) -> None:
    starts = start_offsets(consumer)
    starts.skip_unless_known(2)
    found, _ = starts.find(range(3), 30.0)
    assert [start.offset for start in found.values()] == [90, 90, 4]


def test_a_partition_begins_at_its_beginning_where_the_group_has_read_any(consumer: Consumer) -> None:
    consumer.offsets = {1: 0}
    starts = start_offsets(consumer)
    starts.skip_unless_known(2)
    found, _ = starts.find([0], 30.0)
    assert found == {0: Start(4, None)}


def test_partitions_without_a_known_start_hold_up_no_others(consumer: Consumer) -> None:
    consumer.offsets = {0: 7}
    consumer.errors["get_watermark_offsets"] = [failure(KafkaError.LEADER_NOT_AVAILABLE) for _ in range(1000)]
    found, unknown = start_offsets(consumer).find([0, 1, 2], 30.0)
    assert (list(found), list(unknown)) == ([0], [1, 2])
    assert unknown[2] == "it has no leader (scripted)"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (KafkaError._UNKNOWN_PARTITION, "topic 't' has no such partition"),
        (KafkaError.LEADER_NOT_AVAILABLE, "it has no leader"),
    ],
)
def test_watermarks_of_a_partition_without_a_leader_are_given_up_in_time(
    consumer: Consumer, code: int, reason: str
) -> None:
    consumer.errors["get_watermark_offsets"] = [failure(code) for _ in range(100)]
    with pytest.raises(Unanswered, match=reason):
        start_offsets(consumer).watermarks(1, 0.0)


@pytest.mark.parametrize("code", [KafkaError._UNKNOWN_PARTITION, KafkaError.LEADER_NOT_AVAILABLE])
def test_watermarks_are_not_waited_for_beyond_a_stop(consumer: Consumer, code: int) -> None:
    consumer.errors["get_watermark_offsets"] = [failure(code) for _ in range(100)]
    with pytest.raises(StopRequested):
        start_offsets(consumer, stop=Waits(stop_after=3)).watermarks(1, 30.0)
    assert consumer.calls == ["get_watermark_offsets"] * 3
