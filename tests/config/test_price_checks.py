"""Section `pricing`: `config check` finds every problem in one run, each with its line."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from tests.config.test_config import load, problems
from tests.services import ROOT
from tokentrace.config.fields import format_moment
from tokentrace.config.pricing import PriceRule

RULES = """\
pricing:
  providers: [house]
  models:
    - {provider: opnai, model: gpt-4o, rates: {prompt: 1, prompts: 2}}
    - provider: openai
      model: "gpt-5*"
      from: 2026-05-01
      until: 2026-04-01
      rates: {prompt: 1, completion: -2}
    - provider: azure
      model: "*"
      rates:
        prompt: 20000
        completion: 1
      tiers:
        - {above: 1000, rates: {prompt: 2}}
        - above: 500
          rates: {prompt: 3}
    - provider: azure_openai
      model: "gpt*"
      service_tier: batch
      rates: {prompt: 1}
    - {provider: house, model: y, from: 2026-01-01, until: 2026-06-01, rates: {prompt: 1}}
    - {provider: house, model: Y, from: 2026-05-01, rates: {prompt: 1}}
    - provider: house
      model: z
      rates: {cache_read: 1, audio_prompt: 3}
      modifiers:
        - {multiply: 0.5}
        - {service_tier: Standard, multiply: 2}
        - {speed: fast, multiply: 30}
    - {provider: house, model: q, form: 2026-01-01, rates: {second: 1}}
  modifiers:
    - {provider: mistrl, inference_region: eu, multiply: 1.1}
  discounts:
    - {provider: openai, percent: 110}
    - {provider: "open*", percent: 10}
    - {provider: openrouter, percent: 5}
