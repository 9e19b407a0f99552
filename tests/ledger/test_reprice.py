"""Other prices: exact where rates are linear, else within the stated bounds, against a recount call by call."""

from __future__ import annotations

import random
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.ledger.helpers import DAY_US, RollupTopic, follower, sqlite_url
from tests.oracle import cost_of
from tests.spanfactory import NOW_US, random_span, span
from tokentrace.config import load_config
from tokentrace.errors import UsageError
from tokentrace.ledger.corrections import correction_of, enter
from tokentrace.ledger.database import Database
from tokentrace.ledger.period import between, last_day
from tokentrace.ledger.period_cells import cells_in
from tokentrace.ledger.query import Billing
from tokentrace.ledger.reprice import Repriced, Repricing, Swap, parse_swap
from tokentrace.pricing import Pricer
from tokentrace.runtime.price_rules import pricer

Span = dict[str, Any]
PERIOD = between("2026-09-01", "2026-10-01", ZoneInfo("UTC"))


def prices(tmp_path: Path, text: str) -> Pricer:
    path = tmp_path / "prices.yml"
    path.write_text(text)
    return pricer(load_config(path, {}))


def ledger(tmp_path: Path, spans: list[Span], now: Pricer | None = None) -> Database:
    topic = RollupTopic(**({} if now is None else {"pricer": now}))
    for first in range(0, len(spans), 40):
        topic.commit(spans[first : first + 40], NOW_US + first * 1_000_000)
    follower(topic, sqlite_url(tmp_path)).run(until_end=True)
    return Database(sqlite_url(tmp_path))


def traffic(seed: str, count: int, **fields: Any) -> list[Span]:
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        ended_us = NOW_US - rng.randrange(2 * DAY_US)
        found.append({**random_span(rng), "started_at": ended_us - 1_000_000, "ended_at": ended_us, **fields})
    return found


def repriced(database: Database, repricing: Repricing) -> Repriced:
    return repricing.sums(cells_in(database, PERIOD))[()]


def linear(call: Span, prompt: str, completion: str) -> int:
    """The nano-USD of one call at two rates per million tokens, half to even."""
    usd = Decimal(call["prompt_tokens"]) * Decimal(prompt) + Decimal(call["completion_tokens"]) * Decimal(completion)
    return int((usd * 1000).quantize(Decimal(1), ROUND_HALF_EVEN))


def test_linear_rates_are_exact_to_the_nano_dollar(tmp_path: Path) -> None:
    spans = traffic("linear", 200, model="house", provider="vllm", cost_usd=None, status="ok")
    spans = [call for call in spans if call["prompt_tokens"] or call["completion_tokens"]]
    now = prices(tmp_path, "pricing: {models: {house: {prompt_per_1m: 2, completion_per_1m: 8}}}")
    database = ledger(tmp_path, spans, now)
    then = prices(tmp_path, "pricing: {models: {house: {prompt_per_1m: 1.5, completion_per_1m: 7.25}}}")
    found = repriced(database, Repricing(now, then))
    assert found.billed == sum(linear(call, "2", "8") for call in spans)
    assert found.amount.likely == sum(linear(call, "1.5", "7.25") for call in spans)
    assert found.amount.exact
    assert found.spans == len(spans)


def test_rates_that_are_rounded_call_by_call_are_within_half_a_nano_dollar_each(tmp_path: Path) -> None:
    spans = traffic("rounded", 150, model="house", provider="vllm", cost_usd=None, status="ok")
    now = prices(tmp_path, "pricing: {models: {house: {prompt_per_1m: 2, completion_per_1m: 8}}}")
    then = prices(tmp_path, "pricing: {models: {house: {prompt_per_1m: 0.0375, completion_per_1m: 0.0001}}}")
    found = repriced(ledger(tmp_path, spans, now), Repricing(now, then))
    expected = sum(linear(call, "0.0375", "0.0001") for call in spans)
    assert found.amount.low <= expected <= found.amount.high
    assert 0 < found.error <= len(spans) + 100


