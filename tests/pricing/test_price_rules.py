"""Prices of an operator: rules, tiers, dates, modifiers and discounts, against a recount in fractions.

The recount reads the configuration's own text as docs/pricing.md says, and shares no code with the package.
"""

from __future__ import annotations

import fnmatch
import json
import random
import re
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from genai_prices import Usage, calc_price

from tests.harness import NOW_S, Clock, priced, span_batch
from tests.spanfactory import span
from tokentrace.aggregate.groups import GroupIndex
from tokentrace.config import load_config
from tokentrace.errors import ConfigError
from tokentrace.pricing import Pricer
from tokentrace.runtime.price_rules import pricer

MONTHS = [f"2026-{month:02}-01" for month in range(1, 13)]
#: Ways to write a provider, and what each of them names.
PROVIDERS = {"openai": "openai", "openai.chat": "openai", "AZURE_OPENAI": "azure", "azure": "azure", "house": "house"}
MODELS = ["gpt-4o", "gpt-4o-mini", "GPT-5", "llama", "llama-large"]
TIERS = ["", "default", "batch", "flex", "PRIORITY", "scale", "standard"]
REGIONS = ["", "global", "us", "eu", "eu-west-1", "mars"]
SPEEDS = ["", "standard", "fast"]
FIELDS = ("service_tier", "inference_region", "speed")
#: Unit -> (the span's field or key of usage, what its price is for, its whole).
UNITS = {
    "prompt": ("prompt_tokens", 10**6, ""),
    "completion": ("completion_tokens", 10**6, ""),
    "cache_read": ("cached_prompt_tokens", 10**6, "prompt"),
    "cache_write": ("cache_write_tokens", 10**6, "prompt"),
    "reasoning": ("reasoning_tokens", 10**6, "completion"),
    "web_search": ("web_searches", 1000, ""),
    "second": ("second", 3600, ""),
    "page": ("page", 1000, ""),
}


def plain(name: str, value: str | None) -> str:
    value = (value or "").lower()
    return "" if value in ("default", "standard", "global") else value


def at(text: Any) -> int:
    return round(datetime.fromisoformat(str(text)).replace(tzinfo=UTC).timestamp() * 1e6)


def valid(entry: dict[str, Any], time_us: int) -> bool:
    return ("from" not in entry or at(entry["from"]) <= time_us) and (
        "until" not in entry or time_us < at(entry["until"])
    )


def billed_by(entry: dict[str, Any], provider: str) -> bool:
    glob = entry.get("provider", "*")
    glob = PROVIDERS.get(glob, glob).lower()
    return any(fnmatch.fnmatchcase(name, glob) for name in (provider.lower(), PROVIDERS[provider]))


def holds(entry: dict[str, Any], call: dict[str, str]) -> bool:
    return all(call[name] and fnmatch.fnmatchcase(call[name], entry[name]) for name in FIELDS if name in entry)


def factor_of(modifiers: list[dict[str, Any]], call: dict[str, str], time_us: int) -> Fraction:
    """Multiply the factors of the first modifiers that apply. What is left of the call stays in it."""
    factor = Fraction(1)
    for modifier in modifiers:
        if holds(modifier, call) and valid(modifier, time_us):
            factor *= Fraction(str(modifier["multiply"]))
            call.update((name, "") for name in FIELDS if name in modifier)
    return factor


