"""Shortening: long label values become short ones, different ones stay different, and no sum changes."""

from __future__ import annotations

import hashlib
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness import Harness, span_batch
from tests.spanfactory import message, span
from tokentrace.aggregate import shorten as module
from tokentrace.aggregate.labels import group_of
from tokentrace.aggregate.shorten import shorten, shortened
from tokentrace.model.measures import Layout
from tokentrace.pricing import Pricer, Rates

LIMIT = 64
NAME = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=90),
    st.builds(lambda tail: "m" * 100 + tail, st.text(st.characters(codec="utf-8"), max_size=9)),
    st.sampled_from(["m" * LIMIT, "m" * (LIMIT + 1), "é" * 33, "🤖" * 40, "m" * 100 + "\0", "m" * 1024]),
)


def test_a_long_value_keeps_its_beginning_and_a_hash() -> None:
    name = "arn:aws:bedrock:" + "x" * 300
    expected = name[: LIMIT - 33] + "~" + hashlib.sha256(name.encode()).hexdigest()[:32]
    assert (shortened(name, LIMIT), len(expected)) == (expected, LIMIT)
    assert shortened("é" * 40, LIMIT).startswith("é" * 15 + "~")
    assert shortened("m" * LIMIT, LIMIT) == "m" * LIMIT


@pytest.mark.parametrize("block", [1, 3, 8192])
@given(st.lists(st.tuples(NAME, NAME, NAME), max_size=12))
def test_every_label_of_a_batch_is_shortened_as_it_is_alone(block: int, triples: list[tuple[str, str, str]]) -> None:
    spans = span_batch(*(span(model=model, provider=provider, caller=caller) for model, provider, caller in triples))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        short, renamed = shorten(spans, LIMIT)
    found = [group_of(short, index).base for index in range(len(short))]
    assert found == [tuple(shortened(part, LIMIT) for part in triple) for triple in triples]
    # What is measured by is unchanged: other stages read the spans' own names.
    assert [group_of(spans, index).base for index in range(len(spans))] == triples
    assert len({*found}) == len({*triples})
    priced_apart = [any(shortened(part, LIMIT) != part for part in triple[:2]) for triple in triples]
    assert (renamed is None and not any(priced_apart)) or (renamed is not None and renamed.tolist() == priced_apart)


def test_a_batch_of_one_long_name_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    spans = span_batch(*(span(model="m" * 500, caller=f"c{number}") for number in range(50)))
    hashed: list[bytes] = []
    short_of = module._short
    monkeypatch.setattr(module, "_short", lambda data, limit: (hashed.append(data), short_of(data, limit))[1])
    shorten(spans, LIMIT)
    assert hashed == [b"m" * 500]


def test_a_shortened_model_is_priced_by_its_own_name() -> None:
    rig = Harness(label_bytes=LIMIT, pricer=Pricer({"*-large": Rates(Decimal(2), Decimal(4))}, builtin=False))
    names = ["m" * 300 + "-large", "m" * 300 + "-other", "m" * 300 + "-large"]
    rig.count([message(span(model=name, cost_usd=None, prompt_tokens=1000, completion_tokens=0)) for name in names])
    snapshot = rig.commit()
    costs = snapshot.values[:, Layout.column("cost_nano_usd")].tolist()
    assert sorted(costs) == [0, 4_000_000]
    assert {group.model for group in snapshot.groups[1:]} == {shortened(name, LIMIT) for name in names}


def test_long_names_of_an_earlier_release_stay_and_sums_are_exact() -> None:
    name = "m" * 300
    earlier, later = Harness(), Harness(label_bytes=LIMIT)
    earlier.count([message(span(model=name))] * 3)
    before = earlier.commit()
    later.groups.adopt(before.groups[1:], before.cell_status)
    later.ledger.restore(earlier.ledger.totals)
    later.count([message(span(model=name))] * 2, offset=3)
    after = later.commit()
    spans = after.values[:, Layout.column("spans")]
    counted = {after.groups[group].model: int(spans[cell]) for cell, group in enumerate(after.cell_group.tolist())}
    assert counted == {name: 3, shortened(name, LIMIT): 2}
