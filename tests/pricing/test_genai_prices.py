"""The published prices: tokentrace charges what genai-prices does, for every model of its table."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from typing import Any, NamedTuple

import numpy as np
import pytest
from genai_prices import Usage, calc_price
from genai_prices.data import providers
from genai_prices.data_snapshot import find_provider_by_id
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    StartDateConstraint,
    TieredPrices,
    TimeOfDateConstraint,
)
from genai_prices.types import Tier as PublishedTier
from hypothesis import assume, given
from hypothesis import strategies as st

from tests import harness
from tests.harness import published_pricer, span_batch
from tests.spanfactory import NOW_US, span
from tokentrace.aggregate.groups import GroupIndex
from tokentrace.model.reasons import MAX_TOKENS
from tokentrace.model.units import BY_NAME, WHOLES
from tokentrace.pricing import MAX_CALL_USD, MAX_RATE_PER_1M, Pricer
from tokentrace.pricing.genai_prices import GenaiPrices, Match, plan_of
from tokentrace.pricing.model_names import ModelNames, Reading
from tokentrace.pricing.modifiers import NONE, Modifiers
from tokentrace.pricing.rates import ALWAYS, US_PER_DAY, Condition
from tokentrace.pricing.table import RateTable

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HOUR_US = 3_600_000_000


class Call(NamedTuple):
    model: str
    provider: str
    prompt: int
    cached: int
    completion: int
    started_us: int


def priced(*calls: Call) -> list[tuple[int, str]]:
    """(nano-USD, source) by tokentrace."""
    records = [
        span(
            model=call.model,
            provider=call.provider,
            prompt_tokens=call.prompt,
            cached_prompt_tokens=call.cached,
            completion_tokens=call.completion,
            started_at=call.started_us,
        )
        for call in calls
    ]
    return harness.priced(published_pricer(), span_batch(*records), GroupIndex(100_000))


def charged(call: Call) -> tuple[int, str]:
    """(nano-USD, source) by genai-prices itself, without a digit lost."""
    usage = Usage(input_tokens=call.prompt, cache_read_tokens=call.cached, output_tokens=call.completion)
    moment = EPOCH + timedelta(microseconds=call.started_us)
    with localcontext() as context:
        context.prec = 60
        try:
            result = calc_price(usage, call.model, provider_id=call.provider or None, genai_request_timestamp=moment)
        except (LookupError, ValueError):
            return 0, "unpriced"
        if not all(any(price is not None for price in vars(prices).values()) for prices in prices_of(result.model)):
            return 0, "unpriced"
        by = result.model_price
        used = [by.input_mtok] * (call.prompt > 0) + [by.output_mtok] * (call.completion > 0)
        if used and by.requests_kcount is None and all(price is None for price in used):
            return 0, "unpriced"
        return int((result.total_price * 10**9).quantize(Decimal(1), ROUND_HALF_EVEN)), "computed"


def prices_of(info: ModelInfo) -> list[ModelPrice]:
    return [info.prices] if isinstance(info.prices, ModelPrice) else [entry.prices for entry in info.prices]


def moments_of(info: ModelInfo) -> list[int]:
    """Moments at and around each change of a model's prices, microseconds since the epoch."""
    moments = [NOW_US]
    for conditional in [] if isinstance(info.prices, ModelPrice) else info.prices:
        if isinstance(conditional.constraint, StartDateConstraint):
            at = (conditional.constraint.start_date - date(1970, 1, 1)).days * US_PER_DAY
            moments += [at - 1, at, at + 1]
        elif isinstance(conditional.constraint, TimeOfDateConstraint):
            for clock_time in (conditional.constraint.start_time, conditional.constraint.end_time):
                since_midnight = datetime.combine(EPOCH, clock_time.replace(tzinfo=UTC)) - EPOCH
                at = NOW_US // US_PER_DAY * US_PER_DAY + since_midnight // timedelta(microseconds=1)
                moments += [at - 1, at, at + 1]
    return moments


def bounds_of(info: ModelInfo) -> list[int]:
    tiered_prices = [
        tiered for prices in prices_of(info) for tiered in vars(prices).values() if isinstance(tiered, TieredPrices)
    ]
    return sorted({tier.start for tiered in tiered_prices for tier in tiered.tiers})


MODELS = [(provider.id, info) for provider in providers for info in provider.models]
OWNERS = {provider.id: provider for provider in providers}


