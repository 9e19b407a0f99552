"""Followed totals: whole commits only, wherever what can be read ends, and damage that costs no more than itself."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.harness import LAYOUT
from tests.spanfactory import message, span
from tests.state.test_positions import StateTopic
from tests.state.test_tally import IDLE_S, Replica
from tokentrace.model.measures import SUMS
from tokentrace.state.followed import Counts, FollowedTotals


class CutTopic(StateTopic):
    """A topic of which only the first records can be read yet."""

    readable = 0

    def read_to_end(self, starts: Any, *, await_open: bool = True) -> Any:
        assert not await_open, "who looks waits for no transaction"
        return (found for found in super().read_to_end(starts) if (found.offset() or 0) < self.readable)


def records_of(replica: Replica) -> list[dict[str, Any]]:
    """Commit; return the state's records in the order in which they are written."""
    proposal = replica.state.prepare()
    replica.committer.commit(proposal)
    replica.state.apply(proposal)
    produced = replica.clients.made[0].records
    written = [record for record in produced if record["topic"] == "the.state"]
    produced.clear()
    return written


def sums(cells: dict[Any, Counts]) -> tuple[int, ...]:
    return tuple(sum(counts[name] for counts in cells.values()) for name in SUMS)


@pytest.mark.parametrize("seed", range(3))
def test_a_commit_is_followed_whole_or_not_at_all(seed: int) -> None:
    """Over expiry; the end of what can be read moves on by one record at a time."""
    rng = random.Random(seed)
    replica, topic = Replica(None), CutTopic(1)
    reader: Any = topic
    followed = FollowedTotals(reader)
    allowed = {(0,) * len(SUMS)}
    for _ in range(12):
        replica.counted([message(span(model=rng.choice("mnop"), caller=rng.choice("abc"))) for _ in range(5)])
        replica.clock.now_s += rng.choice([1.0, IDLE_S / 2, IDLE_S])
        written = records_of(replica)
        for record in written:
            topic.put("a", record["key"], record["value"], record["headers"])
        values = replica.state.snapshot.values[:, : len(SUMS)].sum(axis=0).tolist()
        allowed.add(tuple(values))
        for _ in written:
            topic.readable += 1
            assert sums(followed.refresh()["a"].cells if followed.refresh() else {}) in allowed
        assert sums(followed.refresh()["a"].cells) == tuple(values)
    assert len(allowed) > 10
    again = FollowedTotals(reader).refresh()["a"]
    assert again.cells == followed.refresh()["a"].cells
    assert again.bounds["latency_ms"] == list(LAYOUT.histograms["latency_ms"].bounds)


def test_rejected_messages_are_followed() -> None:
    replica, topic = Replica(None), StateTopic(1)
    reader: Any = topic
    replica.counted([message(span()), b"junk", b"more junk"])
    for record in records_of(replica):
        topic.put("a", record["key"], record["value"], record["headers"])
    assert FollowedTotals(reader).refresh()["a"].rejected == {"unknown_framing": 2}


def test_a_damaged_record_costs_itself_alone_and_is_named() -> None:
    replica, topic = Replica(None), StateTopic(1)
    reader: Any = topic
    replica.counted([message(span(model=model)) for model in "mn"])
    first, *others = records_of(replica)
    topic.put("a", first["key"], first["value"][:-1] + b"\x07", first["headers"])
    for record in others:
        topic.put("a", record["key"], record["value"], record["headers"])
    followed = FollowedTotals(reader)
    assert [counts["spans"] for counts in followed.refresh()["a"].cells.values()] == [1]
    (problem,) = followed.unreadable
    assert problem.startswith("The record at offset 0 of topic 'state', partition 0, key ")


def test_a_topic_that_was_created_again_is_read_from_its_beginning() -> None:
    replica, topic = Replica(None), StateTopic(1)
    reader: Any = topic
    followed = FollowedTotals(reader)
    for model in "mn":
        replica.counted([message(span(model=model))])
        written = records_of(replica)
        for record in written:
            topic.put("a", record["key"], record["value"], record["headers"])
    assert len(followed.refresh()["a"].cells) == 2
    topic.logs[0].clear()
    topic.put("b", written[-1]["key"], written[-1]["value"], written[-1]["headers"])
    assert len(followed.refresh()["a"].cells) == 0
