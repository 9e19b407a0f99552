"""End offsets: what is asked for, which answers are waited for, and which end it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import OFFSET_END, KafkaError

from tests.kafka.fakes import ScriptedClients, failure
from tokentrace.errors import ClientFailed, FatalError
from tokentrace.kafka.end_offsets import EndOffsets


class Scripted:
    """A consumer whose answers are scripted: partition -> end, or an error of the request or of a partition."""

    def __init__(self, config: dict[str, Any], **_: Any) -> None:
        self.config = config
        self.answers: list[Any] = []
        self.asked: list[list[tuple[str, int, int]]] = []
        self.timeouts: list[float] = []
        self.closed = False

    def offsets_for_times(self, partitions: list[Any], timeout: float) -> Any:
        self.asked.append([(tp.topic, tp.partition, tp.offset) for tp in partitions])
        self.timeouts.append(timeout)
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        error = answer if isinstance(answer, KafkaError) else None
        ends = {} if error else answer
        return [
            SimpleNamespace(partition=tp.partition, offset=ends.get(tp.partition, -1), error=error) for tp in partitions
        ]

    def close(self) -> None:
        self.closed = True


def ends(*answers: Any) -> tuple[EndOffsets, Scripted]:
    clients = ScriptedClients(consumer=Scripted)
    made = EndOffsets(clients, "t", "g", "read_committed")
    consumer: Scripted = clients.made[0]
    consumer.answers = list(answers)
    return made, consumer


def test_the_ends_of_all_partitions_are_one_request() -> None:
    found, consumer = ends({0: 5, 3: 0})
    with found as client:
        assert client.find([0, 3]) == {0: 5, 3: 0}
        assert client.find([]) == {}
    assert consumer.asked == [[("t", 0, OFFSET_END), ("t", 3, OFFSET_END)]]
    assert consumer.config["isolation.level"] == "read_committed"
    assert consumer.closed


@pytest.mark.parametrize(
    "answer",
    [
        failure(KafkaError._TIMED_OUT),
        failure(KafkaError._TIMED_OUT_QUEUE),
        failure(KafkaError._UNKNOWN_PARTITION),
        KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION),
        KafkaError(KafkaError.OFFSET_NOT_AVAILABLE),
    ],
    ids=["time-out", "time-out in a queue", "new topic", "election", "new leader"],
)
def test_an_answer_that_may_change_is_asked_for_again(answer: Any) -> None:
    found, consumer = ends(answer, answer, {0: 5})
    assert found.find([0]) == {0: 5}
    assert consumer.timeouts == [1.0, 2.0, 4.0]


def test_offsets_that_brokers_do_not_tell_are_an_outage() -> None:
    found, consumer = ends(*[failure(KafkaError._TIMED_OUT)] * 1000)
    with pytest.raises(ClientFailed, match="The end of topic 't' cannot be found: scripted"):
        found.find([0])
    assert max(consumer.timeouts) == 5.0


@pytest.mark.parametrize(
    "answer",
    [failure(KafkaError.TOPIC_AUTHORIZATION_FAILED), KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)],
    ids=["request", "partition"],
)
def test_a_refusal_is_final(answer: Any) -> None:
    found, consumer = ends(answer)
    with pytest.raises(FatalError) as error:
        found.find([0])
    assert not isinstance(error.value, ClientFailed)
    assert len(consumer.asked) == 1
