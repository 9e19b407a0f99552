"""Service tier, place and speed of a call: priced as genai-prices does, as providers publish, or as an estimate."""

from __future__ import annotations

import logging
import random
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from genai_prices import Usage, calc_price
from genai_prices.data import providers
from genai_prices.types import (
    ClauseEquals,
    ModelInfo,
    ModelPrice,
    PriceVariant,
    Provider,
    StartDateConstraint,
    TieredPrices,
)

from tests.harness import Clock, Harness, cells_of, priced, published_pricer, span_batch
from tests.spanfactory import NOW_US, message, span
from tokentrace.aggregate.groups import GroupIndex
from tokentrace.pricing import Pricer, modifiers
from tokentrace.pricing.genai_prices import Match, plan_of
from tokentrace.pricing.model_names import Reading
from tokentrace.pricing.modifiers import Modifiers, distinct_modifiers

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY_US = 86_400_000_000
#: Keys of the library's context -> the span's field.
FIELD = {"processing": "service_tier", "service_tier": "service_tier", "speed": "speed"}
MODELS = [
    (provider, info)
    for provider in providers
    for info in provider.models
    if info.price_variants and provider.find_model(info.id, all_providers=providers) is info
]


def prices(subject: Pricer, *records: dict[str, Any], max_groups: int = 100_000) -> list[tuple[int, str]]:
    return priced(subject, span_batch(*records), GroupIndex(max_groups))


def listed(record: dict[str, Any], **context: str) -> int:
    """Nano-USD by genai-prices itself."""
    with localcontext() as exact:
        exact.prec = 60
        usage = Usage(
            input_tokens=record["prompt_tokens"],
            output_tokens=record["completion_tokens"],
            cache_read_tokens=record["cached_prompt_tokens"],
            web_searches=record.get("web_searches"),
        )
        total = calc_price(
            usage,
            record["model"],
            provider_id=record["provider"],
            genai_request_timestamp=EPOCH + timedelta(microseconds=record["ended_at"]),
            price_context=context,
        ).total_price
        return int((total * 10**9).quantize(Decimal(1), ROUND_HALF_EVEN))


