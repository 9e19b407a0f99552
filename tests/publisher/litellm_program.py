"""Calls through the real LiteLLM, to a stand-in; run by test_litellm.py in an environment of its own.

usage: python litellm_program.py PROVIDER_URL BROKERS TOPIC
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any

import litellm

from tokentrace import Publisher

HELLO: Any = [{"role": "user", "content": "Hi"}]


async def main() -> None:
    url, brokers, topic = sys.argv[1:]
    publisher = Publisher(brokers, topic, caller="app")
    litellm.callbacks = [publisher.litellm()]
    openai: Any = {"api_base": f"{url}/v1", "api_key": "k", "num_retries": 0, "messages": HELLO}
    anthropic: Any = {"api_base": url, "api_key": "k", "num_retries": 0, "messages": HELLO, "max_tokens": 10}
    streamed: Any = {"stream": True, "stream_options": {"include_usage": True}}

    litellm.completion(model="openai/gpt-4o", **openai)
    await litellm.acompletion(model="openai/gpt-4o", **openai)
    litellm.completion(model="anthropic/claude-sonnet-4-6", **anthropic)
    await litellm.acompletion(model="anthropic/claude-sonnet-4-6", **anthropic)
    litellm.embedding(model="openai/text-embedding-3-small", input=["Hi"], api_base=f"{url}/v1", api_key="k")
    for _ in litellm.completion(model="openai/gpt-4o", **openai, **streamed):
        pass
    async for _ in await litellm.acompletion(model="anthropic/claude-sonnet-4-6", **anthropic, stream=True):
        pass
    for model, timeout_s in (("openai/limited", 60.0), ("openai/slow", 0.5)):
        with contextlib.suppress(Exception):
            litellm.completion(model=model, **openai, timeout=timeout_s)
        with contextlib.suppress(Exception):
            await litellm.acompletion(model=model, **openai, timeout=timeout_s)
    with contextlib.suppress(Exception):
        for _ in litellm.completion(model="openai/cut", **openai, **streamed):
            pass
    # LiteLLM reports in tasks of its own.
    await asyncio.sleep(5.0)


asyncio.run(main())
