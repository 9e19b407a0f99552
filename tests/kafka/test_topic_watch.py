"""The topic watch: what it takes for deleted or recreated, and that a look waits for nothing."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError

from tests.kafka.fakes import Scripted, ScriptedClients, failure
from tokentrace.kafka.topic_watch import INTERVAL_S, Changes, TopicWatch

NOTHING = Changes(set(), set())
UNKNOWN = failure(KafkaError.UNKNOWN_TOPIC_OR_PART)


class Admin(Scripted):
    """A cluster that answers each request when `answer` is called."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.requests: list[Future[Any]] = []

    def describe_topics(self, topics: Any, **_: Any) -> dict[str, Future[Any]]:
        self.requests.append(Future())
        return {"state": self.requests[-1]}

    def answer(self, found: str | BaseException) -> None:
        if isinstance(found, BaseException):
            self.requests[-1].set_exception(found)
        else:
            self.requests[-1].set_result(SimpleNamespace(topic_id=found))


class Rig:
    """A watch of one topic, on a clock that `look` moves to the next request."""

    def __init__(self) -> None:
        self.now_s = 0.0
        clients = ScriptedClients(admin=Admin)
        self.watch = TopicWatch(clients, ["state"], lambda: self.now_s)
        self.admin: Admin = clients.made[0]

    def look(self, found: str | BaseException) -> Changes | None:
        """Return what a look finds whose request is answered so."""
        self.now_s += INTERVAL_S
        assert self.watch.look() is None, "the request is not answered yet"
        self.admin.answer(found)
        return self.watch.look()


def test_watch_is_in_doubt_after_one_answer_without_a_topic() -> None:
    rig = Rig()
    found = [(rig.look(answer), rig.watch.in_doubt) for answer in ("a", UNKNOWN, UNKNOWN, "a")]
    assert [doubt for _, doubt in found] == [False, True, False, False]
    assert found[2][0] == Changes({"state"}, set())


def test_watch_tells_a_topic_from_another_of_its_name() -> None:
    rig = Rig()
    assert [rig.look(found) for found in ("a", "a", "b", "b")] == [
        NOTHING, NOTHING, Changes(set(), {"state"}), NOTHING,
    ]  # fmt: skip


def test_watch_takes_a_topic_for_deleted_that_two_answers_in_a_row_do_not_have() -> None:
    rig = Rig()
    gone = Changes({"state"}, set())
    assert [rig.look(found) for found in ("a", UNKNOWN, "a", UNKNOWN, UNKNOWN, UNKNOWN)] == [
        NOTHING, NOTHING, NOTHING, NOTHING, gone, gone,
    ]  # fmt: skip


@pytest.mark.parametrize("code", [KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._TIMED_OUT, KafkaError._TRANSPORT])
def test_watch_concludes_nothing_from_an_answer_about_something_else(code: int) -> None:
    rig = Rig()
    assert [rig.look(found) for found in ("a", failure(code), failure(code), failure(code))] == [NOTHING] * 4


def test_watch_asks_now_and_then() -> None:
    rig = Rig()
    rig.look("a")
    assert [rig.watch.look() for _ in range(3)] == [None] * 3
    assert len(rig.admin.requests) == 1
