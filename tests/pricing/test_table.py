"""Rate table: a batch of calls is charged like its calls one by one."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.spanfactory import NOW_US
from tokentrace.model.reasons import MAX_TOKENS
from tokentrace.pricing.rates import ALWAYS, US_PER_DAY, Condition, PriceList, PricePlan, RateRow, Tier
from tokentrace.pricing.table import NO_PLAN, RateTable

MIDNIGHT_US = NOW_US // US_PER_DAY * US_PER_DAY
HOUR_US = 3_600_000_000
AMOUNT = st.integers(0, 10**4) | st.integers(0, 10**10)


@st.composite
def rate_rows(draw: st.DrawFn) -> RateRow:
    call, prompt, completion = draw(AMOUNT), draw(AMOUNT), draw(AMOUNT)
    cached = draw(st.integers(-prompt, 10**4))
    second = draw(st.sampled_from([0, 0, 70]))
    rates = {"prompt": prompt, "cache_read": cached, "completion": completion, "second": second}
    priced = frozenset(draw(st.sets(st.sampled_from([*rates, "web_search"]))))
    least = draw(st.sampled_from([(), (), (("second", 10_000),)]))
    per_nano = draw(st.sampled_from([1000, 1000, 3000, 10**7]))
    return RateRow(call, tuple((unit, rate) for unit, rate in rates.items() if rate), per_nano, priced, least)


@st.composite
def price_lists(draw: st.DrawFn, condition: Condition) -> PriceList:
    bounds = draw(st.lists(st.sampled_from([0, 10, 128_000, 10**6]), unique=True, max_size=3))
    return PriceList(tuple(Tier(above, draw(rate_rows())) for above in [-1, *sorted(bounds)]), condition)


CONDITION = st.builds(
    Condition,
    st.sampled_from([ALWAYS.since_us, 0, MIDNIGHT_US]),
    st.sampled_from([0, HOUR_US, 23 * HOUR_US]),
    st.sampled_from([0, 2 * HOUR_US, US_PER_DAY]),
)


@st.composite
def plans(draw: st.DrawFn) -> PricePlan:
    conditions = [*draw(st.lists(CONDITION, max_size=3)), ALWAYS]
    return tuple(draw(price_lists(condition)) for condition in conditions)


def charge_alone(plan: PricePlan, usage: dict[str, int], moment_us: int) -> tuple[int, bool]:
    for price_list in plan:
        when = price_list.condition
        if moment_us >= when.since_us and (moment_us - when.daily_from_us) % US_PER_DAY < when.daily_for_us:
            row = [tier.rates for tier in price_list.tiers if usage["prompt"] > tier.above][-1]
            units = row.call
            for unit, quantity in usage.items():
                billed = max(quantity, dict(row.least).get(unit, 0)) if quantity else 0
                units += billed * dict(row.rates).get(unit, 0)
            used = {unit for unit, quantity in usage.items() if quantity}
            return round(Fraction(units, row.per_nano)), row.call > 0 or bool(used & row.priced)
    raise AssertionError("a plan ends in a list that always holds")


PROMPT = st.sampled_from([0, 1, 10, 11, 128_000, 128_001, 10**6, 10**6 + 1, MAX_TOKENS]) | st.integers(0, MAX_TOKENS)
MOMENT = st.tuples(
    st.sampled_from([0, MIDNIGHT_US, MIDNIGHT_US - US_PER_DAY]),
    st.sampled_from([0, 1, 23, 24]),
    st.sampled_from([-1, 0, 1]),
).map(lambda parts: max(1, parts[0] + parts[1] * HOUR_US + parts[2]))
Call = tuple[int, int, int, int, int, int, int]
CALL = st.tuples(
    st.integers(-1, 2),
    PROMPT,
    st.integers(0, MAX_TOKENS),
    st.integers(0, MAX_TOKENS),
    st.sampled_from([0, 1, 9_999, 10_001, MAX_TOKENS]),
    st.sampled_from([0, 3]),
    MOMENT,
)


@given(st.lists(plans(), min_size=1, max_size=3), st.lists(CALL, min_size=1, max_size=6))
def test_a_batch_is_charged_like_its_calls_one_by_one(some: list[PricePlan], calls: list[Call]) -> None:
    table = RateTable()
    numbers = [table.add(plan) for plan in some]
    assert [table.add(plan) for plan in some] == numbers
    assert sorted(set(numbers)) == list(range(NO_PLAN + 1, len(set(some)) + 1))
    by_number = dict(zip(numbers, some, strict=True))
    plan = [NO_PLAN if call[0] < 0 else numbers[call[0] % len(some)] for call in calls]
    usages = [
        {"prompt": prompt, "cache_read": min(cached, prompt), "completion": completion, "second": ms, "web_search": web}
        for _, prompt, cached, completion, ms, web, _ in calls
    ]
    columns = {unit: np.array([usage[unit] for usage in usages], np.int64) for unit in usages[0]}
    moments = np.array([call[-1] for call in calls], np.int64)
    charged = table.charge(np.array(plan, np.int32), columns, lambda at: moments[at])
    assert list(zip(charged.nano_usd.tolist(), charged.billed.tolist(), strict=True)) == [
        (0, False) if number == NO_PLAN else charge_alone(by_number[number], usage, int(moment))
        for number, usage, moment in zip(plan, usages, moments, strict=True)
    ]


def test_a_unit_that_is_added_later_costs_nothing_by_earlier_plans() -> None:
    table = RateTable()
    plans = [(PriceList((Tier(-1, RateRow(0, ((unit, 1000),), 1000)),)),) for unit in ("prompt", "web_search")]
    numbers = np.array([table.add(plan) for plan in plans], np.int32)
    usage = {unit: np.array([7, 7]) for unit in ("prompt", "completion", "web_search")}
    assert table.charge(numbers, usage, lambda at: at).nano_usd.tolist() == [7, 7]
