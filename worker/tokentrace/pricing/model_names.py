"""Model names: what applications send as model and provider, read as the names that the price table has.

Instrumentations, gateways and clouds write one model in many ways: `gpt-4o` of `azure.ai.openai`, `azure/eu/gpt-4o`,
`us.anthropic.claude-sonnet-4-5-20250929-v1:0`, the ARN of an inference profile. Each way is read as the provider that
bills the call. A name that cannot be read has no price: no call is charged by the prices of another provider, of the
base of a fine-tuned model, or of tokens where capacity is billed by the hour.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from tokentrace.model.providers import GATEWAYS, ProviderNames, plain


class Reading(NamedTuple):
    """A name in the terms of the price table. provider: its id there, "" to find it by the model.

    how: what was read besides the plain name, in words. region: the one in the name, empty where it has none.
    """

    provider: str
    model: str
    how: str = ""
    region: str = ""


#: Prefixes that only a gateway writes, and no model's name begins with: they decide over the provider.
_ROUTES: Final = frozenset({
    "azure", "azure_ai", "azure_text", "bedrock", "bedrock_converse", "vertex_ai", "vertex_ai_beta", "gemini",
    "openrouter", "groq", "together_ai", "fireworks_ai", "perplexity", "cerebras", "databricks", "cloudflare", "novita",
    "cohere_chat", "codestral", "text-completion-openai", "text-completion-codestral", "github_copilot", "voyage",
})  # fmt: skip
#: Behind such a prefix: the region, the zone or the API, which are not part of the model's name.
_ROUTE_PARTS: Final = re.compile(
    r"(?:converse|invoke|chat|responses|global|global-standard|data-?zone"
    r"|(?P<region>eu|us|[a-z]{2}(?:-gov)?-[a-z]+-\d))/"
)
#: Behind such a prefix: capacity that is billed by the hour.
_COMMITMENT: Final = re.compile(r"(?:^|/)\d+-month-commitment/")

_ARN: Final = re.compile(r"arn:aws[a-z-]*:bedrock:[a-z0-9-]*:\d*:(?P<kind>[a-z-]+)/(?P<model>.+)")
#: Kinds of resources that an ARN names by the model: all others have ids of their own, and some are billed by the hour.
_ARN_KINDS: Final = ("foundation-model", "inference-profile")
_VENDORS: Final = (
    "ai21|amazon|anthropic|cohere|deepseek|google|luma|meta|minimax|mistral|moonshot|nvidia|openai|qwen|stability|writer"
    "|zai"
)
_BEDROCK: Final = re.compile(
    rf"(?:(?P<region>us|us-gov|eu|apac|au|jp|ca|sa|me|af|uk|global)\.)?(?:{_VENDORS})\.[a-z0-9]"
)
_BEDROCK_VERSION: Final = re.compile(r"-v\d+(?::\d+)?(?::\d+k)?$")
_PUBLISHER: Final = re.compile(r"(?:projects/[^/]+/locations/[^/]+/)?publishers/[^/]+/models/(?P<model>.+)")


class ModelNames:
    """Reads names.

    providers: the ids of the price table. owner: the table's own rules, model -> id of its provider, None where none
    applies.
    """

    def __init__(self, providers: frozenset[str], owner: Callable[[str], str | None] = lambda _: None) -> None:
        self._owner = owner
        self._providers = ProviderNames(providers)

    def provider(self, name: str) -> str | None:
        """Return the id of a provider in the table, "" where the model tells it, None for one that it does not have."""
        return self._providers.id_of(name)

    def readings(self, model: str, provider: str) -> Iterator[Reading]:
        """Yield what the name can mean, the most literal first. provider: as sent."""
        lowered = model.strip().lower()
        if lowered.startswith("arn:"):
            if (arn := _ARN.fullmatch(lowered)) and arn["kind"] in _ARN_KINDS:
                yield from self._bedrock(arn["model"], f"the ARN of a Bedrock {arn['kind'].replace('-', ' ')}")
            return
        if published := _PUBLISHER.fullmatch(lowered):
            yield Reading("google", published["model"], "a model of Vertex AI's Model Garden")
            return
        if _COMMITMENT.search(lowered):
            return
        known = self.provider(provider)
        bedrock = _BEDROCK.match(lowered)
        if bedrock and (known in ("", "aws") or bedrock["region"] or _BEDROCK_VERSION.search(lowered)):
            yield from self._bedrock(lowered, "a model id of Bedrock")
            return
        prefixed = list(self._prefixed(lowered, known))
        if known or not prefixed:
            yield from self._plain_name(lowered, provider, known)
        yield from prefixed

    def _plain_name(self, model: str, provider: str, known: str | None) -> Iterator[Reading]:
        """Yield the readings of a name as it is."""
        if known is None:
            if plain(provider) == "huggingface" and ":" in model:
                # The router of Hugging Face: the provider is behind the colon.
                name, _, server = model.rpartition(":")
                yield Reading(f"huggingface_{server}", name, f"served by {server} for Hugging Face")
            return
        if known:
            how = "" if known == provider else f"provider {provider!r} is {known!r} in the price table"
            yield Reading(known, model, how)
            return
        if model.startswith("ft:"):
            # It has the provider of its base, and never its price.
            base = self._owner(model.split(":")[1])
            if base:
                yield Reading(base, model, "a fine-tuned model")
        elif re.search(r"@(?:\d{8}|default|latest|\d{3})$", model):
            yield Reading("google", model, "a version of Vertex AI")
        else:
            yield Reading("", model)

    def _prefixed(self, model: str, known: str | None) -> Iterator[Reading]:
        """Yield the readings of a name behind a prefix that names who bills it."""
        head, _, rest = model.partition("/")
        if not rest:
            return
        if plain(head) in GATEWAYS:
            yield from self.readings(rest, "")
            return
        if head == "models":
            yield Reading(known or "google", rest, "prefix 'models/'")
            return
        named = self._providers.alias(head)
        if named is None:
            return
        if head in _ROUTES or known in ("", named):
            how, region = f"prefix '{head}/'", ""
            while part := _ROUTE_PARTS.match(rest):
                rest = rest[part.end() :]
                region = part["region"] or region
            if named == "aws":
                yield from self._bedrock(rest, how)
            elif published := _PUBLISHER.fullmatch(rest):
                yield Reading("google", published["model"], how)
            else:
                yield Reading(named, rest, how, region)

    def _bedrock(self, model: str, how: str) -> Iterator[Reading]:
        """Yield the readings of a model id of Bedrock. The prices of `global.` differ from those of a region."""
        yield Reading("aws", model, how)
        match = _BEDROCK.match(model)
        if match and match["region"] and match["region"] != "global":
            region = match["region"]
            yield Reading("aws", model.removeprefix(f"{region}."), f"{how}, region {region}", region)
