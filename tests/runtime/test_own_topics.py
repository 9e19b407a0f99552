"""Own topics under a running worker: created again where that is safe, and the end of the worker where it is not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kafka.fakes import ScriptedClients
from tokentrace.config import Config
from tokentrace.errors import FatalError
from tokentrace.kafka.topic_watch import Changes
from tokentrace.runtime.own_topics import OwnTopics


class Watch:
    """Finds what is scripted, then nothing."""

    def __init__(self, *found: Changes | None) -> None:
        self._found = list(found)

    in_doubt = False

    def look(self, wait_s: float = 0.0) -> Changes | None:
        return self._found.pop(0) if self._found else Changes(set(), set())


class SetUp:
    """Creates topics, after it has failed as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.calls = 0

    def __call__(self, *_: Any) -> None:
        self.calls += 1
        if self.calls <= self.failures:
            raise FatalError("Topic 'g.rollups' cannot be created.")


def topics_of(set_up: SetUp, *found: Changes | None) -> OwnTopics:
    config = Config.model_validate({"kafka": {"topic": "spans", "group_id": "g"}})
    watch: Any = Watch(*found)
    return OwnTopics(config, ScriptedClients(), set_up, watch)


def deleted(*names: str) -> Changes:
    return Changes(set(names), set())


@pytest.mark.parametrize("kind", ["deleted", "recreated"])
def test_a_worker_ends_whose_state_topic_is_gone(kind: str) -> None:
    set_up = SetUp()
    topics = topics_of(set_up, Changes(**{"deleted": set(), "recreated": set(), kind: {"g.state"}}))
    with pytest.raises(FatalError, match=f"Topic 'g.state' was {kind} under this worker.*Restore the topic"):
        topics.check()
    assert set_up.calls == 0, "an empty state would let the totals begin again"


@pytest.mark.parametrize("name", ["spans.dead-letters", "g.rollups"])
def test_another_topic_that_was_deleted_is_created_again_and_named(name: str, caplog: pytest.LogCaptureFixture) -> None:
    set_up = SetUp()
    topics = topics_of(set_up, None, deleted(name))
    topics.check()
    assert topics.problem == ""
    topics.check()
    assert topics.problem == f"the topics ['{name}'] were deleted"
    topics.check()
    assert (topics.problem, set_up.calls) == ("", 1)
    [line] = caplog.messages
    assert line.startswith(f"Topic {name} was deleted under this worker, and is created again. ")


def test_a_topic_that_cannot_be_created_is_tried_again_and_keeps_the_worker_unready(
    caplog: pytest.LogCaptureFixture,
) -> None:
    set_up = SetUp(failures=1)
    topics = topics_of(set_up, deleted("g.rollups"), deleted("g.rollups"))
    topics.check()
    assert topics.problem
    topics.check()
    assert set_up.calls == 2
    assert "cannot be created" in caplog.messages[0]
    assert "is created again" in caplog.messages[1]


def test_a_recovery_looks_again_until_it_is_sure_that_the_state_topic_is_gone() -> None:
    topics = topics_of(SetUp())
    watch: Any = topics._watch
    answers = [Changes(set(), set()), None, deleted("g.state")]

    def look(wait_s: float) -> Changes | None:
        answer = answers.pop(0)
        watch.in_doubt = bool(answers)
        return answer

    watch.look = look
    with pytest.raises(FatalError, match="state' was deleted under this worker"):
        topics.check_surely()


def test_a_recovery_goes_on_where_no_topic_is_missing() -> None:
    topics = topics_of(SetUp(), None, deleted("g.state"))
    topics.check_surely()
    assert topics.problem == ""
