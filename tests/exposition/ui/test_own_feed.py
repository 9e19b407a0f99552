"""The own feed: what one replica counts between two looks, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.exposition.ui.helpers import NOW_MINUTE, at
from tests.harness import LAYOUT, Harness
from tests.spanfactory import message, span
from tokentrace.exposition.ui.own_feed import LONGEST_GAP_S, OwnFeed
from tokentrace.exposition.ui.view import View, summarize


class Looking:
    """A replica that counts, and somebody who looks."""

    def __init__(self) -> None:
        self.rig = Harness()
        self.feed = OwnFeed(replica="r", snapshot=lambda: self.rig.ledger.snapshot, layout=LAYOUT, clock=self.rig.clock)

    def count(self, *spans: dict[str, Any]) -> None:
        self.rig.count([message(record) for record in spans])
        self.rig.commit()

    def total(self) -> dict[str, Any]:
        self.feed.look(60.0)
        with self.feed.minutes() as (minutes, _):
            total: dict[str, Any] = summarize(minutes, View(), NOW_MINUTE)["total"]
        return total

    def figures(self) -> Sequence[Any]:
        total = self.total()
        return total["spans"], total["errors"], total["cost_nano_usd"]


def test_increments_between_looks_are_added_up() -> None:
    looking = Looking()
    looking.count(span(**at(0, cost_usd=5.0)))
    assert looking.figures() == (0, 0, "0")
    looking.count(span(**at(0, cost_usd=0.5)), span(**at(0, cost_usd=1.0, status="error", model="m")))
    assert looking.figures() == looking.figures() == (2, 1, "1500000000")
    looking.count(span(**at(0, cost_usd=0.25)))
    assert looking.figures() == (3, 1, "1750000000")


def test_sums_beyond_a_word_are_exact() -> None:
    looking = Looking()
    looking.total()
    for _ in range(5):
        looking.count(*[span(**at(0, cost_usd=1e6)) for _ in range(1000)])
        looking.total()
    assert looking.figures() == (5000, 0, str(5000 * 10**15))


def test_a_gap_between_looks_begins_again() -> None:
    looking = Looking()
    looking.total()
    looking.count(span(**at(0)))
    looking.rig.clock.now_s += LONGEST_GAP_S + 1
    assert looking.figures()[0] == 0
    with looking.feed.minutes() as (_, state):
        assert (state.from_s, state.fleet) == (looking.rig.clock.now_s, False)
