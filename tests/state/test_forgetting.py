"""Forgetting a value of a dimension: it is nowhere in the state, and every other sum is what it was."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from tests.aggregate.test_dimensions import by
from tests.harness import LAYOUT
from tests.kafka.fakes import ScriptedClients, ScriptedProducer
from tests.spanfactory import message, random_span
from tests.state.test_appearance import Life
from tests.state.test_tally import keep
from tests.state.test_wide_totals import absurd, topic
from tokentrace.model.dimensions import Dimension
from tokentrace.model.snapshot import Group
from tokentrace.state import StateCodec
from tokentrace.state.admin import StateAdmin
from tokentrace.state.forgetting import FORGOTTEN, fold
from tokentrace.state.keys import Cell
from tokentrace.state.replica_totals import summed
from tokentrace.state.tally import Tally

__all__ = ["topic"]

DIMENSIONS = [Dimension(name, f"attributes.{name}") for name in ("user", "retry")]


@pytest.mark.parametrize("wide", [False, True])
def test_forgotten_value_is_folded_and_every_other_sum_stays(topic: Any, wide: bool) -> None:
    rng = random.Random(6)
    life = Life(topic, dimensions=DIMENSIONS)
    records = [random_span(rng) for _ in range(300)]
    spans = list(map(message, records))
    if wide:
        # Sums of two values, each of which exceeds int64.
        spans += [value for user in ("u1", "u2") for value in absurd(12_000, attributes={"user": user, "retry": 0})]
    life.counted(spans)
    life.write()
    clients = ScriptedClients(producer=ScriptedProducer)
    admin = StateAdmin(clients, topic="the.state", group_id="g", source_topic="spans")
    labels = ("model", "provider", "caller", "retry", "status")
    before, of_users = summed(admin.replicas(), *labels), by(life.state.snapshot, "user")
    codec = StateCodec(LAYOUT)
    forgotten: Counter[str] = Counter()
    for number, user in enumerate(("u1", "u2", "u1", "nobody")):
        cells = sum(("user", user) in group.dimensions for _, (group, _) in cells_of(topic))
        assert admin.forget_value("a", "user", {user}, codec) == cells
        if cells:
            keep(topic, clients.made[number].records, {})
            forgotten[user] = of_users[user,]
    assert set(forgotten) == {"u1", "u2"}
    assert not any(b'u1"' in key or b'u2"' in key for key in topic.records)
    assert summed(admin.replicas(), *labels) == before
    again = Life(topic, dimensions=DIMENSIONS)
    found = by(again.state.snapshot, "user")
    assert found.pop((FORGOTTEN,)) == forgotten.total()
    assert found == Counter({key: count for key, count in of_users.items() if key[0] not in forgotten})
    assert Tally.of(again.ledger.totals).cells == len(list(cells_of(topic)))
    # What is counted after that is a new beginning.
    again.counted([message(record) for record in records if record["attributes"]["user"] == "u1"])
    again.write()
    assert by(again.state.snapshot, "user")["u1",] == forgotten["u1"] - (12_000 if wide else 0)


def test_fold_begins_with_the_oldest_and_joins_what_was_forgotten_before() -> None:
    groups = [Group("m", "p", "c", (("team", "t"), ("user", user))) for user in ("a", "b", FORGOTTEN, "c")]
    rows: dict[Cell, tuple[list[int], float]] = {
        (groups[0], 0): ([1, 2], 5.0),
        (groups[1], 0): ([10, 20, 30], 4.0),
        (groups[2], 0): ([100, 200], 6.0),
        (groups[3], 0): ([7, 7], 1.0),
        (groups[0], 1): ([3, 3], 8.0),
    }
    folded = fold(rows, rows.__getitem__, "user", {"a", "b"})
    assert set(folded.removed) == {(groups[0], 0), (groups[1], 0), (groups[0], 1)}
    assert {cell: (totals.values.tolist(), totals.created_s) for cell, totals in folded.totals.items()} == {
        (groups[2], 0): ([111, 222, 30], 4.0),
        (groups[2], 1): ([3, 3], 8.0),
    }
    assert fold(rows, rows.__getitem__, "user", {"nobody"}) == ({}, [])


def cells_of(topic: Any) -> Any:
    from tokentrace.state.keys import parse_key

    for key in topic.records:
        parsed = parse_key(key)
        if parsed is not None and type(parsed[1]) is tuple:
            yield parsed