def test_dates_of_prices_are_those_of_the_calls(tmp_path: Path) -> None:
    spans = traffic("dated", 200, model="house", provider="vllm", cost_usd=None, status="ok")
    now = prices(tmp_path, "pricing: {models: {house: {prompt_per_1m: 2, completion_per_1m: 8}}}")
    then = prices(
        tmp_path,
        "pricing:\n  models:\n"
        "    - {model: house, rates: {prompt: 2, completion: 8}, until: 2026-09-21}\n"
        "    - {model: house, rates: {prompt: 1, completion: 4}}\n",
    )
    found = repriced(ledger(tmp_path, spans, now), Repricing(now, then))
    change_us = 1_789_948_800_000_000
    halves = [linear(call, *(("2", "8") if call["ended_at"] < change_us else ("1", "4"))) for call in spans]
    assert found.amount.likely == sum(halves)
    assert found.amount.exact
    assert sum(halves) not in (found.billed, found.billed // 2)


def test_a_discount_is_taken_off_the_table_s_prices(tmp_path: Path) -> None:
    spans = traffic("discount", 120, model="gpt-4o", provider="openai", cost_usd=None, status="ok")
    now, then = Pricer({}), prices(tmp_path, "pricing: {discounts: [{provider: openai, percent: 10}]}")
    found = repriced(ledger(tmp_path, spans, now), Repricing(now, then))
    exact = Fraction(9, 10) * sum(cost_of(call)[0] for call in spans)
    assert abs(found.amount.likely - exact) <= len(spans) + 100
    assert found.amount.low <= exact <= found.amount.high
    assert found.error <= len(spans) + 100


def test_a_call_with_a_modifier_makes_its_hour_an_estimate_within_bounds(tmp_path: Path) -> None:
    spans = traffic("modifiers", 100, model="gpt-4o", provider="openai", cost_usd=None, status="ok")
    rng = random.Random("tiers")
    spans = [{**call, "service_tier": rng.choice([None, None, "batch", "priority"])} for call in spans]
    modifiers = "modifiers: [{service_tier: batch, multiply: 0.5}, {service_tier: priority, multiply: 1.75}]"
    now = prices(tmp_path, f"pricing: {{{modifiers}}}")
    then = prices(tmp_path, f"pricing: {{{modifiers}, discounts: [{{provider: openai, percent: 50}}]}}")
    database = ledger(tmp_path, spans, now)
    found = repriced(database, Repricing(now, then))
    half = found.billed / 2
    assert found.amount.low <= half <= found.amount.high
    assert not found.amount.exact
    assert abs(found.amount.likely - half) < 0.01 * half


@pytest.mark.parametrize("prompts", [[1_000, 90_000], [150_000, 250_000], [120_000, 180_000]])
def test_tiers_are_within_bounds_and_exact_where_no_call_can_reach_them(tmp_path: Path, prompts: list[int]) -> None:
    spans = [
        span(model="house", provider="vllm", prompt_tokens=prompts[at % 2], completion_tokens=500, ended_at=NOW_US)
        for at in range(20)
    ]
    rule = "{model: house, rates: {prompt: 2, completion: 8}, tiers: [{above: 200000, rates: {prompt: %s}}]}"
    text = f"pricing: {{models: [{rule}]}}"
    now, then = prices(tmp_path, text % 4), prices(tmp_path, text % 6)
    found = repriced(ledger(tmp_path, spans, now), Repricing(now, then))
    expected = sum(linear(call, "6" if call["prompt_tokens"] > 200_000 else "2", "8") for call in spans)
    assert found.amount.low <= expected <= found.amount.high
    # The old cost shows that no call was in the upper tier.
    assert found.amount.exact == (max(prompts) <= 200_000)


def test_another_model_is_priced_with_the_same_usage(tmp_path: Path) -> None:
    spans = traffic("what-if", 150, model="gpt-4o", provider="openai", status="ok")
    others = traffic("others", 50, model="gpt-4o-mini", provider="openai", status="ok")
    now = Pricer({})
    database = ledger(tmp_path, spans + others, now)
    repricing = Repricing(now, now, [Swap("gpt-4o", "gpt-4o-mini", "openai")])
    repricing.require_priced()
    found = repriced(database, repricing)
    swapped = sum(cost_of({**call, "model": "gpt-4o-mini", "cost_usd": None})[0] for call in spans)
    kept = sum(cost_of(call)[0] for call in others)
    assert found.kept == kept
    assert found.amount.low <= swapped + kept <= found.amount.high


def test_reported_costs_stay_unless_they_are_asked_for(tmp_path: Path) -> None:
    spans = traffic("reported", 40, model="house", provider="vllm", cost_usd=0.5, status="ok")
    now = prices(tmp_path, "pricing: {models: {house: {prompt_per_1m: 2, completion_per_1m: 8}}}")
    database = ledger(tmp_path, spans, now)
    assert repriced(database, Repricing(now, now)).amount.likely == 20_000_000_000
    found = repriced(database, Repricing(now, now, reported=True))
    assert found.amount.likely == sum(linear(call, "2", "8") for call in spans)


def test_a_correction_is_a_dated_entry_and_the_old_bill_stays(tmp_path: Path) -> None:
    spans = traffic("correct", 80, model="house", provider="vllm", cost_usd=None, status="ok")
    now = prices(tmp_path, "pricing: {models: {house: {prompt_per_1m: 2, completion_per_1m: 8}}}")
    database = ledger(tmp_path, spans, now)
    then = prices(tmp_path, "pricing: {models: {house: {prompt_per_1m: 1, completion_per_1m: 4}}}")
    cells = [cell for _, cell in cells_in(database, PERIOD)]
    correction = correction_of(cells, Repricing(now, then))
    entered_us = 1_790_985_600_000_000  # 2026-10-03
    assert enter(database, correction, PERIOD, "the contract", "prices.yml", entered_us) == 1
    before, after = (sum(linear(call, *rates) for call in spans) for rates in (("2", "8"), ("1", "4")))
    bill = Billing(database).bill(PERIOD, ["model"])
    assert (bill.total["cost_nano_usd"], bill.corrections) == (after, after - before)
    for day, cost in (("2026-10-02", before), ("2026-10-03", after)):
        assert Billing(database, last_day(day)).bill(PERIOD, ["model"]).total["cost_nano_usd"] == cost
    assert Billing(database).bill(PERIOD, ["booked"]).rows["2026-10-03",]["cost_nano_usd"] == after - before
    again = correction_of((cell for _, cell in cells_in(database, PERIOD)), Repricing(now, then))
    assert not again.cells
    with pytest.raises(UsageError, match="There is nothing to correct"):
        enter(database, again, PERIOD, "again", "prices.yml", entered_us)


@pytest.mark.parametrize("text", ["gpt-4o", "=x", "gpt-4o="])
def test_swaps_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not MODEL=OTHER"):
        parse_swap(text)


def test_swaps_name_models_and_providers() -> None:
    assert parse_swap("gpt-*=anthropic/claude-sonnet-4-5") == Swap("gpt-*", "claude-sonnet-4-5", "anthropic")
    with pytest.raises(UsageError, match="no price for model 'no-such-model'"):
        Repricing(Pricer({}), Pricer({}), [Swap("a", "no-such-model", "")]).require_priced()
