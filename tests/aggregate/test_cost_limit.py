"""The limits of one span: a cost counts against its limit whether it was reported or computed."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tests.harness import Harness, cells_of, span_batch
from tests.spanfactory import message, span
from tokentrace.aggregate.cost_limit import ComputedCostLimit
from tokentrace.aggregate.dedup import Deduplicator
from tokentrace.aggregate.validate import Limits
from tokentrace.pricing import MAX_RATE_PER_1M, Pricer, Rates

PRICER = Pricer({"*": Rates(Decimal(2), Decimal(10), Decimal(1))}, builtin=False)


def rig_of(limit_usd: float, **more: Any) -> Harness:
    return Harness(pricer=PRICER, limits=Limits(cost_usd=limit_usd), **more)


@pytest.mark.parametrize(
    ("fields", "usd"),
    [
        ({"cost_usd": 12.0}, 12),
        ({"prompt_tokens": 6_000_000, "completion_tokens": 0}, 12),
        ({"prompt_tokens": 1_000_000, "completion_tokens": 1_000_000}, 12),
        ({"prompt_tokens": 2_000_000, "cached_prompt_tokens": 2_000_000, "completion_tokens": 1_000_000}, 12),
    ],
    ids=["reported", "prompt", "both", "cached"],
)
def test_a_cost_at_the_limit_is_counted_and_one_above_it_is_rejected(fields: dict[str, Any], usd: int) -> None:
    for limit, counted in ((usd, True), (usd - 1e-9, False)):
        rig = rig_of(limit)
        rig.count([message(span()), message(span(model="dear", **fields)), message(span())])
        assert rig.delta.reasons == ({} if counted else {"cost_out_of_range": 1})
        cells = cells_of(rig.commit())
        assert [cell[0] for cell in cells] == (["gpt-4o", "dear"] if counted else ["gpt-4o"])
        assert sum(cell["cost_nano_usd"] for cell in cells.values()) == 800_000 + usd * 10**9 * counted


def test_a_computed_cost_above_the_default_limit_is_a_dead_letter_with_the_cost() -> None:
    rig = Harness(pricer=Pricer({"*": Rates(Decimal(MAX_RATE_PER_1M), Decimal(0))}, builtin=False))
    rig.count([message(span(prompt_tokens=100_000_000)), message(span(prompt_tokens=100_000_001)), b"junk"])
    assert [(letter.envelope.offset, letter.reason) for letter in rig.delta.dead_letters] == [
        (1, "cost_out_of_range"),
        (2, "unknown_framing"),
    ]
    assert rig.delta.dead_letters[0].error == (
        "cost_usd, or the computed cost, is over limits.max_cost_usd (computed: 1000000.010000000)."
    )
    assert cells_of(rig.commit())["gpt-4o", "openai", "", "ok"]["cost_nano_usd"] == 10**15


def test_a_dead_letter_of_a_computed_cost_is_counted_when_it_is_replayed_under_a_higher_limit() -> None:
    """It is not remembered as counted, and makes no group."""
    dedup = Deduplicator(600.0, 1000)
    rig = rig_of(1.0, deduplicator=dedup)
    value = message(span(model="dear", prompt_tokens=6_000_000, reasoning_tokens=70))
    rig.count([value])
    assert (rig.delta.counted_ids, rig.delta.reasons) == ({}, {"cost_out_of_range": 1})
    assert len(rig.groups.groups) == 1
    rig.commit()
    again = rig_of(100.0, deduplicator=dedup)
    again.count([value], offset=1)
    assert again.delta.reasons == {"reasoning_tokens_invalid": 1}
    assert again.delta.counted == {0: 1}


def test_tokens_that_are_derived_from_the_total_cost_too() -> None:
    spans = span_batch(*[span(prompt_tokens=1_000_000, completion_tokens=None, total_tokens=2_000_000)] * 2)
    groups = rig_of(12.0).groups.groups
    kept, rejects = ComputedCostLimit(11.99, PRICER).reject(spans, groups)
    assert (len(kept), [reject.row for reject in rejects]) == (0, [0, 1])
    assert len(ComputedCostLimit(12.0, PRICER).reject(spans, groups)[0]) == 2


def test_spans_without_a_price_have_no_cost_to_exceed() -> None:
    rig = Harness(pricer=Pricer({}, builtin=False), limits=Limits(cost_usd=0.01))
    rig.count([message(span(prompt_tokens=10**9))])
    assert rig.delta.reasons == {}


@pytest.mark.parametrize(
    ("limits", "fields", "reason"),
    [
        (Limits(tokens=100), {"total_tokens": 101}, "tokens_out_of_range"),
        (Limits(latency_ms=50.0), {"latency_ms": 50.1}, "latency_out_of_range"),
        (Limits(latency_ms=50.0), {"ttft_ms": 51.0}, "latency_out_of_range"),
    ],
)
def test_configured_limits_reject_with_the_reason_of_the_default(
    limits: Limits, fields: dict[str, Any], reason: str
) -> None:
    rig = Harness(limits=limits)
    rig.count([message(span(latency_ms=50.0, ttft_ms=50.0)), message(span(**fields))])
    assert (rig.delta.reasons, rig.delta.counted) == ({reason: 1}, {0: 1})