def random_call(rng: random.Random, model: str, provider: str, prompt: int, started_us: int) -> Call:
    cached = rng.choice([0, prompt, rng.randrange(prompt + 1)])
    completion = rng.choice([0, 1, rng.randrange(5000), rng.randrange(MAX_TOKENS)])
    return Call(model, provider, prompt, cached, completion, started_us)


def test_every_model_of_the_table_costs_its_listed_price() -> None:
    rng = random.Random(1)
    calls = [
        random_call(rng, info.id, provider, prompt, rng.choice(moments_of(info)))
        for provider, info in MODELS
        for prompt in (rng.randrange(1, 3000), rng.randrange(1, 10**6), rng.randrange(MAX_TOKENS))
    ]
    found = priced(*calls)
    expected = [charged(call) for call in calls]
    assert [pair for pair in zip(calls, found, expected, strict=True) if pair[1] != pair[2]] == []
    sources = Counter(source for _, source in expected)
    assert sources["computed"] > len(calls) / 2
    assert sources["unpriced"] > 0


def test_no_published_price_exceeds_what_cost_limits_assume() -> None:
    calls = [
        NONE,
        *(Modifiers(tier, "", speed) for tier in ("batch", "flex", "priority", "fast") for speed in ("", "fast")),
    ]
    plans = [
        [price_list for price_list, _ in Match(owner, info.id, Reading("", ""), (), info, OWNERS[owner]).variants(call)]
        for owner, info in MODELS
        if plan_of(info) is not None
        for call in (calls if info.price_variants else [NONE])
    ]
    rows = [tier.rates for plan in plans for price_list in plan for tier in price_list.tiers]
    assert max(row.call / row.per_nano / 1e9 for row in rows) < MAX_CALL_USD
    for row in rows:
        for name, rate in row.rates:
            full = rate + sum(row.rate(whole) for whole in WHOLES[name])
            # The largest quantity of a unit costs no more than that of tokens at the highest rate.
            assert full / row.per_nano * BY_NAME[name].most < MAX_RATE_PER_1M * 1000 * MAX_TOKENS


def test_a_tier_holds_for_calls_beyond_its_bound_and_not_at_it() -> None:
    rng = random.Random(2)
    tiered = [(provider, info) for provider, info in MODELS if bounds_of(info)]
    calls = [
        random_call(rng, info.id, provider, prompt, started_us)
        for provider, info in tiered
        for bound in bounds_of(info)
        for prompt in (bound - 1, bound, bound + 1)
        for started_us in rng.sample(moments_of(info), 1)
    ]
    assert len(tiered) > 20
    assert priced(*calls) == [charged(call) for call in calls]


def test_a_conditional_price_holds_from_its_moment_on() -> None:
    rng = random.Random(3)
    conditional = [(provider, info) for provider, info in MODELS if len(moments_of(info)) > 1]
    calls = [
        random_call(rng, info.id, provider, rng.randrange(1, 400_000), started_us)
        for provider, info in conditional
        for started_us in moments_of(info)
    ]
    assert len(conditional) > 10
    assert priced(*calls) == [charged(call) for call in calls]


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("gpt-4o", ""),
        ("GPT-4o-Mini", "OpenAI"),
        ("gpt-4o-2024-08-06", "openai"),
        ("claude-sonnet-4-20250514", "anthropic"),
        ("claude-sonnet-4-20250514", ""),
        ("anthropic/claude-sonnet-4", "openrouter"),
        ("openai/gpt-4o", "litellm"),
        ("gemini-2.5-pro", "google"),
        ("gemini-2.5-pro", "google-vertex"),
        ("gpt-4o", "my-proxy"),
        ("house-llm", "openai"),
        ("house-llm", ""),
        ("gpt-4o", "anthropic"),
        ("", ""),
        ("日本語", "openai"),
    ],
)
def test_names_are_resolved_as_by_the_library(model: str, provider: str) -> None:
    call = Call(model or "x", provider, 1000, 100, 50, NOW_US)
    assert priced(call) == [charged(call)]


NAMES = sorted({info.id for _, info in MODELS})
PROVIDER_NAMES = ModelNames(frozenset(provider.id for provider in providers))
NAME = st.one_of(
    st.sampled_from(NAMES),
    st.tuples(st.sampled_from(NAMES), st.sampled_from(["-latest", ":free", "/", "@", "-2026-01-01"])).map("".join),
    st.tuples(st.sampled_from([provider.id for provider in providers]), st.just("/"), st.sampled_from(NAMES)).map(
        "".join
    ),
    st.text(max_size=20),
).filter(bool)
PROVIDER = st.sampled_from(["", "litellm", "LiteLLM", "OPENAI", *(provider.id for provider in providers)]) | st.text()


