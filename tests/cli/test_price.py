"""`tokentrace price`: the price of a call, explained."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
from genai_prices import Usage, calc_price

from tests.cli.test_main import run


def test_price_shows_the_entry_its_rates_and_the_sum(tmp_path: Path) -> None:
    usage = "prompt=33772,cache_read=30008,cache_write=3755,completion=500"
    done = run("price", "claude-sonnet-4-5", "--provider", "anthropic", "--usage", usage, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0].startswith("Price genai-prices ")
    assert lines[0].endswith(" anthropic/claude-sonnet-4-5")
    assert "cache_write 3.75 USD per million 3,755" in lines
    expected = calc_price(
        Usage(input_tokens=33772, cache_read_tokens=30008, cache_write_tokens=3755, output_tokens=500),
        "claude-sonnet-4-5", provider_id="anthropic",
    ).total_price  # fmt: skip
    assert lines[-1] == f"Cost {expected.normalize()} USD"


@pytest.mark.parametrize("prompt", [200_000, 200_001])
def test_price_follows_tiers_and_says_which(tmp_path: Path, prompt: int) -> None:
    done = run("price", "gemini-2.5-pro", "--usage", f"prompt={prompt},completion=10", "--json", folder=tmp_path)
    found = json.loads(done.stdout)
    expected = calc_price(
        Usage(input_tokens=prompt, output_tokens=10), "gemini-2.5-pro", provider_id="google"
    ).total_price
    assert Decimal(found["cost_usd"]) == expected
    assert found["tier"] == ("up to 200,000 prompt tokens" if prompt == 200_000 else "more than 200,000 prompt tokens")


def test_price_follows_the_time_of_the_call(tmp_path: Path) -> None:
    night, day = (
        json.loads(run("price", "deepseek-reasoner", "--at", at, "--json", folder=tmp_path).stdout)
        for at in ("2025-03-01T17:00:00Z", "2025-03-01T12:00:00")
    )
    assert night["prices"] != day["prices"]
    assert "UTC" in (night["validity"] or day["validity"])


def test_price_says_how_a_name_was_read(tmp_path: Path) -> None:
    done = run("price", "azure/eu/gpt-4o", folder=tmp_path)
    assert "Read as   prefix 'azure/'" in done.stdout


def test_price_takes_the_configured_rates_first(tmp_path: Path) -> None:
    config = tmp_path / "tokentrace.yml"
    config.write_text("pricing: {models: {'gpt-*': {prompt_per_1m: 2, completion_per_1m: 8}}}\n")
    for arguments in ((), ("--config", str(config))):
        done = run("price", "gpt-4o", "--usage", "prompt=1000000,completion=1", *arguments, folder=tmp_path)
        assert done.stdout.startswith("Price     pricing.models, 'gpt-*'")
        assert done.stdout.endswith("Cost      2.000008 USD\n")


CONTRACT = """\
pricing:
  models:
    - provider: openai
      model: "gpt-4o*"
      from: 2026-05-01
      until: 2026-12-01
      rates: {prompt: 2, completion: 8}
      tiers: [{above: 1000, rates: {prompt: 3}}]
      modifiers: [{service_tier: flex, multiply: 0.5}]
  discounts: [{provider: openai, percent: 7.25, configured: true}]
"""


def test_price_explains_the_rule_the_modifier_and_the_discount(tmp_path: Path) -> None:
    (tmp_path / "tokentrace.yml").write_text(CONTRACT)
    arguments = ["gpt-4o", "--provider", "openai.chat", "--at", "2026-11-27", "--usage", "prompt=2000,completion=10"]
    done = run("price", *arguments, "--service-tier", "FLEX", folder=tmp_path)
    assert done.stdout.splitlines() == [
        "Price     pricing.models[0], 'gpt-4o*' of 'openai', from 2026-05-01 until 2026-12-01",
        "Valid     since 2026-05-01, until 2026-12-01",
        "Modifier  pricing.models[0].modifiers[0], service_tier flex, times 0.5",
        "Discount  pricing.discounts[0], openai, 7.25 %",
        "Tier      more than 1,000 prompt tokens",
        "  prompt                       1.39125 USD per million            2,000",
        "  completion                      3.71 USD per million               10",
        "Cost      0.0028196 USD",
    ]
    other = run("price", *arguments, "--service-tier", "scale", "--json", folder=tmp_path)
    found = json.loads(other.stdout)
    assert (found["modifiers"], found["estimated"]) == ([], "service_tier 'scale'")
    assert found["discount"] == "pricing.discounts[0], openai, 7.25 %"
    assert Decimal(found["cost_usd"]) == Decimal("0.0056392")


def test_price_says_what_the_table_has_for_a_modifier(tmp_path: Path) -> None:
    arguments = ["--speed", "fast", "--inference-region", "us", "--at", "2026-11-27"]
    done = run("price", "claude-opus-4-8", *arguments, folder=tmp_path)
    assert "Modifier  the table's price of speed fast\nModifier  anthropic, inference_region us\n" in done.stdout
    assert "Estimated" not in done.stdout
    unknown = run("price", "claude-opus-4-8", "--service-tier", "reserved", folder=tmp_path)
    assert "Estimated no price for service_tier 'reserved': the price without it applies" in unknown.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["house-llm"], 1, "No price for model 'house-llm'. Set pricing.models in the configuration."),
        (["ft:gpt-4.1:org::id", "--provider", "openai"], 1, "No price for model 'ft:gpt-4.1:org::id' of provider"),
        (["gpt-4o", "--usage", "prompts=1"], 2, "--usage: unknown unit 'prompts'; did you mean 'prompt'?"),
        (["gpt-4o", "--usage", "prompt"], 2, "--usage: 'prompt' is not a unit and a quantity"),
        (["gpt-4o", "--usage", "prompt=-1"], 2, "--usage: 'prompt=-1' is not a unit and a quantity"),
        (["gpt-4o", "--usage", "prompt=1.5"], 2, "--usage: 'prompt=1.5' is not a unit and a quantity"),
        (["gpt-4o", "--usage", "prompt=1,prompt=2"], 2, "--usage: prompt is there twice."),
        (["gpt-4o", "--usage", "prompt=9999999999999"], 2, "--usage: prompt is at most"),
        (["gpt-4o", "--usage", "prompt=1,cache_read=2"], 2, "--usage: cache_read is part of prompt, and larger."),
        (["gpt-4o", "--usage", "cache_read=2"], 2, "--usage: cache_read is part of prompt, which is missing."),
        (["gpt-4o", "--at", "yesterday"], 2, "--at: 'yesterday' is not a time"),
        (["gpt-4o", "--config", "missing.yml"], 2, "missing.yml"),
        (["\x1b[31mred"], 1, "No price for model '\\x1b[31mred'"),
    ],
)
def test_price_says_what_is_wrong(tmp_path: Path, arguments: list[str], code: int, error: str) -> None:
    done = run("price", *arguments, folder=tmp_path)
    assert done.returncode == code
    assert error in done.stderr
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stderr


def test_price_names_what_was_used_and_has_no_price(tmp_path: Path) -> None:
    done = run("price", "whisper-1", "--provider", "openai", "--usage", "second=90,character=5", folder=tmp_path)
    assert "second" in done.stdout
    assert "character" in done.stdout
    assert "no price" in done.stdout
    assert done.stdout.endswith("Cost      0.009 USD\n")
