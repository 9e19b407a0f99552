"""Known texts: spans whose texts are known by the bytes of their attributes are in the groups that a recount has."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.aggregate.test_dimensions import attribute, by, field, recount
from tests.harness import Harness, raw_batch
from tests.otlpfactory import OtherSpan, traces
from tests.spanfactory import message, span
from tokentrace.aggregate.combinations import Texts
from tokentrace.aggregate.dimensions import DimensionRules, Dimensions
from tokentrace.decode import SpanDecoder
from tokentrace.decode.schemas.store import WriterSchemas
from tokentrace.model.arrays import PADDING
from tokentrace.model.dimensions import Dimension, decoded_sources
from tokentrace.model.snapshot import OVERFLOW, Group
from tokentrace.model.spans import Strings
from tokentrace.model.text_combinations import KnownTexts, TextCombinations

TEAM = Dimension("team", "attributes.team")
USER = Dimension("user", "attributes.user")
RULES: dict[str, list[Dimension]] = {
    "plain": [TEAM, USER],
    "limit": [TEAM, replace(USER, limit=7)],
    "globs": [replace(TEAM, mapping=(("team-1*", "ones"), ("team-2", "two"))), USER],
    "allowed": [replace(TEAM, values=frozenset({"team-1", "team-2"})), USER],
    "hash": [TEAM, replace(USER, hash_key=b"a key")],
    "default": [replace(TEAM, default="none"), USER],
    "twice": [TEAM, USER, Dimension("who", "attributes.user", mapping=(("user-1*", "one"),))],
    "with a field and a label": [USER, Dimension("named", "span.name"), TEAM, Dimension("asked", "span.model")],
}


def record(rng: random.Random) -> dict[str, Any]:
    attributes: dict[str, Any] = {"retry": rng.randrange(3), "team": f"team-{rng.randrange(14)}"}
    if rng.random() < 0.8:
        attributes["user"] = rng.choice([f"user-{rng.randrange(14)}", 7, True, None, "x" * 40])
    if rng.random() < 0.3:
        attributes = {"first": rng.random(), **attributes}
    return span(model=rng.choice(["gpt-4o", "o3"]), name=rng.choice(["chat", "embed"]), attributes=attributes)


def known(rig: Harness) -> TextCombinations:
    return rig.engine._decoder._combinations


def plain_rig(dimensions: Sequence[Dimension]) -> Harness:
    """A rig whose spans are decoded one by one."""
    rig = Harness(dimensions=dimensions)
    rig.engine._decoder = SpanDecoder(WriterSchemas(), columnar=False, texts=decoded_sources(dimensions))
    return rig


@pytest.mark.parametrize("rules", RULES)
def test_groups_are_those_of_spans_decoded_one_by_one(rules: str) -> None:
    dimensions, rng = RULES[rules], random.Random(1)
    rig, plain = Harness(dimensions=dimensions), plain_rig(dimensions)
    labels = ("model", *(dimension.name for dimension in dimensions))
    for _ in range(6):
        values = [message(record(rng)) for _ in range(150)]
        rig.count(values)
        plain.count(values)
        assert by(rig.commit(), *labels) == by(plain.commit(), *labels)
        assert rig.state.snapshot.dimensions == plain.state.snapshot.dimensions
    assert known(rig).forms > 20


def value_of(dimension: Dimension) -> Callable[[dict[str, Any]], str]:
    rules, text = DimensionRules(dimension), attribute(dimension.source.removeprefix("attributes."))
    return lambda record: rules.value(text(record).encode())


@pytest.mark.parametrize("rules", ["plain", "globs", "allowed", "hash", "default", "twice"])
def test_sums_are_those_of_a_recount(rules: str) -> None:
    dimensions, rng = RULES[rules], random.Random(2)
    rig = Harness(dimensions=dimensions)
    records = [record(rng) for _ in range(1200)]
    for first in range(0, len(records), 200):
        rig.count([message(record) for record in records[first : first + 200]])
    labels = [dimension.name for dimension in dimensions]
    assert by(rig.commit(), "model", *labels) == recount(records, field("model"), *map(value_of, dimensions))


def test_a_value_beyond_the_limit_has_its_own_group_once_it_is_adopted() -> None:
    rig = Harness(dimensions=[replace(USER, limit=1)])
    values = [message(span(attributes={"user": user})) for user in "ab"] * 8
    for _ in range(4):
        rig.count(values)
    assert known(rig).forms == 2
    assert by(rig.commit(), "user") == {("a",): 32, (OVERFLOW,): 32}
    rig.groups.adopt([Group("gpt-4o", "openai", "", (("user", "b"),))], np.zeros(1, np.uint8))
    rig.count(values)
    assert by(rig.commit(), "user") == {("a",): 40, (OVERFLOW,): 32, ("b",): 8}


def test_codes_are_made_again_once_the_values_are_forgotten() -> None:
    dimensions = Dimensions([replace(USER, limit=1)])
    combinations = TextCombinations([USER.source])
    numbers = {user: combinations.number((user,)) for user in (b"a", b"b")}

    def values(*users: bytes) -> list[str]:
        known = KnownTexts(np.array([numbers[user] for user in users]), combinations)
        nothing = Texts(np.zeros(PADDING, np.uint8), Strings(*np.zeros((2, len(users)), np.int64)))
        packed = dimensions.encode([nothing], len(users), known)
        return [dict(dimensions.pairs(packed, row))["user"] for row in range(len(users))]

    for _ in range(2):
        assert values(b"a", b"b", b"a") == ["a", OVERFLOW, "a"]
    dimensions.clear()
    assert values(b"b") == ["b"]
    assert values(b"b", b"a") == ["b", OVERFLOW]


def test_full_combinations_are_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokentrace.model.text_combinations.MOST_FORMS", 9)
    rng = random.Random(3)
    rig = Harness(dimensions=[TEAM, USER])
    records = [record(rng) for _ in range(1500)]
    seen = set()
    for first in range(0, len(records), 100):
        rig.count([message(record) for record in records[first : first + 100]])
        seen.add(id(known(rig)))
    assert len(seen) > 1
    assert by(rig.commit(), "team", "user") == recount(records, attribute("team"), attribute("user"))


def test_spans_of_both_formats_may_share_a_batch() -> None:
    rig = Harness(dimensions=[TEAM, USER])
    call = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.usage.input_tokens": 7}
    other = traces([("a", [OtherSpan({**call, "team": "t", "user": "u"})])]).SerializeToString()
    values = [message(span(attributes={"team": "t", "user": user})) for user in "uv"] * 8
    for _ in range(4):
        rig.count([values[0], other, *values[1:], other])
    assert known(rig).forms == 2
    assert by(rig.commit(), "team", "user") == {("t", "u"): 32 + 8, ("t", "v"): 32}


def test_rejected_spans_shift_no_texts() -> None:
    rig = Harness(dimensions=[TEAM])
    good = [message(span(attributes={"team": f"t{number % 5}"})) for number in range(50)]
    for turn in range(4):
        values: list[bytes | None] = [*good]
        values[turn] = b"junk"
        values[10 + turn] = message(span(model="", attributes={"team": "x"}))
        rig.engine.count(raw_batch(values, 0, 0, rig.clock.now_s), rig.delta)
    found = by(rig.commit(), "team")
    lost = [number for turn in range(4) for number in (turn % 5, (10 + turn) % 5)]
    assert found == {(f"t{team}",): 40 - lost.count(team) for team in range(5)}