@given(NAME, PROVIDER)
def test_any_name_of_any_provider_costs_what_the_library_says(model: str, provider: str) -> None:
    """Apart from names that the library does not read, or reads as another provider's: see `test_model_names`."""
    assume(not provider or provider.strip())  # A blank provider is an empty one.
    # Behind litellm the library takes any prefix that has a provider's name in it for the provider.
    prefix = model.lower().partition("/")[0]
    loosely = find_provider_by_id(providers, prefix) is not None and PROVIDER_NAMES.provider(prefix) is None
    assume(not (provider.lower() == "litellm" and "/" in model and loosely))
    match = GenaiPrices().find(model, provider)
    readings = [match.reading] if match is not None else PROVIDER_NAMES.readings(model, provider)
    assume(not any(reading.how for reading in readings))
    call = Call(model, provider, 150_000, 1000, 50, NOW_US)
    assert priced(call) == [charged(call)]


def test_an_empty_name_has_no_price() -> None:
    assert GenaiPrices().find("", "") is None


def test_prices_are_found_again_after_clearing_the_cache() -> None:
    published = GenaiPrices()
    first = published.find("gpt-4o", "openai")
    published.clear_cache()
    assert published.find("gpt-4o", "openai") == first is not None


def test_the_network_is_never_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    subject, groups = Pricer({}), GroupIndex(10)
    spans = span_batch(span())
    result = subject.price(spans, groups.lookup(spans), groups.groups)
    assert result.cost_nano_usd.tolist() == [charged(Call("gpt-4o", "openai", 100, 0, 20, NOW_US))[0]]


# Plans of entries that the table of today may not have.


def price(input_mtok: Any = None, output_mtok: Any = None, **more: Any) -> ModelPrice:
    decimals = {"input_mtok": input_mtok, "output_mtok": output_mtok, **more}
    return ModelPrice(
        **{key: Decimal(amount) if isinstance(amount, str) else amount for key, amount in decimals.items() if amount}
    )


def entry(prices: Any) -> ModelInfo:
    return ModelInfo(id="m", match=ClauseEquals("m"), prices=prices)


def charge(info: ModelInfo, prompt: int, cached: int, completion: int, moment_us: int) -> int:
    """Nano-USD by tokentrace's plan of an entry."""
    plan = plan_of(info)
    assert plan is not None
    table = RateTable()
    number = np.array([table.add(plan)], np.int32)
    usage = {"prompt": np.array([prompt]), "cache_read": np.array([cached]), "completion": np.array([completion])}
    return int(table.charge(number, usage, lambda at: np.array([moment_us])[at]).nano_usd[0])


def by_library(info: ModelInfo, prompt: int, cached: int, completion: int, moment_us: int) -> int:
    usage = Usage(input_tokens=prompt, cache_read_tokens=cached, output_tokens=completion)
    prices = info.get_prices(EPOCH + timedelta(microseconds=moment_us))
    return int((prices.calc_price(usage)["total_price"] * 10**9).quantize(Decimal(1), ROUND_HALF_EVEN))


PLUS_2 = timezone(timedelta(hours=2))
TIMES = {
    "within a day": (time(9), time(17)),
    "over midnight": (time(22), time(3)),
    "to midnight": (time(22), time(0)),
    "in another zone": (time(9, tzinfo=PLUS_2), time(17, tzinfo=PLUS_2)),
    "over midnight in another zone": (time(1, tzinfo=PLUS_2), time(8, tzinfo=PLUS_2)),
    "of no length": (time(9), time(9)),
    "of fine grain": (time(9, 0, 0, 1), time(9, 0, 0, 3)),
}


@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES)
def test_a_daily_price_holds_when_the_library_says_so(times: tuple[time, time]) -> None:
    conditional = ConditionalPrice(constraint=TimeOfDateConstraint(*times), prices=price("7", "8"))
    info = entry([ConditionalPrice(constraint=None, prices=price("1", "2")), conditional])
    midnight_us = NOW_US // US_PER_DAY * US_PER_DAY
    for hour in range(25):
        for moment_us in range(midnight_us + hour * HOUR_US - 1, midnight_us + hour * HOUR_US + 5):
            assert charge(info, 10, 4, 5, moment_us) == by_library(info, 10, 4, 5, moment_us)


