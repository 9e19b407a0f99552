"""The offset check: the group's offsets against what the state has counted, and the marks that tell them apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tokentrace.commit import StateTopic
from tokentrace.kafka.offsets import Start
from tokentrace.runtime.offset_check import OffsetCheck
from tokentrace.state.log_generations import LogPosition
from tokentrace.state.offset_mark import mark_of

HERE, GONE = "AjqRLwqYRoWmxd", "K1psQw0wSCe3QA"


class Committer:
    """A committer that knows how far replicas have counted: by the first look, by the second, and so on."""

    def __init__(self, *looks: Mapping[int, int], state_id: str | None = HERE) -> None:
        self._looks = list(looks)
        self.state_topic = None if state_id is None else StateTopic("spans.state", state_id)

    def counted_up_to(self) -> dict[int, LogPosition]:
        look = self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]
        return {partition: LogPosition(0, offset) for partition, offset in look.items()}


def check_of(*looks: Mapping[int, int], state_id: str | None = HERE, end: int | None = 1000) -> OffsetCheck:
    committer: Any = Committer(*looks, state_id=state_id)
    check = OffsetCheck(committer=committer, own_position=lambda _: 0, log_end=lambda _: end)
    check.load()
    return check


def at(offset: int, metadata: str = "") -> dict[int, Start]:
    return {0: Start(offset, offset, metadata=metadata)}


@pytest.mark.parametrize("counted", [{}, {0: 20}], ids=["nothing", "less, as a restored copy has"])
def test_check_refuses_an_offset_whose_state_is_gone(counted: dict[int, int], caplog: pytest.LogCaptureFixture) -> None:
    check = check_of(counted)
    assert check.check(at(50, mark_of(GONE))) == ({0}, {}, {})
    assert check.lost == {0}
    [line] = caplog.messages
    assert line.startswith("Partition 0 is not consumed: spans up to offset 50 were counted")
    assert "spans.state" in line
    assert "`tokentrace state reset --offsets`" in line
    assert "`tokentrace state reset --positions`" in line


@pytest.mark.parametrize(
    ("counted", "metadata", "state_id"),
    [
        pytest.param({0: 50}, mark_of(GONE), HERE, id="the state was restored from a copy"),
        pytest.param({}, mark_of(HERE), HERE, id="the totals of its replica were removed"),
        pytest.param({0: 20}, mark_of(HERE), HERE, id="the record of its replica cannot be read"),
        pytest.param({}, mark_of(GONE), "", id="the state topic may not be described"),
        pytest.param({}, mark_of(""), HERE, id="it could not be described before"),
        pytest.param({}, mark_of(GONE), None, id="this worker keeps no state"),
    ],
)
def test_check_accepts_what_its_state_has_counted_or_may_have(
    counted: dict[int, int], metadata: str, state_id: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    check = check_of(counted, state_id=state_id)
    assert check.check(at(50, metadata)) == (set(), {}, {})
    assert (check.lost, caplog.messages) == (set(), [])


def test_check_finds_the_gap_before_an_offset_that_was_set_ahead_and_logs_it_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    check = check_of({0: 20})
    # The second time after a commit that was dropped, and the gap with it.
    assert [check.check(at(50)) for _ in range(2)] == [(set(), {0: 50}, {0: 30})] * 2
    [line] = caplog.messages
    assert "spans are counted only up to offset 20. Up to 30 records are left out" in line
    assert check.check(at(60)) == (set(), {0: 60}, {0: 40})


def test_check_counts_no_gap_of_what_another_replica_has_counted_since_the_first_look() -> None:
    check = check_of({0: 20}, {0: 50})
    assert check.check(at(50)) == (set(), {}, {})


def test_check_refuses_no_offset_of_another_state_that_this_one_has_counted_since_the_first_look() -> None:
    check = check_of({}, {0: 50})
    assert check.check(at(50, mark_of(GONE))) == (set(), {}, {})


def test_check_begins_without_a_gap_where_nothing_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    check = check_of({1: 20})
    assert check.check(at(50)) == (set(), {0: 50}, {})
    assert "The state has counted nothing of the partition" in caplog.text


def test_check_leaves_an_offset_beyond_the_log_to_the_source(caplog: pytest.LogCaptureFixture) -> None:
    check = check_of({0: 20}, end=30)
    assert check.check(at(50)) == (set(), {}, {})
    assert caplog.messages == []


def test_check_without_a_state_finds_no_gap(caplog: pytest.LogCaptureFixture) -> None:
    check = check_of({}, state_id=None)
    assert check.check(at(50)) == (set(), {}, {})
    assert caplog.messages == []
