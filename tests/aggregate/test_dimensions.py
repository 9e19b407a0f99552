"""Dimensions: every sum by them is that of a recount in plain Python, within limits and beyond."""

from __future__ import annotations

import hashlib
import hmac
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from typing import Any

import numpy as np
import pytest

from tests.harness import Harness, raw_batch
from tests.spanfactory import message, random_span, span
from tokentrace.aggregate.combinations import Texts
from tokentrace.aggregate.dimensions import DimensionRules, DimensionValues
from tokentrace.aggregate.series_budget import SeriesBudget
from tokentrace.model.arrays import PADDING
from tokentrace.model.dimensions import Dimension
from tokentrace.model.measures import Layout
from tokentrace.model.messages import RawBatch
from tokentrace.model.snapshot import OVERFLOW, Group, Snapshot
from tokentrace.model.spans import Strings

HASH_BITS = pytest.mark.parametrize("hash_bits", [6, 64])
TEAM = Dimension("team", "attributes.team")
USER = Dimension("user", "attributes.user")
Found = Counter[tuple[str, ...]]


def by(snapshot: Snapshot, *labels: str) -> Found:
    """Spans by some labels."""
    found: Found = Counter()
    spans = snapshot.values[:, Layout.column("spans")]
    for group, count in zip(snapshot.cell_group.tolist(), spans.tolist(), strict=True):
        found[tuple(snapshot.groups[group].label(label) for label in labels)] += count
    return +found


def recount(records: Sequence[dict[str, Any]], *labels: Callable[[dict[str, Any]], str]) -> Found:
    return Counter(tuple(label(record) for label in labels) for record in records)


def attribute(name: str) -> Callable[[dict[str, Any]], str]:
    def text(record: dict[str, Any]) -> str:
        value = record["attributes"].get(name)
        if value is None:
            return ""
        return str(value).lower() if isinstance(value, bool) else str(value)

    return text