def test_the_last_valid_conditional_price_is_charged() -> None:
    base = ConditionalPrice(constraint=None, prices=price("1", "2"))
    dated = [
        ConditionalPrice(constraint=StartDateConstraint(date(2026, month, 1)), prices=price(str(month), "2"))
        for month in (5, 3)
    ]
    daily = ConditionalPrice(constraint=TimeOfDateConstraint(time(1), time(2)), prices=price("9", "2"))
    for conditional in ([base, *dated, daily], [base, daily, *dated], [*dated, base, daily], [dated[0], daily]):
        info = entry(conditional)
        for month in range(1, 8):
            for hour in (0, 1, 2):
                moment_us = (datetime(2026, month, 1, hour, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
                assert charge(info, 10**6, 0, 0, moment_us) == by_library(info, 10**6, 0, 0, moment_us)


def test_prices_after_an_unconditional_one_are_unused() -> None:
    lists = [ConditionalPrice(constraint=None, prices=price(rate, "1")) for rate in ("1", "2")]
    plan = plan_of(entry(lists))
    assert plan is not None
    assert [(price_list.condition, price_list.tiers[0].rates.rate("prompt")) for price_list in plan] == [
        (ALWAYS, 2_000_000)
    ]


def test_conditions_are_converted_to_data() -> None:
    lists = [
        ConditionalPrice(constraint=None, prices=price("1", "1")),
        ConditionalPrice(constraint=StartDateConstraint(date(1970, 1, 3)), prices=price("2", "1")),
        ConditionalPrice(constraint=TimeOfDateConstraint(time(23), time(1)), prices=price("3", "1")),
    ]
    plan = plan_of(entry(lists))
    assert plan is not None
    assert [price_list.condition for price_list in plan] == [
        Condition(daily_from_us=23 * HOUR_US, daily_for_us=2 * HOUR_US),
        Condition(since_us=2 * US_PER_DAY),
        ALWAYS,
    ]


@pytest.mark.parametrize("prompt", [0, 1, 99, 100, 101, 199, 200, 201, 299, 300, 301, 10**6])
def test_every_kind_of_token_may_have_different_tier_bounds(prompt: int) -> None:
    def tiers(base: str, **starts: str) -> TieredPrices:
        steps = [PublishedTier(int(start[1:]), Decimal(rate)) for start, rate in starts.items()]
        return TieredPrices(Decimal(base), steps)

    info = entry(
        price(tiers("1", _200="2", _100="3"), tiers("5", _300="4"), cache_read_mtok=tiers("0.1", _0="0.2", _200="0.3"))
    )
    for cached in {0, prompt // 2, prompt}:
        assert charge(info, prompt, cached, 77, NOW_US) == by_library(info, prompt, cached, 77, NOW_US)


def test_an_entry_without_a_price_has_no_plan() -> None:
    assert plan_of(entry(price())) is None
    assert plan_of(entry(price(web_searches_kcount="5"))) is not None
    mixed = [
        ConditionalPrice(constraint=None, prices=price("1", "1")),
        ConditionalPrice(constraint=StartDateConstraint(date(2026, 1, 1)), prices=price()),
    ]
    assert plan_of(entry(mixed)) is None


def test_a_charge_for_each_call_comes_on_top_of_its_tokens() -> None:
    info = entry(price("1", "2", requests_kcount="5"))
    for call in ((0, 0, 0), (10, 0, 0), (10, 5, 7)):
        assert charge(info, *call, NOW_US) == by_library(info, *call, NOW_US)


def test_a_rate_finer_than_a_pico_dollar_a_token_is_not_rounded() -> None:
    info = entry(price("0.0000001", "0.123456789"))
    for call in ((10**9, 0, 0), (10**9 - 1, 0, 3), (5, 0, 8), (10**9, 0, 10**9)):
        assert charge(info, *call, NOW_US) == by_library(info, *call, NOW_US)


def test_contradictory_prices_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = entry(price(None, "1", cache_read_mtok="1"))
    with pytest.raises(ValueError, match="Missing ancestor price for cache_read_tokens"):
        plan_of(broken)
    published = GenaiPrices()
    monkeypatch.setattr(published._snapshot, "find_provider_model", lambda *_: (providers[0], broken))
    assert published.find("m", "") is None
