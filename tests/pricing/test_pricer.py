"""Pricing: the span's own cost, then the configured rates, then the published ones, then nothing."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness import Clock, Harness, cells_of, priced, samples, span_batch
from tests.oracle import computed_nano_usd, recount
from tests.spanfactory import NOW_US, message, span
from tokentrace.aggregate.groups import GroupIndex
from tokentrace.aggregate.validate import validate
from tokentrace.errors import ConfigError
from tokentrace.model.reasons import MAX_TOKENS
from tokentrace.model.snapshot import Group
from tokentrace.pricing import MAX_RATE_PER_1M, Pricer, Rates, pricer
from tokentrace.pricing.rates import US_PER_DAY


def rates(prompt: str, completion: str, cached: str | None = None) -> Rates:
    return Rates(Decimal(prompt), Decimal(completion), None if cached is None else Decimal(cached))


def prices(subject: Pricer, *records: dict[str, Any], groups: GroupIndex | None = None) -> list[tuple[int, str]]:
    """(nano-USD, source) of each span."""
    spans = validate(span_batch(*records)).spans
    return priced(subject, spans, groups if groups is not None else GroupIndex(1000))


def cost_by(configured: dict[str, Rates], **fields: Any) -> tuple[int, str]:
    return prices(Pricer(configured, builtin=False), span(**fields))[0]


#: 100 prompt and 20 completion tokens at these rates cost 100 * 1000 + 20 * 2000 nano-USD.
ONE_AND_TWO = rates("1", "2")
BY_ONE_AND_TWO = (140_000, "computed")
EXPENSIVE = rates("100", "100")
UNPRICED = (0, "unpriced")


# Reported.


@pytest.mark.parametrize(
    ("cost_usd", "nano_usd"),
    [(0.0, 0), (-0.0, 0), (0.1, 100_000_000), (1.5e-9, 2), (2.5e-9, 2), (4e-10, 0), (1234.567890123, 1234567890123)],
)
def test_a_reported_cost_has_precedence_over_every_rate(cost_usd: float, nano_usd: int) -> None:
    record = span(cost_usd=cost_usd)
    assert prices(Pricer({"*": EXPENSIVE}), record) == [(nano_usd, "reported")]


def test_the_largest_cost_is_reported_to_the_nano_dollar() -> None:
    assert prices(Pricer({}), span(cost_usd=1e6)) == [(10**15, "reported")]


def test_spans_of_every_source_may_share_a_batch() -> None:
    records = [span(cost_usd=0.5), span(model="house", provider=""), span(model="nobody's", provider="")]
    subject = Pricer({"house": ONE_AND_TWO})
    assert prices(subject, *records, *records) == [(500_000_000, "reported"), BY_ONE_AND_TWO, UNPRICED] * 2


# Configured.


def test_configured_rates_have_precedence_over_builtin_prices() -> None:
    assert prices(Pricer({"gpt-4*": ONE_AND_TWO}), span()) == [BY_ONE_AND_TWO]


@pytest.mark.parametrize("provider", ["", "openai", "nobody"])
def test_a_glob_matches_regardless_of_the_provider(provider: str) -> None:
    assert cost_by({"gpt*": ONE_AND_TWO}, provider=provider) == BY_ONE_AND_TWO


@pytest.mark.parametrize(
    ("glob", "model", "matches"),
    [
        ("gpt-4o", "gpt-4o", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4o", "my-gpt-4o", False),
        ("gpt-4o*", "gpt-4o-mini", True),
        ("*-mini", "gpt-4o-mini", True),
        ("gpt-?o", "gpt-4o", True),
        ("gpt-?o", "gpt-44o", False),
        ("gpt-[45]", "gpt-5", True),
        ("gpt-[!45]", "gpt-5", False),
        ("GPT-*", "gpt-4o", True),
        ("gpt-*", "GPT-4O", True),
        ("GPT-[A-C]", "gpt-b", True),
        ("ÉTÉ*", "été-1", True),
        ("*", "line\nfeed", True),
        ("a.b", "axb", False),
    ],
)
def test_a_glob_matches_whole_names_case_insensitively(glob: str, model: str, matches: bool) -> None:
    assert cost_by({glob: ONE_AND_TWO}, model=model) == (BY_ONE_AND_TWO if matches else UNPRICED)


def test_the_first_matching_glob_applies() -> None:
    assert cost_by({"gpt-4o-*": EXPENSIVE, "gpt-*": ONE_AND_TWO, "*": EXPENSIVE}) == BY_ONE_AND_TWO
    assert cost_by({"*": ONE_AND_TWO, "gpt-4o": EXPENSIVE}) == BY_ONE_AND_TWO


def test_cached_tokens_cost_the_prompt_rate_by_default() -> None:
    assert cost_by({"*": ONE_AND_TWO}, cached_prompt_tokens=60) == BY_ONE_AND_TWO


@pytest.mark.parametrize(("cached", "nano_usd"), [("0", 80_000), ("0.25", 95_000), ("1", 140_000), ("3", 260_000)])
def test_cached_tokens_cost_the_cached_rate(cached: str, nano_usd: int) -> None:
    configured = {"*": rates("1", "2", cached)}
    assert cost_by(configured, cached_prompt_tokens=60) == (nano_usd, "computed")
    assert cost_by(configured) == BY_ONE_AND_TWO


def test_rates_of_zero_are_computed_and_cost_nothing() -> None:
    assert cost_by({"*": rates("0", "0")}) == (0, "computed")


@pytest.mark.parametrize(
    ("tokens", "nano_usd"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 2), (6, 3), (7, 4), (10**9, 5 * 10**8)]
)
def test_half_a_nano_dollar_rounds_to_even(tokens: int, nano_usd: int) -> None:
    half = {"*": rates("0.0005", "0")}
    assert cost_by(half, prompt_tokens=tokens, completion_tokens=0) == (nano_usd, "computed")


def test_reasoning_tokens_are_not_charged_twice() -> None:
    assert cost_by({"*": ONE_AND_TWO}, reasoning_tokens=20) == BY_ONE_AND_TWO


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"completion_tokens": None}, (100_000, "computed")),
        ({"prompt_tokens": None}, (40_000, "computed")),
        ({"prompt_tokens": None, "total_tokens": 120}, BY_ONE_AND_TWO),
        ({"prompt_tokens": None, "completion_tokens": None, "total_tokens": 120}, (120_000, "estimated")),
        # As a publisher writes them who leaves out what it does not know, with a schema that has no null.
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 120}, (120_000, "estimated")),
        ({"prompt_tokens": 0, "completion_tokens": 20, "total_tokens": 120}, BY_ONE_AND_TWO),
        ({"prompt_tokens": 100, "completion_tokens": 0, "total_tokens": 120}, BY_ONE_AND_TWO),
        ({"prompt_tokens": 0, "completion_tokens": 0}, UNPRICED),
        ({"prompt_tokens": 0, "completion_tokens": 0, "status": "error"}, (0, "computed")),
        ({"prompt_tokens": None, "completion_tokens": None, "status": "timeout"}, (0, "computed")),
        ({"prompt_tokens": None, "completion_tokens": None, "cached_prompt_tokens": 50}, (50_000, "computed")),
        ({"cached_prompt_tokens": 300}, (440_000, "computed")),
        ({"cached_prompt_tokens": 30, "prompt_tokens_include_cache": 0}, (170_000, "computed")),
        ({"cached_prompt_tokens": 300, "prompt_tokens_include_cache": 1}, (340_000, "computed")),
        ({"cached_prompt_tokens": 60, "cache_write_tokens": 60}, (260_000, "computed")),
        ({"web_searches": 3}, BY_ONE_AND_TWO),
        ({"prompt_tokens": None, "completion_tokens": None, "web_searches": 3}, UNPRICED),
    ],
)
def test_a_call_is_priced_by_the_counts_that_it_has(fields: dict[str, Any], expected: tuple[int, str]) -> None:
    assert cost_by({"*": ONE_AND_TWO}, **fields) == expected


@pytest.mark.parametrize("cached", [0, 1, MAX_TOKENS])
@pytest.mark.parametrize("cached_rate", [None, "0", "0.0000001", str(MAX_RATE_PER_1M)])
def test_the_largest_call_at_the_highest_rate_is_exact(cached: int, cached_rate: str | None) -> None:
    configured = rates(str(MAX_RATE_PER_1M), str(MAX_RATE_PER_1M), cached_rate)
    cost, source = cost_by(
        {"*": configured}, prompt_tokens=MAX_TOKENS, completion_tokens=MAX_TOKENS, cached_prompt_tokens=cached
    )
    assert (Decimal(cost), source) == (exact_nano_usd(configured, MAX_TOKENS, cached, MAX_TOKENS), "computed")
    assert 0 < cost < 2**63


def exact_nano_usd(configured: Rates, prompt: int, cached: int, completion: int) -> int:
    """By definition, in fractions."""
    prompt_rate, completion_rate = Fraction(configured.prompt_per_1m), Fraction(configured.completion_per_1m)
    cached_rate = prompt_rate if configured.cached_prompt_per_1m is None else Fraction(configured.cached_prompt_per_1m)
    usd = ((prompt - cached) * prompt_rate + cached * cached_rate + completion * completion_rate) / 10**6
    return round(usd * 10**9)


RATE = st.decimals(0, MAX_RATE_PER_1M, places=2) | st.decimals(0, MAX_RATE_PER_1M, places=12)
COUNT = st.integers(0, 300) | st.integers(0, MAX_TOKENS)


@given(st.builds(Rates, RATE, RATE, st.none() | RATE), st.lists(st.tuples(COUNT, COUNT, COUNT), max_size=5))
def test_a_configured_cost_is_exact_to_the_nano_dollar(configured: Rates, counts: list[tuple[int, int, int]]) -> None:
    calls = [(prompt, min(cached, prompt), completion) for prompt, cached, completion in counts]
    records = [
        span(prompt_tokens=prompt, cached_prompt_tokens=cached, completion_tokens=completion)
        for prompt, cached, completion in calls
    ]
    # A call that has used nothing is not said to be priced.
    expected = [(exact_nano_usd(configured, *call), "computed" if call[0] or call[2] else "unpriced") for call in calls]
    assert prices(Pricer({"*": configured}), *records) == expected


@pytest.mark.parametrize("rate", ["0", "0.000001", str(MAX_RATE_PER_1M)])
def test_rates_up_to_the_highest_may_be_configured(rate: str) -> None:
    assert rates(rate, rate, rate).prompt_per_1m == Decimal(rate)


@pytest.mark.parametrize("rate", ["NaN", "Infinity", "-Infinity", "-0.01", f"{MAX_RATE_PER_1M}.01"])
def test_invalid_rates_are_a_configuration_error(rate: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Rates(Decimal(rate), Decimal(1), Decimal(rate))
    assert raised.value.problems == [
        f"pricing.models: invalid {name} {rate}; set USD per million tokens, from 0 to 10000"
        for name in ("prompt_per_1m", "cached_prompt_per_1m")
    ]


# Published, and none.


def published(record: dict[str, Any]) -> tuple[int, str]:
    """As genai-prices says."""
    nano_usd = computed_nano_usd(
        record["model"], record["provider"], record["prompt_tokens"], record["cached_prompt_tokens"] or 0,
        record["completion_tokens"], record["started_at"],
    )  # fmt: skip
    return UNPRICED if nano_usd is None else (nano_usd, "computed")


def test_an_unpriced_model_costs_nothing() -> None:
    assert prices(Pricer({"x": EXPENSIVE}), span(model="house-llm", provider="vllm")) == [UNPRICED]


def test_builtin_prices_may_be_disabled() -> None:
    assert prices(Pricer({}, builtin=False), span()) == [UNPRICED]


def test_an_unknown_provider_is_never_guessed() -> None:
    assert prices(Pricer({}), span(provider="openai"), span(provider="my-proxy")) == [published(span()), UNPRICED]


def test_without_a_provider_the_models_name_decides() -> None:
    record = span(provider="")
    assert published(record) == published(span()) != UNPRICED
    assert prices(Pricer({}), record) == [published(span())]


def test_each_span_is_priced_by_its_own_provider() -> None:
    records = [span(provider=provider) for provider in ("openai", "azure", "", "nobody", "openai")]
    assert prices(Pricer({}), *records) == [published(record) for record in records]


# When.

PEAK_AND_OFF_PEAK = span(model="deepseek-chat", provider="deepseek")
MIDNIGHT_US = NOW_US // US_PER_DAY * US_PER_DAY
HOUR_US = 3_600_000_000


def test_the_price_depends_on_the_time_of_the_request() -> None:
    peak, off_peak = MIDNIGHT_US + 20 * HOUR_US, MIDNIGHT_US + 8 * HOUR_US
    costs = [published(PEAK_AND_OFF_PEAK | {"started_at": moment}) for moment in (peak, off_peak)]
    assert costs[0] != costs[1]
    subject = Pricer({}, clock=Clock(off_peak / 1e6))
    moments = [(peak, off_peak), (off_peak, peak), (0, peak), (None, peak), (-5, off_peak), (0, 0), (None, None)]
    records = [PEAK_AND_OFF_PEAK | {"started_at": started, "ended_at": ended} for started, ended in moments]
    by = [costs[0], costs[1], costs[0], costs[0], costs[1], costs[1], costs[1]]
    assert prices(subject, *records) == by


# Groups and memory.


def test_spans_of_the_overflow_group_are_priced_by_their_own_names() -> None:
    records = [
        span(),
        span(model="claude-sonnet-4-20250514", provider="anthropic"),
        span(model="house"),
        span(cost_usd=0.5),
        span(model="gpt-4o-mini", caller="other"),
        span(model="nobody's"),
    ]
    groups = GroupIndex(1)
    subject = Pricer({"house": ONE_AND_TWO})
    expected = [
        *map(published, records[:2]),
        BY_ONE_AND_TWO,
        (500_000_000, "reported"),
        published(records[4]),
        UNPRICED,
    ]
    assert prices(subject, *records, groups=groups) == expected
    assert len(groups.groups) == 2
    assert prices(subject, *reversed(records), groups=groups) == expected[::-1]


def test_costs_do_not_depend_on_the_overflow() -> None:
    records = [span(model=model, caller=caller) for model in ("gpt-4o", "gpt-4o-mini", "o3") for caller in "abc"]
    nano_usd = sum(published(record)[0] for record in records)
    for max_groups in (1, 4, 9):
        rig = Harness(max_groups=max_groups)
        rig.count([message(record) for record in records])
        assert sum(cell["cost_nano_usd"] for cell in cells_of(rig.commit()).values()) == nano_usd


def test_new_groups_are_priced_and_a_new_sequence_resets_the_plans() -> None:
    subject = Pricer({"a": ONE_AND_TWO, "b": EXPENSIVE}, builtin=False)
    first, second = GroupIndex(1000), GroupIndex(1000)
    assert prices(subject, span(model="a"), groups=first) == [BY_ONE_AND_TWO]
    many = [span(model=f"m{number}") for number in range(100)]
    by_dear = (12_000_000, "computed")
    assert prices(subject, *many, span(model="b"), span(model="a"), groups=first) == [
        *[UNPRICED] * 100,
        by_dear,
        BY_ONE_AND_TWO,
    ]
    assert prices(subject, span(model="b"), span(model="a"), groups=second) == [by_dear, BY_ONE_AND_TWO]


def test_a_span_is_priced_by_the_names_of_its_group() -> None:
    subject = Pricer({"a": ONE_AND_TWO}, builtin=False)
    priced = subject.price(span_batch(span(model="b")), np.array([1]), [Group("", "", ""), Group("a", "", "")])
    assert priced.cost_nano_usd.tolist() == [BY_ONE_AND_TWO[0]]


def test_evicted_names_are_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pricer, "_MAX_NAMES", 2)
    for builtin in (True, False):
        subject = Pricer({"house*": ONE_AND_TWO}, builtin=builtin)
        records = [span(model=model, caller=str(number)) for number, model in enumerate(["gpt-4o", "house", "o3"] * 4)]
        by = [BY_ONE_AND_TWO if record["model"] == "house" else published(record) for record in records]
        expected = by if builtin else [price if price == BY_ONE_AND_TWO else UNPRICED for price in by]
        assert prices(subject, *records, groups=GroupIndex(1)) == expected


def test_the_pipeline_counts_spans_by_the_source_of_their_price() -> None:
    records = [span(cost_usd=0.25), span(), span(model="house-llm", provider="vllm"), span(cost_usd=0.0)]
    rig = Harness()
    rig.count([message(record) for record in records])
    assert samples(rig.commit()) == recount(records)
