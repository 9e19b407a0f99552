"""Start offsets: what a member asks for, until the answer can be relied on, the time is over or the worker stops."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, TopicPartition

from tests.kafka.fakes import Scripted, Waits, failure
from tokentrace.errors import FatalError, StopRequested, Unanswered
from tokentrace.kafka.offsets import CommittedOffsets, StartOffsets


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
    assert committed(consumer).stable([0, 1], 30.0) == {0: 7, 1: None}
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


def test_first_is_the_beginning_once_there_is_a_leader(consumer: Consumer) -> None:
    consumer.errors["get_watermark_offsets"] = [failure(KafkaError.LEADER_NOT_AVAILABLE)]
    assert start_offsets(consumer).first(0, 30.0) == 4


def test_first_is_the_end_of_partitions_that_a_new_group_skips_and_the_beginning_of_later_ones(
    consumer: Consumer,
) -> None:
    starts = start_offsets(consumer)
    starts.skip_unless_known(committed(consumer), 2)
    assert [starts.first(partition, 30.0) for partition in range(3)] == [90, 90, 4]


def test_first_is_the_beginning_where_the_group_has_read_any_partition(consumer: Consumer) -> None:
    consumer.offsets = {1: 0}
    starts = start_offsets(consumer)
    starts.skip_unless_known(committed(consumer), 2)
    assert starts.first(0, 30.0) == 4


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
