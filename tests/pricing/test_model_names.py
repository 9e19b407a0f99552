"""Names of models and providers as applications send them: priced by the table of who bills the call, or not at all."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from genai_prices.data import providers

from tokentrace.pricing import Pricer
from tokentrace.pricing.genai_prices import GenaiPrices
from tokentrace.pricing.model_names import ModelNames

#: Model, provider, and the entry of the price table, tab-separated; `-` for a name that has no price.
PAIRS = [
    line.split("\t")
    for line in Path(__file__).with_name("model_names.tsv").read_text().splitlines()
    if line and not line.startswith("#")
]
#: Every value that OpenTelemetry lists for gen_ai.provider.name -> the provider in the price table, None for none.
OTEL_PROVIDERS = {
    "anthropic": "anthropic", "aws.bedrock": "aws", "azure.ai.inference": "azure", "azure.ai.openai": "azure",
    "cohere": "cohere", "deepseek": "deepseek", "gcp.gemini": "google", "gcp.gen_ai": "google",
    "gcp.vertex_ai": "google", "groq": "groq", "ibm.watsonx.ai": None, "mistral_ai": "mistral",
    "moonshot_ai": "moonshotai", "openai": "openai", "perplexity": "perplexity", "x_ai": "x-ai",
}  # fmt: skip
NAMES = ModelNames(frozenset(provider.id for provider in providers))


@pytest.fixture(scope="module")
def table() -> GenaiPrices:
    return GenaiPrices()


@pytest.mark.parametrize(("model", "provider", "entry"), PAIRS)
def test_name_is_priced_by_the_entry_of_who_bills_it(table: GenaiPrices, model: str, provider: str, entry: str) -> None:
    match = table.find(model, provider)
    assert (f"{match.provider}/{match.model}" if match is not None else "-") == entry


@pytest.mark.parametrize(("name", "provider"), OTEL_PROVIDERS.items())
def test_provider_of_opentelemetry_is_known(name: str, provider: str | None) -> None:
    assert NAMES.provider(name) == provider


def test_case_and_punctuation_of_a_provider_do_not_matter() -> None:
    assert {NAMES.provider(name) for name in ("AWS Bedrock", "aws_bedrock", "Aws.Bedrock", " aws-bedrock ")} == {"aws"}
    assert NAMES.provider("") == NAMES.provider(" ") == NAMES.provider("LiteLLM") == ""
    assert NAMES.provider("日本語") is NAMES.provider(":") is None


def test_every_provider_of_the_table_is_found_by_its_id() -> None:
    assert {provider.id for provider in providers} == {NAMES.provider(provider.id) for provider in providers}


def test_plain_names_of_the_table_are_read_as_they_are(table: GenaiPrices) -> None:
    """No rule for gateways or clouds takes an entry away from its own provider."""
    changed = []
    for provider in providers:
        for entry in provider.models:
            try:
                expected = table._snapshot.find_provider_model(entry.id, None, provider.id, None)
            except LookupError:
                continue
            readings = list(NAMES.readings(entry.id, provider.id))
            first = next(
                (found for reading in readings if (found := _find(table, reading.model, reading.provider)) is not None),
                None,
            )
            if first is None or first[0] != expected[0].id or first[1] != expected[1].id:
                changed.append((provider.id, entry.id, readings))
    assert changed == []


def _find(table: GenaiPrices, model: str, provider: str) -> tuple[str, str] | None:
    try:
        owner, info = table._snapshot.find_provider_model(model, None, provider or None, None)
    except LookupError:
        return None
    return owner.id, info.id


def test_model_without_a_price_is_logged_once_and_few_of_them(caplog: pytest.LogCaptureFixture) -> None:
    pricer = Pricer({})
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            pricer._plan_id("house-llm", "in-house")
            pricer._plan_of_name.clear()
    [line] = caplog.messages
    assert line.startswith("No price for model 'house-llm' of provider 'in-house'")
    assert "`tokentrace price`" in line
    for number in range(300):
        pricer._plan_id(f"m{number}", "in-house")
    assert len(caplog.messages) == 100
    assert caplog.messages[-1].endswith("Further models are not named here.")