def expected(section: dict[str, Any], record: dict[str, Any]) -> tuple[int, str]:
    """(nano-USD, source) of a span."""
    time_us, provider = record["ended_at"], record["provider"]
    for rule in section["models"]:
        call = {name: plain(name, record[name]) for name in FIELDS}
        if not (
            fnmatch.fnmatchcase(record["model"].lower(), rule["model"].lower())
            and billed_by(rule, provider)
            and holds(rule, call)
            and valid(rule, time_us)
        ):
            continue
        call.update((name, "") for name in FIELDS if name in rule)
        prices = {unit: Fraction(str(price)) for unit, price in rule["rates"].items()}
        for tier in rule.get("tiers", ()):
            if record["prompt_tokens"] > tier["above"]:
                prices.update((unit, Fraction(str(price))) for unit, price in tier["rates"].items())
        others = [one for one in section["modifiers"] if billed_by(one, provider)]
        others = [one for one in others if fnmatch.fnmatchcase(record["model"].lower(), one.get("model", "*"))]
        factor = factor_of([*rule.get("modifiers", ()), *others], call, time_us)
        usd = prices.get("request", Fraction(0)) / 1000 * factor
        billed = "request" in prices
        for unit, (field, per, _) in UNITS.items():
            quantity = Fraction(str(record.get(field) or record["usage"].get(field) or 0))
            covered = unit in prices or UNITS[unit][2] in prices
            billed = billed or (quantity > 0 and covered)
            if unit in prices:
                parts = [part for part, (_, _, whole) in UNITS.items() if whole == unit and part in prices]
                quantity -= sum(Fraction(record.get(UNITS[part][0]) or 0) for part in parts)
                usd += quantity * prices[unit] / per * (1 if unit == "web_search" else factor)
        keep = Fraction(1)
        for discount in section["discounts"]:
            if discount.get("configured") and billed_by(discount, provider) and valid(discount, time_us):
                keep = 1 - Fraction(str(discount["percent"])) / 100
                break
        left = call["service_tier"] or call["speed"]
        nano = round(usd * keep * 10**9)
        if not billed or (record["status"] != "ok" and not used(record)):
            return 0, "computed" if record["status"] != "ok" and not used(record) else "unpriced"
        return nano, "estimated" if left else "computed"
    return 0, "unpriced"


def used(record: dict[str, Any]) -> bool:
    return any(record.get(field) or record["usage"].get(field) for field, _, _ in UNITS.values())