def field(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda record: record[name] or ""


# Values.


@HASH_BITS
def test_spans_by_attributes_of_any_type_and_by_fields_are_those_of_a_recount(hash_bits: int) -> None:
    names = ("user", "retry", "stream", "absent", "eval.score")
    dimensions = [Dimension(name.replace(".", "_"), f"attributes.{name}") for name in names]
    dimensions += [Dimension("parent", "span.parent_span_id"), Dimension("asked", "span.model")]
    rig = Harness(dimensions=dimensions, hash_bits=hash_bits)
    rng = random.Random(hash_bits)
    records = [random_span(rng) for _ in range(400)]
    for first in range(0, len(records), 200):
        rig.count([message(record) for record in records[first : first + 200]])
        rig.commit()
    snapshot = rig.state.snapshot
    labels = ("model", "provider", "caller", *(dimension.name for dimension in dimensions))
    values = [field(name) for name in ("model", "provider", "caller")]
    values += [*map(attribute, names), field("parent_span_id"), field("model")]
    assert by(snapshot, *labels) == recount(records, *values)
    assert len(by(snapshot, "user")) > 80
    assert by(snapshot, "model", "provider", "caller") == recount(records, *values[:3])


def test_without_dimensions_no_text_is_read() -> None:
    rig = Harness()
    rig.count([message(span(attributes={"team": "a"}))])
    assert rig.commit().groups == [Group(*[OVERFLOW] * 3), Group("gpt-4o", "openai", "")]
    assert not rig.state.snapshot.dimensions


@pytest.mark.parametrize(
    ("changes", "text", "value"),
    [
        ({}, b"", ""),
        ({"default": "none"}, b"", "none"),
        ({"default": "none"}, b"none", "none"),
        ({}, "é日本".encode(), "é日本"),
        ({}, b"a\xff\xfeb", "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}b"),
        ({"mapping": (("check*", "checkout"), ("*", "rest"))}, b"CHECK-out", "checkout"),
        ({"mapping": (("check*", "checkout"), ("*", "rest"))}, b"search", "rest"),
        ({"mapping": (("check*", "checkout"),)}, b"search", "search"),
        ({"mapping": (("c[ab]", "x"),), "values": frozenset({"x"}), "other": "o"}, b"ca", "x"),
        ({"mapping": (("c[ab]", "x"),), "values": frozenset({"x"}), "other": "o"}, b"cc", "o"),
        ({"values": frozenset({"x"})}, b"y", "__other__"),
        ({"max_length": 40}, b"x" * 41, "x" * 7 + "~" + hashlib.sha256(b"x" * 41).hexdigest()[:32]),
        ({"max_length": 40}, b"x" * 40, "x" * 40),
        ({"hash_key": b"key"}, b"ann", hmac.new(b"key", b"ann", hashlib.sha256).hexdigest()[:32]),
        ({"hash_key": b"key", "default": "nobody"}, b"", "nobody"),
    ],
    ids=str,
)
def test_rules_make_the_value(changes: dict[str, Any], text: bytes, value: str) -> None:
    assert DimensionRules(replace(TEAM, **changes)).value(text) == value
    assert fnmatch("ca", "c[ab]"), "the globs are those of fnmatch"


def test_long_and_alike_texts_are_told_apart() -> None:
    texts = ["a" * 255, "a" * 256, "a" * 257, "a" * 258, "a" * 3000, "b" * 3000, "a", "a\0", "", "\0"]
    rig = Harness(dimensions=[replace(TEAM, max_length=1000)])
    records = [span(attributes={"team": text}) for text in texts]
    for _ in range(3):
        # Each time in a batch of its own: what the first has met is known then.
        rig.count(list(map(message, records)))
    found = by(rig.commit(), "team")
    assert sum(found.values()) == 3 * len(records)
    assert sorted(found.values()) == [3] * len(texts)
    assert {value for (value,) in found if len(value) < 1000} == {text for text in texts if len(text) < 1000}


def test_keys_and_headers_of_messages_are_sources() -> None:
    dimensions = [Dimension("tenant", "header.tenant"), Dimension("shard", "key"), TEAM]
    rig = Harness(dimensions=dimensions)
    tenants: list[Any] = [b"a", None, "b", b"a", b"c"]
    keys = [b"k1", None, b"", b"k2", b"k1"]
    values = [message(span(attributes={"team": str(row)})) for row in range(4)]
    batch = replace_sources(raw_batch([*values[:2], b"junk", *values[2:]]), tenants, keys)
    rig.engine.count(batch, rig.delta)
    expected = Counter([("a", "k1", "0"), ("", "", "1"), ("a", "k2", "2"), ("c", "k1", "3")])
    assert by(rig.commit(), "tenant", "shard", "team") == expected
    part = batch.select(np.array([0, 4]))
    assert (list(part.all_keys()), list(part.all_headers("tenant"))) == ([b"k1", b"k1"], [b"a", b"c"])
    alone = batch.select(np.array([3]))
    assert (list(alone.all_keys()), list(alone.all_headers("tenant"))) == ([b"k2"], [b"a"])


def replace_sources(batch: RawBatch, tenants: Sequence[Any], keys: Sequence[bytes | None]) -> RawBatch:
    return replace(batch, keys=lambda: keys, headers=lambda name: tenants if name == "tenant" else [None] * len(keys))


def test_keys_and_headers_come_from_the_envelopes_where_a_batch_has_no_other() -> None:
    rig = Harness(dimensions=[Dimension("trace", "header.trace"), Dimension("shard", "key")])
    rig.count([message(span()), message(span())])
    assert by(rig.commit(), "trace", "shard") == Counter([("0", "key-0"), ("1", "key-1")])


# Limits.


def crowd(count: int, rng: random.Random) -> list[dict[str, Any]]:
    models = [("gpt-4o", "openai"), ("claude-3-haiku", "anthropic"), ("o3", "openai")]
    records = []
    for number in range(count):
        model, provider = rng.choice(models)
        caller = rng.choice(["web", "batch"])
        attributes = {"team": f"team-{rng.randrange(5)}", "user": f"user-{number % 400:09d}"}
        records.append(span(model=model, provider=provider, caller=caller, attributes=attributes))
    return records


@HASH_BITS
def test_a_dimension_beyond_its_limit_folds_alone(hash_bits: int) -> None:
    rig = Harness(dimensions=[TEAM, replace(USER, limit=30)], hash_bits=hash_bits)
    records = crowd(1200, random.Random(1))
    for first in range(0, len(records), 100):
        rig.count([message(record) for record in records[first : first + 100]])
    snapshot = rig.commit()
    kept = {record["attributes"]["user"] for record in records[:30]}

    def user(record: dict[str, Any]) -> str:
        found: str = record["attributes"]["user"]
        return found if found in kept else OVERFLOW

    labels = ("model", "provider", "caller", "team", "user")
    values = [*map(field, labels[:3]), attribute("team"), user]
    assert by(snapshot, *labels) == recount(records, *values)
    assert snapshot.dimensions["user"] == (30, 30, sum(user(record) == OVERFLOW for record in records))
    assert snapshot.dimensions["team"] == (5, 1000, 0)
    assert (snapshot.overflowed_spans, snapshot.groups_count) == (0, 6)


@HASH_BITS
def test_groups_beyond_the_limit_of_all_dimensions_keep_model_and_caller(hash_bits: int) -> None:
    rig = Harness(dimensions=[TEAM, USER], hash_bits=hash_bits, max_dimension_groups=50)
    records = crowd(2000, random.Random(2))
    records[-1] |= {"model": "late", "caller": "later"}
    for first in range(0, len(records), 100):
        rig.count([message(record) for record in records[first : first + 100]])
    snapshot = rig.commit()
    base = ("model", "provider", "caller")
    assert by(snapshot, *base) == recount(records, *map(field, base))
    exact = recount(records, *map(field, base), attribute("team"), attribute("user"))
    folded: Found = Counter()
    for labels, count in by(snapshot, *base, "team", "user").items():
        if labels[3:] == (OVERFLOW, OVERFLOW):
            folded[labels[:3]] += count
        else:
            assert count <= exact[labels]
    assert sum(folded.values()) > 1000
    assert len(snapshot.groups) - 1 <= 50 + 7
    assert snapshot.dimension_groups <= 50 + 7
    assert snapshot.overflowed_spans == 0
    assert snapshot.dimensions["team"].overflowed_spans == sum(folded.values())


def test_models_beyond_their_own_limit_overflow_as_without_dimensions() -> None:
    rig = Harness(dimensions=[TEAM], max_groups=2)
    records = [span(model=model, attributes={"team": team}) for model in "abcd" for team in "xyz"] * 2
    rig.count(list(map(message, records)))
    found = by(rig.commit(), "model", "team")
    assert found == {
        **{(model, team): 2 for model in "ab" for team in "xyz"},
        (OVERFLOW, ""): 12,
    }
    assert (rig.state.snapshot.overflowed_spans, rig.state.snapshot.groups_count) == (12, 2)


def test_a_budget_of_series_has_room_for_the_overflow_of_every_model() -> None:
    labels = {"cost_total": ["model", "team"]}
    budget = SeriesBudget(max_series=1000, max_bytes=1 << 40, layout=Layout.build(), labels=labels)
    rig = Harness(dimensions=[TEAM], budget=budget)
    records = [span(model=f"m{number % 3}", attributes={"team": f"t{number}"}) for number in range(3000)]
    rig.count(list(map(message, records)))
    snapshot = rig.commit()
    assert by(snapshot, "model") == recount(records, field("model"))
    assert by(snapshot, "team")[OVERFLOW,] > 0
    assert budget.used.series <= 1000


def test_a_table_that_is_full_of_texts_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokentrace.aggregate.dimensions._MOST_TEXTS", 100)
    values = DimensionValues(replace(TEAM, limit=3, mapping=(("*1", "one"), ("*2", "two"), ("*", "rest"))))
    for first in range(0, 2000, 70):
        texts = [f"text-{number}" for number in range(first, first + 70)]
        codes = values.encode(columns(texts))
        assert [values.values[code] for code in codes] == [
            {"1": "one", "2": "two"}.get(text[-1], "rest") for text in texts
        ]
        assert len(values._table) <= 100


def columns(texts: Sequence[str]) -> Texts:
    data = [text.encode() for text in texts]
    length = np.array([len(text) for text in data], np.int64)
    buffer = np.frombuffer(b"".join(data) + bytes(PADDING), np.uint8)
    return Texts(buffer, Strings(np.cumsum(length) - length, length))


# Groups that were counted before.


def test_values_of_adopted_groups_keep_their_places_and_new_ones_overflow() -> None:
    rig = Harness(dimensions=[replace(USER, limit=2)])
    groups = [Group("gpt-4o", "openai", "", (("user", name),)) for name in ("a", "b", "c", OVERFLOW)]
    rig.groups.adopt(groups, np.zeros(4, np.uint8))
    records = [span(attributes={"user": name}) for name in "abcdc"]
    rig.count(list(map(message, records)))
    assert by(rig.commit(), "user") == {("a",): 1, ("b",): 1, ("c",): 2, (OVERFLOW,): 1}
    assert rig.state.snapshot.dimensions["user"] == (3, 2, 1)


@HASH_BITS
def test_groups_with_a_dimension_that_is_not_configured_stay_apart(hash_bits: int) -> None:
    rig = Harness(dimensions=[TEAM], hash_bits=hash_bits)
    names = [(), (("squad", "x"),), (("squad", "y"),), (("squad", "x"), ("team", "a")), (("team", "a"),)]
    groups = [Group("gpt-4o", "openai", "", dimensions) for dimensions in names]
    cells = rig.groups.adopt(groups, np.zeros(len(groups), np.uint8))
    assert [rig.groups.groups[rig.groups.cell_group[cell]] for cell in cells] == groups
    rig.count([message(span(attributes=attributes)) for attributes in ({}, {"team": "a"}, {"squad": "x"}, {})])
    rig.commit()
    assert by(rig.state.snapshot, "squad", "team") == {("", ""): 3, ("", "a"): 1}
    keep = np.ones(len(rig.groups.groups), np.bool_)
    keep[1] = False
    rig.groups.retain(keep)
    assert sorted(rig.groups.groups[1:]) == sorted(groups[1:])


def test_a_removed_dimension_leaves_room_for_new_models() -> None:
    rig = Harness(max_groups=3)
    groups = [Group("gpt-4o", "openai", "", (("squad", str(number)),)) for number in range(50)]
    rig.groups.adopt(groups, np.zeros(len(groups), np.uint8))
    records = [span(model=model) for model in ("gpt-4o", "a", "b", "c")]
    rig.count(list(map(message, records)))
    assert by(rig.commit(), "model") == {("gpt-4o",): 1, ("a",): 1, ("b",): 1, (OVERFLOW,): 1}


def test_overflow_of_a_dimension_never_expires() -> None:
    rig = Harness(dimensions=[replace(USER, limit=1)], expire_after_s=600.0, label_sets=[frozenset({"model"})])
    rig.count([message(span(attributes={"user": user})) for user in "abc"])
    rig.commit()
    rig.clock.now_s += 1000.0
    rig.count([message(span(model="other"))])
    snapshot = rig.commit()
    assert [snapshot.groups[group].label("user") for group in snapshot.cell_group] == [OVERFLOW, ""]
    assert snapshot.dimensions["user"] == (0, 1, 2)


@pytest.mark.parametrize("labels", [("model",), ("team",), ("model", "team"), ("caller", "user")])
def test_expiry_keeps_every_sum_and_the_groups_that_share_a_series(labels: tuple[str, ...]) -> None:
    rig = Harness(dimensions=[TEAM, USER], expire_after_s=600.0, label_sets=[frozenset(labels), frozenset({"model"})])
    records = [
        span(caller=caller, attributes={"team": team, "user": user})
        for caller in "ab"
        for team in "xy"
        for user in "12"
    ]
    rig.count(list(map(message, records)))
    rig.commit()
    rig.clock.now_s += 1000.0
    rig.count([message(records[0])])
    snapshot = rig.commit()
    first = records[0]
    spans = snapshot.values[:, Layout.column("spans")]
    assert int(spans.sum()) == len(records) + 1

    def shown(record: dict[str, Any]) -> tuple[str, ...]:
        values = {"model": record["model"], "caller": record["caller"], **record["attributes"]}
        return tuple(values[label] for label in labels)

    shares = labels != ("model",)
    stay = [record for record in records if shares and shown(record) == shown(first)] or [first]
    assert len(snapshot.cell_group) == len(stay)
