"""Start offsets: what a member asks for, until the answer can be relied on."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, TopicPartition

from tests.kafka.fakes import Scripted, failure
from tokentrace.errors import FatalError
from tokentrace.kafka import offsets as module
from tokentrace.kafka.offsets import StartOffsets


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
def consumer(monkeypatch: pytest.MonkeyPatch) -> Consumer:
    monkeypatch.setattr(module.time, "sleep", lambda _: None)
    return Consumer()


@pytest.mark.parametrize("code", [KafkaError.UNSTABLE_OFFSET_COMMIT, KafkaError._TIMED_OUT])
def test_committed_offsets_are_asked_for_until_they_are_stable(consumer: Consumer, code: int) -> None:
    consumer.offsets = {0: 7}
    consumer.errors["committed"] = [failure(code), failure(code)]
    consumer.partition_errors = {1: code}
    assert StartOffsets(consumer, "t", "earliest").committed([0, 1]) == {0: 7, 1: None}  # type: ignore[arg-type]
    assert consumer.calls == ["committed"] * 4


@pytest.mark.parametrize("code", [KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.FENCED_INSTANCE_ID])
def test_committed_offsets_that_kafka_refuses_are_fatal(consumer: Consumer, code: int) -> None:
    consumer.errors["committed"] = [failure(code)]
    with pytest.raises(FatalError, match="refuses this worker's offsets: scripted"):
        StartOffsets(consumer, "t", "earliest").committed([0])  # type: ignore[arg-type]


@pytest.mark.parametrize(("start", "offset"), [("earliest", 4), ("latest", 90)])
def test_first_is_the_configured_end_once_there_is_a_leader(consumer: Consumer, start: Any, offset: int) -> None:
    consumer.errors["get_watermark_offsets"] = [failure(KafkaError.LEADER_NOT_AVAILABLE)]
    assert StartOffsets(consumer, "t", start).first(0) == offset  # type: ignore[arg-type]