class Writer:
    """Random sections `pricing`, and spans."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def amount(self) -> str:
        return self.rng.choice(
            ["0", "0.05", "2.5", "10", "0.1234567", "0.000000123", str(self.rng.randrange(9000) / 100)]
        )

    def dates(self) -> dict[str, str]:
        first, last = sorted(self.rng.sample(range(12), 2))
        both = {"from": MONTHS[first], "until": MONTHS[last]}
        return {name: both[name] for name in self.rng.choice([(), (), ("from",), ("until",), ("from", "until")])}

    def fields(self, least: int) -> dict[str, str]:
        values = {
            "service_tier": ["batch", "flex", "priority", "b*"],
            "inference_region": ["us", "eu*", "*"],
            "speed": ["fast"],
        }
        names = self.rng.sample(FIELDS, self.rng.choice([least, least, 1, 2]))
        return {name: self.rng.choice(values[name]) for name in names}

    def modifier(self, **more: Any) -> dict[str, Any]:
        factor = self.rng.choice(["0.5", "1.1", "2", "0", "0.333", "1.75"])
        return {**self.fields(1), "multiply": factor, **self.dates(), **more}

    def rates(self) -> dict[str, str]:
        names = self.rng.sample([*UNITS, "request"], self.rng.randrange(1, 6))
        wholes = {UNITS[name][2] for name in names if name in UNITS} - {""}
        return {name: self.amount() for name in [*names, *wholes]}

    def rule(self) -> dict[str, Any]:
        rates = self.rates()
        rule = {
            "model": self.rng.choice(["*", "gpt*", "gpt-4o*", "gpt-4o", "GPT-?", "llama*", "*-large"]),
            "rates": rates,
            **self.fields(0),
            **self.dates(),
        }
        if self.rng.random() < 0.7:
            rule["provider"] = self.rng.choice(["openai", "openai.chat", "azure", "*o*", "house"])
        if self.rng.random() < 0.5:
            bounds = sorted(self.rng.sample([10, 1000, 1001, 200_000], self.rng.choice([1, 2])))
            some = self.rng.sample(sorted(rates), 1)
            rule["tiers"] = [{"above": bound, "rates": {name: self.amount() for name in some}} for bound in bounds]
        if self.rng.random() < 0.6:
            rule["modifiers"] = [self.modifier() for _ in range(self.rng.choice([1, 2, 3]))]
        return rule

    def section(self) -> dict[str, Any]:
        providers = ["openai", "azure", "house", "*"]
        return {
            "builtin": False,
            "providers": ["house"],
            "models": [self.rule() for _ in range(self.rng.choice([1, 3, 8]))],
            "modifiers": [
                self.modifier(provider=self.rng.choice(providers), model=self.rng.choice(["*", "gpt*"]))
                for _ in range(self.rng.choice([0, 1, 3]))
            ],
            "discounts": [
                {
                    "provider": self.rng.choice(providers),
                    "percent": self.rng.choice(["10", "7.25", "33.333", "100"]),
                    "configured": self.rng.random() < 0.7,
                    **self.dates(),
                }
                for _ in range(self.rng.choice([0, 1, 3]))
            ],
        }

    def record(self) -> dict[str, Any]:
        rng = self.rng
        time_us = at(rng.choice(MONTHS)) + rng.choice([-1, 0, 1, 10**12])
        prompt, completion = rng.choice([0, 10, 11, 1000, 1001, 1002, 250_000, 10**8]), rng.choice([0, 1, 777])
        cached = rng.choice([0, prompt // 3])
        return span(
            model=rng.choice(MODELS), provider=rng.choice(list(PROVIDERS)), started_at=time_us, ended_at=time_us,
            prompt_tokens=prompt, completion_tokens=completion, cached_prompt_tokens=cached,
            cache_write_tokens=rng.choice([0, (prompt - cached) // 2]),
            reasoning_tokens=rng.choice([0, completion // 2]),
            web_searches=rng.choice([0, 0, 3]), usage=rng.choice([{}, {"second": 12.5}, {"page": 3, "second": 0.001}]),
            service_tier=rng.choice(TIERS), inference_region=rng.choice(REGIONS), speed=rng.choice(SPEEDS),
            status=rng.choice(["ok", "ok", "error"]),
        )  # fmt: skip


def written(section: dict[str, Any]) -> str:
    """The section as YAML: amounts are numbers, and dates have no quotes."""
    text = json.dumps({"pricing": section}, indent=1)
    return re.sub(r'"(\d+(?:\.\d+)?|\d{4}-\d\d-\d\d)"(?!:)', r"\1", text)


def accepted(tmp_path: Path, section: dict[str, Any]) -> Pricer:
    """Take out what the check refuses, which is said with its place, and load the rest."""
    path = tmp_path / "tokentrace.yml"
    while True:
        path.write_text(written(section))
        try:
            return pricer(load_config(path, {}), Clock())
        except ConfigError as error:
            place = re.match(r"pricing\.(\w+)\[(\d+)\](?:\.modifiers\[(\d+)\])?", error.problems[0])
            if place is None:
                raise
            entries = section[place[1]]
            if place[3] is not None:
                entries, index = entries[int(place[2])]["modifiers"], int(place[3])
            else:
                index = int(place[2])
            del entries[index]


def prices(subject: Pricer, records: list[dict[str, Any]], max_groups: int = 10_000) -> list[tuple[int, str]]:
    return priced(subject, span_batch(*records), GroupIndex(max_groups))


@pytest.mark.parametrize("seed", range(60))
def test_calls_cost_what_the_rules_say(tmp_path: Path, seed: int) -> None:
    writer = Writer(seed)
    section = writer.section()
    subject = accepted(tmp_path, section)
    records = [writer.record() for _ in range(300)]
    want = [expected(section, record) for record in records]
    for max_groups in (10_000, 1):
        found = prices(subject, records, max_groups)
        wrong = [row for row in zip(records, found, want, strict=True) if row[1] != row[2]]
        assert wrong == [], f"{len(wrong)} of {len(records)}, {section}"


def test_random_rules_reach_every_part_of_a_price(tmp_path: Path) -> None:
    """The test above prices some calls by each kind of entry."""
    sources: set[str] = set()
    kinds: set[str] = set()
    for seed in range(20):
        writer = Writer(seed)
        section = writer.section()
        accepted(tmp_path, section)
        kinds |= {name for rule in section["models"] for name in rule} | {
            name for name in ("modifiers", "discounts") if section[name]
        }
        sources |= {expected(section, writer.record())[1] for _ in range(100)}
    assert sources == {"computed", "estimated", "unpriced"}
    assert kinds >= {"from", "until", "tiers", "modifiers", "discounts", "service_tier", "provider"}


def load(tmp_path: Path, text: str) -> Pricer:
    path = tmp_path / "tokentrace.yml"
    path.write_text(text)
    return pricer(load_config(path, {}), Clock())


CONTRACT = """\
pricing:
  modifiers: [{provider: openai, service_tier: scale, multiply: 3}]
  discounts:
    - {provider: openai, percent: 12.5, until: 2026-10-01}
    - {provider: openai, percent: 20, from: 2026-10-01}
