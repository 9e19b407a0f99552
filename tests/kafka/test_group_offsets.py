"""Group offsets: what is read, what is changed, and what is said where Kafka does not allow it."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, TopicPartition

from tests.kafka.fakes import Scripted, ScriptedClients, failure
from tokentrace.errors import FatalError, UsageError
from tokentrace.kafka.group_offsets import GroupOffsets, ProgressOffsets
from tokentrace.kafka.offsets import Committed


class Admin(Scripted):
    """A cluster in which the group g has committed these offsets. error: what every request is answered with."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.offsets: list[TopicPartition] = []
        self.error: BaseException | None = None
        self.altered: list[tuple[str, int, int]] = []

    def _answer(self, partitions: list[Any]) -> dict[str, Future[Any]]:
        answer: Future[Any] = Future()
        if self.error is not None:
            answer.set_exception(self.error)
        else:
            answer.set_result(SimpleNamespace(topic_partitions=partitions))
        return {"g": answer}

    def list_consumer_group_offsets(self, requests: list[Any]) -> Any:
        assert [request.group_id for request in requests] == ["g"]
        return self._answer(self.offsets)

    def alter_consumer_group_offsets(self, changes: list[Any]) -> Any:
        [change] = changes
        self.altered = [(target.topic, target.partition, target.offset) for target in change.topic_partitions]
        return self._answer(self.offsets)


@pytest.fixture
def parts() -> tuple[GroupOffsets, Admin]:
    clients = ScriptedClients(admin=Admin)
    offsets = GroupOffsets(clients, "g", "spans")
    return offsets, clients.made[0]


def test_committed_offsets_are_those_of_the_topic(parts: tuple[GroupOffsets, Admin]) -> None:
    offsets, admin = parts
    admin.offsets = [TopicPartition("spans", 0, 7), TopicPartition("other", 1, 9), TopicPartition("spans", 2, -1001)]
    assert offsets.committed() == {0: Committed(7)}
    admin.error = failure(KafkaError.GROUP_AUTHORIZATION_FAILED)
    with pytest.raises(UsageError, match=r"The offsets of group 'g' cannot be read \(scripted\)"):
        offsets.committed()


def test_altered_offsets_are_sent_as_they_are(parts: tuple[GroupOffsets, Admin]) -> None:
    offsets, admin = parts
    offsets.alter({0: 7, 3: 9})
    assert admin.altered == [("spans", 0, 7), ("spans", 3, 9)]


def test_alter_says_that_workers_have_to_be_stopped(parts: tuple[GroupOffsets, Admin]) -> None:
    offsets, admin = parts
    admin.error = failure(KafkaError.NON_EMPTY_GROUP)
    with pytest.raises(UsageError, match="stop its workers first"):
        offsets.alter({0: 7})
    admin.error = None
    admin.offsets = [SimpleNamespace(error=KafkaError(KafkaError.UNKNOWN_MEMBER_ID, "member"))]  # type: ignore[list-item]
    with pytest.raises(UsageError, match=r"cannot be changed \(.*member.*\); stop its workers first"):
        offsets.alter({0: 7})


class Consumer(Scripted):
    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.offsets: dict[int, int] = {}

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        self._call("committed")
        return [
            TopicPartition(asked.topic, asked.partition, self.offsets.get(asked.partition, -1001))
            for asked in partitions
        ]

    def consumer_group_metadata(self) -> str:
        return "member"


def test_progress_is_read_and_has_what_a_transaction_needs_to_commit_it() -> None:
    clients = ScriptedClients(consumer=Consumer)
    progress = ProgressOffsets(clients, "g", "dead")
    assert progress.committed([0, 1]) == {}
    clients.made[0].offsets = {1: 5}
    assert progress.committed([0, 1]) == {1: 5}
    assert progress.member() == "member"
    progress.close()
    assert clients.made[0].calls == ["committed", "committed", "close"]


def test_progress_that_cannot_be_read_is_fatal() -> None:
    clients = ScriptedClients(consumer=Consumer)
    progress = ProgressOffsets(clients, "g", "dead")
    clients.made[0].errors = {"committed": [failure(KafkaError.GROUP_AUTHORIZATION_FAILED)]}
    with pytest.raises(FatalError, match="cannot be read"):
        progress.committed([0])