kafka: {topc: x}
"""
FOUND = [
    'pricing.models[0].provider: unknown provider; did you mean "openai"? (line 4)',
    'pricing.models[0].rates.prompts: unknown unit; did you mean "prompt"? (line 4)',
    "pricing.models[1].until: must be after from; the entry never applies (line 8)",
    "pricing.models[1].rates.completion: -2 is not a valid USD price; it must be finite and not negative (line 9)",
    "pricing.models[2].rates.prompt: 20000 USD is beyond every price; it is at most 10000, per million (line 13)",
    "pricing.models[2].tiers[1].above: must be more than 1000, the one of the tier before; sort the tiers (line 17)",
    "pricing.models[3]: never applies: pricing.models[2] applies first; move this entry before, or take it out "
    "(line 19)",
    "pricing.models[5]: its dates overlap those of pricing.models[4]; set from and until apart (line 24)",
    "pricing.models[6].rates: audio_cache_read is part of cache_read and of audio_prompt, which both have a price; "
    "give it one too (line 27)",
    "pricing.models[6].rates.audio_prompt: audio_prompt is part of prompt, which has no price; set it, 0 if it is free "
    "(line 27)",
    "pricing.models[6].rates.cache_read: cache_read is part of prompt, which has no price; set it, 0 if it is free "
    "(line 27)",
    "pricing.models[6].modifiers[0]: names no call whose price it changes; set one of service_tier, inference_region, "
    "speed (line 29)",
    "pricing.models[6].modifiers[1].service_tier: 'Standard' is what a price without service_tier is for; leave the "
    "key out (line 30)",
    "pricing.models[6].modifiers[2].multiply: 30 is not a likely factor; it must be at most 20, and 0.5 halves a "
    "price (line 31)",
    'pricing.models[7].form: unknown key; did you mean "from"? (line 32)',
    'pricing.modifiers[0].provider: unknown provider; did you mean "mistral"? (line 34)',
    "pricing.discounts[0].percent: 110 is not a discount; it must be more than 0 and at most 100 percent (line 36)",
    "pricing.discounts[2]: never applies: pricing.discounts[1] applies first; move this entry before, or take it out "
    "(line 38)",
    'kafka.topc: unknown key; did you mean "topic"? (line 39)',
]


def test_all_problems_are_found_in_one_run_each_with_its_line(tmp_path: Path) -> None:
    assert sorted(problems(tmp_path, RULES)) == sorted(FOUND)


REFUSED = {
    "models: {'*': {prompt_per_1m: 1, completion_per_1m: 1}, x: {prompt_per_1m: 1, completion_per_1m: 1}}":
        "pricing.models.x: never applies: pricing.models.* applies first",
    "models: {x: {prompt_per_1m: 10001, completion_per_1m: 1}}":
        "pricing.models.x.prompt_per_1m: 10001 USD is beyond every price",
    "models: text": "pricing.models: must be a list of rules, or a mapping of model globs to rates",
    "models: [{model: x, rates: {prompt: 1}, provider: 'zz*'}]": "pricing.models[0].provider: unknown provider",
    "models: [{model: x, rates: {prompt: 1}, provider: vllm}]":
        "pricing.models[0].provider: unknown provider; list one of your own in pricing.providers",
    "models: [{model: x, rates: {}}]": "pricing.models[0].rates: ",
    "models: [{model: x, rates: {prompt: yes}}]": "pricing.models[0].rates.prompt: true is not a valid USD price",
    "models: [{model: x, rates: {prompt: .nan}}]": "pricing.models[0].rates.prompt: nan is not a valid USD price",
    "models: [{model: x, rates: {request: 1001}}]": "pricing.models[0].rates.request: 1001 USD is beyond every price; "
        "it is at most 1000, per thousand",
    "models: [{model: x, rates: {second: 36001}}]": "pricing.models[0].rates.second: 36001 USD is beyond every price; "
        "it is at most 36000, per hour",
    "models: [{model: x, rates: {prompt: 1}, from: soon}]": "pricing.models[0].from: 'soon' is not a date",
    "models: [{model: x, rates: {prompt: 1}, from: 20260101}]": "pricing.models[0].from: 20260101 is not a date",
    "models: [{model: x, rates: {prompt: 1}, tiers: [{above: 0, rates: {prompt: 2}}]}]":
        "pricing.models[0].tiers[0].above",
    "models: [{model: x, rates: {prompt: 1}, speed: fast, modifiers: [{speed: fast, multiply: 2}]}]":
        "pricing.models[0].modifiers[0].speed: never applies: the rule itself is for calls of one speed",
    "models: [{model: x, rates: {prompt: 1}, until: 2026-06-01}, {model: x, rates: {prompt: 1}, from: 2026-06-01}, "
    "{model: x, rates: {prompt: 1}}]":
        "pricing.models[2]: never applies: pricing.models[0] and pricing.models[1] apply first",
    "models: [{model: x, rates: {prompt: 1}}, {model: x, service_tier: batch, rates: {prompt: 1}}]":
        "pricing.models[1]: never applies: pricing.models[0] applies first",
    "discounts: [{provider: azure, percent: 5}, {provider: azure.ai.openai, percent: 6}]":
        "pricing.discounts[1]: never applies: pricing.discounts[0] applies first",
    "discounts: [{provider: azure, percent: 5, until: 2026-06-01}, {provider: azure, percent: 6, from: 2026-05-01}]":
        "pricing.discounts[1]: its dates overlap those of pricing.discounts[0]",
    "modifiers: [{service_tier: 'b*', multiply: 2}, {service_tier: batch, multiply: 3}]":
        "pricing.modifiers[1]: never applies: pricing.modifiers[0] applies first",
    "modifiers: [{service_tier: batch, multiply: -1}]":
        "pricing.modifiers[0].multiply: -1 is not a valid number; it must be finite and not negative",
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_section_is_refused(tmp_path: Path, text: str) -> None:
    (problem,) = problems(tmp_path, f"pricing:\n  {text}\n")
    assert problem.startswith(REFUSED[text])
    assert problem.endswith("(line 2)")


ACCEPTED = [
    "models: [{model: x, rates: {prompt: 1}, until: 2026-06-01}, {model: x, rates: {prompt: 2}}]",
    "models: [{model: x, service_tier: batch, rates: {prompt: 1}}, {model: x, rates: {prompt: 2}}]",
    "models: [{model: 'gpt-4o*', rates: {prompt: 1}}, {model: 'gpt-4*', rates: {prompt: 2}}]",
    "models: [{model: x, provider: openai, rates: {prompt: 1}}, {model: x, rates: {prompt: 2}}]",
    "models: [{model: x, provider: openai, rates: {prompt: 1}}, {model: x, provider: azure, rates: {prompt: 2}}]",
    "models: [{model: x, rates: {prompt: 1, cache_read: 1, audio_prompt: 2, audio_cache_read: 2}}]",
    "models: [{model: x, rates: {page: 1}, modifiers: [{service_tier: batch, multiply: 0}]}]",
    "models: {x: {prompt_per_1m: 1, completion_per_1m: 1}, '*': {prompt_per_1m: 1, completion_per_1m: 1}}",
]


@pytest.mark.parametrize("text", ACCEPTED)
def test_section_is_accepted(tmp_path: Path, text: str) -> None:
    load(tmp_path, f"pricing:\n  {text}\n")


def test_numbers_are_read_from_their_text(tmp_path: Path) -> None:
    text = "pricing: {models: [{model: x, rates: {prompt: 0.12345678901234567890123, completion: '1_000.5', page: 2}}]}"
    (rule,) = load(tmp_path, text).pricing.models
    assert isinstance(rule, PriceRule)
    assert rule.rates == {
        "prompt": Decimal("0.12345678901234567890123"), "completion": Decimal("1000.5"), "page": Decimal(2),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("2026-07-01", "2026-07-01"),
        ("'2026-07-01'", "2026-07-01"),
        ("2026-07-01T12:00:00Z", "2026-07-01T12:00:00+00:00"),
        ("2026-07-01 12:00:00", "2026-07-01T12:00:00+00:00"),
        ("2026-07-01T02:00:00+02:00", "2026-07-01"),
    ],
)
def test_dates_are_in_utc(tmp_path: Path, written: str, shown: str) -> None:
    text = f"pricing: {{models: [{{model: x, rates: {{prompt: 1}}, from: {written}}}]}}"
    (rule,) = load(tmp_path, text).pricing.models
    assert isinstance(rule, PriceRule)
    assert rule.since is not None
    assert format_moment(rule.since) == shown


def test_example_of_the_documentation_is_accepted(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "pricing.md").read_text()
    example = page.partition("## Rules, modifiers, discounts")[2].partition("```yaml\n")[2].partition("```")[0]
    assert len(load(tmp_path, example).pricing.models) == 3