def calls() -> list[tuple[dict[str, Any], dict[str, str], bool]]:
    """(span, its context, whether the table has a price for that) around every bound and date of every variant."""
    rng = random.Random(1)
    made = []
    for provider, info in MODELS:
        for variant in info.price_variants or ():
            if not variant.when.keys() <= FIELD.keys():
                continue
            since = variant.constraint
            start = 0
            if isinstance(since, StartDateConstraint):
                start = (since.start_date - date(1970, 1, 1)).days * DAY_US
            bounds = [tier.start for price in vars(variant.prices).values() if isinstance(price, TieredPrices)
                      for tier in price.tiers]  # fmt: skip
            for time_us in (NOW_US + 100 * DAY_US, max(start, DAY_US * 19_000), start - 1):
                if time_us < 0:
                    continue
                for prompt in {1, 1234, rng.randrange(10**6), *bounds, *(bound + 1 for bound in bounds)}:
                    record = span(
                        model=info.id, provider=provider.id, prompt_tokens=prompt, completion_tokens=rng.randrange(999),
                        cached_prompt_tokens=rng.choice([0, prompt // 2]), started_at=time_us, ended_at=time_us,
                        web_searches=rng.choice([None, 2]),
                        **{FIELD[key]: rng.choice([value, value.upper()]) for key, value in variant.when.items()},
                    )  # fmt: skip
                    moment = EPOCH + timedelta(microseconds=time_us)
                    known = any(
                        other.when == variant.when and (other.constraint is None or other.constraint.active(moment))
                        for other in info.price_variants or ()
                    )
                    made.append((record, dict(variant.when), known))
    return made


def test_every_variant_of_every_model_costs_its_listed_price() -> None:
    made = calls()
    found = prices(published_pricer(), *(record for record, _, _ in made))
    wrong = []
    for (record, context, known), (nano, source) in zip(made, found, strict=True):
        ordinary = context == {"service_tier": "default"}
        want = listed(record, **context), "computed" if known or ordinary else "estimated"
        # A model of other units has no price for tokens.
        if (nano, source) != want and (source != "unpriced" or want[0]):
            wrong.append((record, context, (nano, source), want))
    assert wrong == []
    assert len(made) > 1000
    assert len({tuple(context.items()) for _, context, _ in made}) >= 6
    assert sum(listed(record) != nano for (record, _, _), (nano, _) in zip(made, found, strict=True)) > 500


def test_two_modifiers_of_one_call_are_both_priced() -> None:
    """The library takes the first variant for each price: that of a fast call in a batch is the batch's."""
    record = span(
        model="claude-fable-5-2", provider="anthropic", cached_prompt_tokens=0, service_tier="batch", speed="fast"
    )
    assert prices(published_pricer(), record) == [
        (listed(record, processing="batch", speed="fast"), "computed"),
    ]


ORDINARY = ["", "default", "Standard", "standard_only", "on-demand", "ON_DEMAND", "none"]


@pytest.mark.parametrize("tier", ORDINARY)
def test_ordinary_values_change_nothing(tier: str) -> None:
    records = [
        span(service_tier=tier),
        span(inference_region="global"),
        span(speed="normal"),
        span(inference_region="x"),
    ]
    assert prices(published_pricer(), *records) == prices(published_pricer(), *[span()] * 4)


@pytest.mark.parametrize("value", ["scale", "auto", "turbo", "é" * 100, "\x00", "batch2"])
def test_unknown_tier_has_the_ordinary_price_as_an_estimate_and_is_logged_once(
    value: str, caplog: pytest.LogCaptureFixture
) -> None:
    subject = Pricer({}, clock=Clock())
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            found = prices(subject, span(service_tier=value), span(), span(service_tier=value, caller="other"))
    (ordinary,) = prices(subject, span())
    assert found == [(ordinary[0], "estimated"), ordinary, (ordinary[0], "estimated")]
    [line] = caplog.messages
    assert line.startswith("No price for service_tier ")
    assert "of model 'gpt-4o', provider 'openai'" in line


def test_any_number_of_tiers_makes_few_codes() -> None:
    subject = Pricer({}, clock=Clock())
    records = [span(service_tier=f"tier-{number}", inference_region=f"r{number}") for number in range(3000)]
    found = prices(subject, *records, span(service_tier="batch"))
    assert Counter(source for _, source in found) == {"estimated": 3000 + 1}
    assert len(subject._codes) < 5


def ratio(record: dict[str, Any], **fields: str) -> Fraction:
    (before, _), (after, source) = prices(published_pricer(), record, record | fields)
    assert source == "computed"
    return Fraction(after, before)


MILLION = {"prompt_tokens": 10**6, "completion_tokens": 10**5, "cached_prompt_tokens": 0}


@pytest.mark.parametrize(
    ("model", "provider", "fields", "factor"),
    [
        ("claude-opus-4-6", "anthropic", {"inference_region": "us"}, "1.1"),
        ("claude-opus-4-8", "anthropic", {"inference_region": "US"}, "1.1"),
        ("claude-sonnet-5", "anthropic", {"inference_region": "us"}, "1.1"),
        ("claude-opus-4-5", "anthropic", {"inference_region": "us"}, "1"),
        ("claude-opus-4-8", "anthropic", {"inference_region": "eu"}, "1"),
        ("claude-opus-4-8", "anthropic", {"inference_region": "us", "speed": "fast"}, "2.2"),
        ("claude-opus-4-6", "google", {"inference_region": "us-east5"}, "1.1"),
        ("claude-opus-4-6", "gcp.vertex_ai", {"inference_region": "eu", "service_tier": "batch"}, "0.55"),
        ("gemini-2.5-pro", "google", {"inference_region": "us-east5"}, "1"),
        ("gpt-4o", "azure", {"inference_region": "eu"}, "1.1"),
        ("gpt-4o", "azure", {"inference_region": "eastus2"}, "1"),
        ("gpt-4o", "azure", {"service_tier": "batch"}, "0.5"),
        ("gpt-4o", "openai", {"inference_region": "eu"}, "1"),
    ],
)
def test_published_premium_is_charged(model: str, provider: str, fields: dict[str, str], factor: str) -> None:
    assert ratio(span(model=model, provider=provider, **MILLION), **fields) == Fraction(factor)


def test_region_in_a_name_is_that_of_the_call() -> None:
    plain, zone, world = prices(
        published_pricer(),
        *(span(model=f"azure/{zone}gpt-4o", provider="litellm", **MILLION) for zone in ("", "eu/", "global/")),
    )
    assert Fraction(zone[0], plain[0]) == Fraction("1.1")
    assert world == plain


def test_tool_keeps_its_price_in_a_region() -> None:
    searches = {"prompt_tokens": 0, "completion_tokens": 0, "cached_prompt_tokens": None, "web_searches": 7}
    record = span(model="claude-opus-4-8", provider="anthropic", **searches)
    assert ratio(record, inference_region="us") == 1


def test_premium_begins_at_its_date() -> None:
    first = round(datetime(2026, 2, 5, tzinfo=UTC).timestamp()) * 10**6
    records = [
        span(model="claude-opus-4-6", provider="anthropic", inference_region="us", started_at=moment, ended_at=moment)
        for moment in (first - 1, first)
    ]
    (before, _), (after, _) = prices(published_pricer(), *records)
    assert Fraction(after, before) == Fraction("1.1")


def test_texts_are_told_apart_whatever_their_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(2)
    values = ["", "a", "batch", "b" * 8, "b" * 9, "x" * 64, "x" * 63 + "y", "é"]
    records = [
        span(service_tier=rng.choice(values), inference_region=rng.choice(values), speed=rng.choice(values))
        for _ in range(400)
    ]
    for multiply in (modifiers._MULTIPLY, np.uint64(0)):
        monkeypatch.setattr(modifiers, "_MULTIPLY", multiply)
        spans = span_batch(*records)
        found = distinct_modifiers(spans, np.arange(len(spans)))
        names = ("service_tier", "inference_region", "speed")
        texts = [tuple(record[name] for name in names) for record in records]
        assert [found.texts[kind] for kind in found.kind.tolist()] == texts
        # Each is looked at once, unless its hash is that of others.
        assert multiply == 0 or len(found.texts) == len(set(texts))


def test_message_with_modifiers_is_counted_at_its_price() -> None:
    records = [span(caller="a", service_tier="batch", started_at=NOW_US - 5, ended_at=NOW_US), span(caller="b")] * 20
    records = [record | {"model": "gpt-4o", "cached_prompt_tokens": 0} for record in records]
    rig = Harness(pricer=Pricer({}, clock=Clock()))
    rig.count([message(record) for record in records])
    cells = cells_of(rig.commit())
    total = sum(cell["cost_nano_usd"] for cell in cells.values())
    by = [listed(record, **({"processing": "batch"} if "service_tier" in record else {})) for record in records]
    assert total == sum(by)
    assert sum(cell.get("priced_estimated", 0) for cell in cells.values()) == 20


def test_absent_modifiers_cost_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("a batch without modifiers has none to tell apart")

    monkeypatch.setattr("tokentrace.pricing.pricer.distinct_modifiers", refuse)
    rig = Harness()
    rig.count([message(span())] * 20)
    assert not span_batch(span()).modifiers


def test_prices_for_a_modifier_that_contradict_each_other_are_left_out() -> None:
    """The library raises an error for them; a worker charges the price without them, as an estimate."""
    wrong = PriceVariant(when={"processing": "batch"}, prices=ModelPrice(cache_audio_read_mtok=Decimal(1)))
    info = ModelInfo(id="m", match=ClauseEquals("m"), prices=ModelPrice(input_mtok=Decimal(2)), price_variants=[wrong])
    owner = Provider(id="p", name="p", api_pattern="p", models=[info])
    plan = plan_of(info, owner)
    assert plan is not None
    match = Match("p", "m", Reading("p", "m"), plan, info, owner)
    assert match.variants(Modifiers(service_tier="batch")) == [(plan[0], frozenset())]
