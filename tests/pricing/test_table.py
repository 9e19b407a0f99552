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
    return RateRow(call, prompt, cached, completion, draw(st.sampled_from([1000, 1000, 3000, 10**7])))


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


def charge_alone(plan: PricePlan, prompt: int, cached: int, completion: int, moment_us: int) -> int:
    for price_list in plan:
        when = price_list.condition
        if moment_us >= when.since_us and (moment_us - when.daily_from_us) % US_PER_DAY < when.daily_for_us:
            row = [tier.rates for tier in price_list.tiers if prompt > tier.above][-1]
            units = row.call + prompt * row.prompt + cached * row.cached + completion * row.completion
            return round(Fraction(units, row.units_per_nano))
    raise AssertionError("a plan ends in a list that always holds")


PROMPT = st.sampled_from([0, 1, 10, 11, 128_000, 128_001, 10**6, 10**6 + 1, MAX_TOKENS]) | st.integers(0, MAX_TOKENS)
MOMENT = st.tuples(
    st.sampled_from([0, MIDNIGHT_US, MIDNIGHT_US - US_PER_DAY]),
    st.sampled_from([0, 1, 23, 24]),
    st.sampled_from([-1, 0, 1]),
).map(lambda parts: max(1, parts[0] + parts[1] * HOUR_US + parts[2]))
Call = tuple[int, int, int, int, int]
CALL = st.tuples(st.integers(-1, 2), PROMPT, st.integers(0, MAX_TOKENS), st.integers(0, MAX_TOKENS), MOMENT)


@given(st.lists(plans(), min_size=1, max_size=3), st.lists(CALL, min_size=1, max_size=6))
def test_a_batch_is_charged_like_its_calls_one_by_one(
    some: list[PricePlan], calls: list[tuple[int, int, int, int, int]]
) -> None:
    table = RateTable()
    numbers = [table.add(plan) for plan in some]
    assert [table.add(plan) for plan in some] == numbers
    assert sorted(set(numbers)) == list(range(NO_PLAN + 1, len(set(some)) + 1))
    chosen = [(NO_PLAN if which < 0 else numbers[which % len(some)], *rest) for which, *rest in calls]
    plan, prompt, cached, completion, moments = (np.array(column, np.int64) for column in zip(*chosen, strict=True))
    cached = np.minimum(cached, prompt)
    nano = table.charge(plan.astype(np.int32), prompt, cached, completion, lambda at: moments[at])
    by_number = dict(zip(numbers, some, strict=True))
    assert nano.tolist() == [
        0 if number == NO_PLAN else charge_alone(by_number[number], *call)
        for number, *call in zip(plan.tolist(), prompt.tolist(), cached.tolist(), completion.tolist(), moments.tolist(),
                                 strict=True)
    ]  # fmt: skip
