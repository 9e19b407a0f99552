"""Figures of `top` from Kafka: the rollups of a window in bounded memory, and damage that leaves the rest shown."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Message

from tests.harness import LAYOUT
from tests.kafka.fakes import Scripted, ScriptedClients
from tests.spanfactory import message, span
from tests.state.test_followed import records_of
from tests.state.test_positions import StateTopic
from tests.state.test_tally import Replica
from tokentrace.kafka.moves import LogBounds
from tokentrace.model.snapshot import Group
from tokentrace.state import StateCodec
from tokentrace.state.followed import FollowedTotals
from tokentrace.state.records import Progress
from tokentrace.tools import top_rollups
from tokentrace.tools.top_kafka import _add, _sums_of
from tokentrace.tools.top_rollups import RecentRollups

SPANS = LAYOUT.column("spans")


class RollupsTopic:
    """The rollups topic, in the place of its readers. records: (Unix time of the commit, value)."""

    def __init__(self) -> None:
        self.records: list[tuple[float, bytes]] = []
        self._codec = StateCodec(LAYOUT)

    def end_offsets(self, partitions: list[int]) -> dict[int, int]:
        return dict.fromkeys(partitions, len(self.records))

    def bounds(self, partitions: list[int]) -> dict[int, LogBounds]:
        return dict.fromkeys(partitions, LogBounds(0, len(self.records)))

    def first_since(self, times_s: Mapping[int, float]) -> dict[int, int]:
        since = (offset for offset, (at_s, _) in enumerate(self.records) if at_s >= times_s[0])
        return {0: next(since, -1)}

    def read_to_end(self, starts: Mapping[int, int], *, await_open: bool = True) -> Iterator[Message]:
        for offset, (_, value) in enumerate(self.records[starts[0] :], starts[0]):
            yield Message(topic="rollups", partition=0, offset=offset, key=None, value=value, headers=None)

    def commit(self, at_s: float, spans: Mapping[tuple[Group, int], int]) -> None:
        values = np.zeros((len(spans), LAYOUT.width), np.int64)
        values[:, SPANS] = list(spans.values())
        minutes = np.full(len(spans), int(at_s // 60))
        written = self._codec.rollups("r", at_s, minutes, list(spans), values, Progress())
        self.records += [(at_s, value) for value in written]


class Clock:
    def __init__(self, now_s: float) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def recent(topic: RollupsTopic, window_s: float, clock: Clock) -> RecentRollups:
    found = RecentRollups(ScriptedClients(admin=Scripted), "rollups", "g", LAYOUT, np.array([SPANS]), window_s, clock)
    reader: Any = topic
    found._topic = found._bounds = reader
    return found


@pytest.mark.parametrize("seed", range(3))
def test_a_window_is_what_was_committed_in_it_in_the_memory_of_its_slices(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(top_rollups, "UNSUMMED_ROWS", 20)
    rng = random.Random(seed)
    topic, clock, window_s = RollupsTopic(), Clock(1_790_000_000.0), 60.0
    cells = [(Group(model, "p", ""), status) for model in "mno" for status in (0, 1)]
    commits: deque[tuple[float, Counter[tuple[Group, int]]]] = deque()
    found = recent(topic, window_s, clock)
    for _ in range(15):
        for _ in range(rng.choice((0, 60))):
            at_s = round(clock.now_s - rng.random() * 4, 6)
            spans = Counter({cell: rng.randrange(1, 9) for cell in rng.sample(cells, 3)})
            commits.append((at_s, spans))
            topic.commit(at_s, spans)
        clock.now_s += rng.choice((0.3, 5.0, 70.0))
        found.refresh()
        since_s = clock.now_s - window_s
        assert 0 <= since_s - found._since_s < window_s / top_rollups.SLICES
        wanted: Counter[tuple[Group, int]] = Counter()
        for at_s, spans in commits:
            if at_s >= found._since_s:
                wanted.update(spans)
        assert {cell: int(row[0]) for cell, row in found.sums().items()} == wanted
        held = sum(len(keys) for rows in found._slices.values() for keys, _ in rows)
        assert held <= len(cells) * (top_rollups.SLICES + 5)
        assert found.seconds == pytest.approx(clock.now_s - max(found._since_s, found._began_s), abs=1.0)


def test_a_replica_whose_own_record_is_damaged_has_no_quantiles_and_all_sums() -> None:
    replica, topic = Replica(None), StateTopic(1)
    reader: Any = topic
    replica.counted([message(span(latency_ms=70.0)), message(span(latency_ms=800.0))])
    *cells, last = records_of(replica)
    for record in cells:
        topic.put("a", record["key"], record["value"], record["headers"])
    topic.put("a", last["key"], last["value"][:-1] + b"\x07", last["headers"])
    followed = FollowedTotals(reader)
    counts = followed.refresh()["a"]
    assert len(followed.unreadable) == 1
    samples: Counter[Any] = Counter()
    _add(samples, _sums_of(counts), counts.bounds.get("latency_ms", ()))
    assert sum(count for (name, _), count in samples.items() if name == "tokentrace_spans_total") == 2
    assert not any(name.endswith("_bucket") for name, _ in samples)
