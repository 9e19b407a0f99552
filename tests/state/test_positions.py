"""Counted positions: the highest offset of any replica, wherever its record is, and as of the last look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka import Message

from tests.harness import LAYOUT, Harness
from tokentrace.kafka.producer import partition_of
from tokentrace.model.snapshot import ExpiredKey, Group
from tokentrace.state import StateCodec, cell_key, expired_key, replica_key
from tokentrace.state.headers import Header
from tokentrace.state.log_generations import decode_generations, encode_generations
from tokentrace.state.positions import CountedPositions
from tokentrace.state.totals import Totals


class StateTopic:
    """The state topic, in the place of its reader."""

    def __init__(self, partitions: int = 12) -> None:
        self.logs: list[list[tuple[bytes | None, bytes | None, list[Header]]]] = [[] for _ in range(partitions)]
        self.starts: list[Mapping[int, int]] = []

    def partition_count(self) -> int:
        return len(self.logs)

    def end_offsets(self, partitions: list[int]) -> dict[int, int]:
        return {partition: len(self.logs[partition]) for partition in partitions}

    def read_to_end(self, starts: Mapping[int, int], *, await_open: bool = True) -> Iterator[Message]:
        self.starts.append(dict(starts))
        for partition, start in starts.items():
            for offset, (key, value, headers) in enumerate(self.logs[partition][start:], start):
                yield Message(
                    topic="state", partition=partition, offset=offset, key=key, value=value, headers=headers or None
                )

    def put(self, replica: str, key: bytes | None, value: bytes | None, headers: Sequence[Header] = ()) -> None:
        self.logs[partition_of(replica, len(self.logs))].append((key, value, list(headers)))

    def commit(
        self, replica: str, positions: dict[int, int], topic: str = "spans", generations: Mapping[int, int] = {}
    ) -> None:
        totals = replace(Totals.empty(LAYOUT), positions=positions)
        value = StateCodec(LAYOUT).replica(replica, topic, totals)
        self.put(replica, replica_key(replica), value, encode_generations(topic, generations))


@pytest.fixture
def state() -> StateTopic:
    return StateTopic()


@pytest.fixture
def positions(state: StateTopic) -> CountedPositions:
    reader: Any = state
    return CountedPositions(reader, "spans")


def offsets_of(positions: CountedPositions) -> dict[int, int]:
    """The offsets of a new look, of logs that have lost nothing."""
    found = positions.refresh()
    assert {position.generation for position in found.values()} <= {0}
    return {partition: position.offset for partition, position in found.items()}


@pytest.mark.parametrize("replicas", [1, 2, 5, 40])
def test_positions_are_the_highest_of_any_number_of_replicas(
    state: StateTopic, positions: CountedPositions, replicas: int
) -> None:
    for number in range(replicas):
        state.commit(f"r-{number}", {0: 10 + number, number + 1: 7})
    found = offsets_of(positions)
    assert found[0] == 9 + replicas
    assert {partition: found[partition] for partition in range(1, replicas + 1)} == dict.fromkeys(
        range(1, replicas + 1), 7
    )


def test_positions_follow_what_others_have_counted_since_the_last_look(
    state: StateTopic, positions: CountedPositions
) -> None:
    state.commit("a", {0: 5})
    assert offsets_of(positions) == {0: 5}
    state.commit("b", {0: 9, 1: 2})
    state.commit("a", {0: 5, 2: 3})
    assert offsets_of(positions) == {0: 9, 1: 2, 2: 3}
    assert sum(state.starts[1].values()) == 1, "a later look reads what is new"


def test_positions_that_were_forgotten_or_deleted_no_longer_count(
    state: StateTopic, positions: CountedPositions
) -> None:
    state.commit("a", {0: 50})
    state.commit("b", {0: 40})
    assert offsets_of(positions) == {0: 50}
    state.put("a", replica_key("a"), None)
    assert offsets_of(positions) == {0: 40}
    state.commit("b", {0: 0})
    assert offsets_of(positions) == {0: 0}


def test_positions_pass_over_cells_other_topics_and_unknown_keys(
    state: StateTopic, positions: CountedPositions
) -> None:
    strange = 'a","b'
    state.commit(strange, {3: 8})
    state.commit("other", {0: 99}, topic="another")
    for key in (cell_key("a", Group("m", "p", "c"), 0), expired_key("a", ExpiredKey(None, None, 1)), b"", None, b"{"):
        state.put("a", key, b"not a replica's record")
    assert offsets_of(positions) == {3: 8}


def test_positions_of_a_harness_are_those_that_it_has_committed(state: StateTopic, positions: CountedPositions) -> None:
    rig = Harness()
    rig.count([b"junk"] * 3)
    rig.commit()
    state.put("r0", replica_key("r0"), StateCodec(LAYOUT).replica("r0", "spans", rig.ledger.totals))
    assert offsets_of(positions) == dict(rig.ledger.totals.positions)


def test_positions_in_a_log_that_lost_its_tail_count_more_than_higher_offsets_before(
    state: StateTopic, positions: CountedPositions
) -> None:
    state.commit("a", {0: 3000, 1: 7})
    state.commit("b", {0: 2800})
    state.commit("a", {0: 2000, 1: 7}, generations={0: 1})
    assert positions.refresh() == {0: (1, 2000), 1: (0, 7)}
    state.commit("b", {0: 2300}, generations={0: 1})
    assert positions.refresh()[0] == (1, 2300), "the records that took the offsets of lost ones are counted too"
    state.commit("b", {0: 2100}, generations={0: 2})
    assert positions.refresh()[0] == (2, 2100)


def test_generations_are_those_of_their_topic_and_travel_only_where_there_are_any() -> None:
    assert encode_generations("spans", {0: 0}) == []
    headers = encode_generations("spans", {0: 0, 3: 2})
    assert [name for name, _ in headers] == ["tokentrace.generations"]
    assert decode_generations(headers, "spans") == {3: 2}
    assert decode_generations(headers, "another") == {}
    assert decode_generations(None, "spans") == {}
