"""Provider names: the many ways in which applications, SDKs, gateways and clouds write who bills a call."""

from __future__ import annotations

import re
from typing import Final

#: Id of a provider in the price table -> its other names, without case and punctuation.
_ALIASES: Final = {
    "anthropic": "anthropictext claude",
    "arcee": "arceeai",
    "aws": "awsbedrock bedrock amazonbedrock bedrockconverse bedrockruntime amazonbedrockruntime amazon amazonaws",
    "azure": "azureopenai azureaiopenai azaiopenai azureaiinference azaiinference azureai azuretext azurefoundry "
    "azureaifoundry azureaifoundryopenai microsoft microsoftazure microsoftfoundry azureopenaiservice",
    "cloudflare": "cloudflareworkersai workersai",
    "cohere": "coherechat",
    "fireworks": "fireworksai",
    "github-copilot": "copilot",
    "google": "gcpgemini gcpgenai gcpvertexai gcp vertexai vertex vertexaibeta googlevertex googlevertexai gemini "
    "googlegenai googlegenerativeai googleai googleaistudio googlegemini googlecloud geminiapi vertexaianthropic "
    "vertexaianthropicmodels vertexailanguagemodels vertexaichatmodels vertexanthropic googlevertexanthropic",
    "mistral": "mistralai codestral textcompletioncodestral",
    "moonshotai": "moonshot kimi",
    "novita": "novitaai",
    "openai": "textcompletionopenai openaicompletions",
    "perplexity": "perplexityai",
    "together": "togetherai togethercomputer",
    "voyageai": "voyage",
    "x-ai": "grok",
    "zhipuai": "zhipu bigmodel",
}
#: Gateways that bill nothing themselves: the model's prefix names the provider.
GATEWAYS: Final = frozenset(
    {"litellm", "litellmproxy", "portkey", "helicone", "kong", "bifrost", "gateway", "aigateway"}
)
#: Endings that an SDK appends to the provider, for the kind of its API.
_APIS: Final = (
    "chat",
    "responses",
    "messages",
    "completion",
    "completions",
    "embedding",
    "embeddings",
    "image",
    "speech",
    "api",
)
#: Parts of names of servers that answer in a provider's protocol, and bill nothing.
_SELF_HOSTED: Final = (
    "compatible", "local", "selfhost", "vllm", "ollama", "sglang", "lmstudio", "llamacpp", "custom", "like", "proxy",
)  # fmt: skip
#: Parts of a provider's name that decide over others in it: a cloud sells the models of other providers.
_CLOUDS: Final = {"azure": "azure", "bedrock": "aws", "vertex": "google", "openrouter": "openrouter"}


def plain(name: str) -> str:
    """Return a provider's name without case and punctuation."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


class ProviderNames:
    """Reads names of providers. providers: the ids of the price table."""

    def __init__(self, providers: frozenset[str]) -> None:
        self._id_of = {plain(provider): provider for provider in sorted(providers)}
        for provider, names in _ALIASES.items():
            if provider in providers:
                self._id_of.update(dict.fromkeys(names.split(), provider))

    def alias(self, name: str) -> str | None:
        """Return the id of a provider whose id or other name this is, None for any other name."""
        return self._id_of.get(plain(name))

    def id_of(self, name: str) -> str | None:
        """Return the id of a provider in the table, "" where the model tells it, None for one that it does not have."""
        short = plain(name)
        if not name.strip() or short in GATEWAYS:
            return ""
        if short in self._id_of:
            return self._id_of[short]
        for ending in _APIS:
            if short.endswith(ending) and short.removesuffix(ending) in self._id_of:
                return self._id_of[short.removesuffix(ending)]
        if any(part in short for part in _SELF_HOSTED):
            return None
        return next((provider for part, provider in _CLOUDS.items() if part in short), None)