"""


def test_a_contract_takes_its_part_off_the_built_in_price(tmp_path: Path) -> None:
    """Also of OpenAI's calls that name no provider, and not of Azure's for the same model."""
    subject = load(tmp_path, CONTRACT)
    turn = at("2026-10-01")
    usage = {"prompt_tokens": 12_345, "completion_tokens": 678, "cached_prompt_tokens": 1000}
    whole = Fraction(
        calc_price(
            Usage(input_tokens=12_345, output_tokens=678, cache_read_tokens=1000), "gpt-4o", provider_id="openai"
        ).total_price
    )
    records = [
        span(**usage, provider=provider, service_tier=tier, started_at=time_us, ended_at=time_us)
        for provider in ("openai", "openai.chat", "", "azure")
        for tier in ("", "scale")
        for time_us in (turn - 1, turn)
    ]
    want = []
    for record in records:
        theirs = record["provider"] != "azure"
        keep = Fraction(1) if not theirs else Fraction(7, 8) if record["ended_at"] < turn else Fraction(4, 5)
        factor = 3 if record["service_tier"] and theirs else 1
        source = "estimated" if record["service_tier"] and not theirs else "computed"
        want.append((round(whole * factor * keep * 10**9), source))
    assert prices(subject, records) == want


def test_a_rule_of_the_past_leaves_later_calls_to_the_built_in_price(tmp_path: Path) -> None:
    text = "pricing: {models: [{model: gpt-4o, rates: {prompt: 1, completion: 2}, until: 2026-06-01}]}"
    turn = at("2026-06-01")
    records = [span(started_at=time_us, ended_at=time_us) for time_us in (turn - 1, turn)]
    by_table = Fraction(calc_price(Usage(input_tokens=100, output_tokens=20), "gpt-4o").total_price)
    assert prices(load(tmp_path, text), records) == [(140_000, "computed"), (round(by_table * 10**9), "computed")]


def test_a_time_without_a_rule_is_unpriced_where_the_table_is_off(tmp_path: Path) -> None:
    text = "pricing: {builtin: false, models: [{model: gpt-4o, rates: {prompt: 1}, until: 2026-06-01}]}"
    turn = at("2026-06-01")
    records = [span(started_at=time_us, ended_at=time_us) for time_us in (turn - 1, turn)]
    assert prices(load(tmp_path, text), records) == [(100_000, "computed"), (0, "unpriced")]


def test_prices_of_many_digits_are_charged_without_a_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a call that int64 cannot hold in such a measure is charged alone."""
    alone = []
    original = Pricer({})._table._rows[0].__class__.charge
    monkeypatch.setattr(
        "tokentrace.pricing.rates.RateRow.charge", lambda self, usage: alone.append(usage) or original(self, usage)
    )
    text = "pricing: {builtin: false, models: [{model: '*', rates: {prompt: 0.1234567890123, completion: 10}}]}"
    records = [span(prompt_tokens=count, completion_tokens=3) for count in (0, 1, 3_000_001, 10**9)]
    price = Fraction("0.1234567890123")
    want = [round((record["prompt_tokens"] * price + 30) * 1000) for record in records]
    assert [nano for nano, _ in prices(load(tmp_path, text), records)] == want
    assert [usage["prompt"] for usage in alone] == [10**9]


def test_now_is_after_the_dates_of_these_tests() -> None:
    assert datetime.fromtimestamp(NOW_S, UTC).year == 2026
