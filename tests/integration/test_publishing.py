"""The programs of docs/publishing.md, run as they are written, and spans at the prices of docs/pricing.md."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from tests.oracle import Key, computed_nano_usd, key
from tests.services import ROOT
from tests.services.kafka import KafkaBroker
from tests.services.registry import SchemaRegistry
from tests.services.workers import WorkerProcess, span_totals, wait_for
from tests.spanfactory import message, span

#: Put before a program: it waits longer at its end than the default of 5 s, which is too short on a busy machine.
PATIENCE = """
import functools, tokentrace
tokentrace.Publisher = functools.partial(tokentrace.Publisher, flush_timeout_s=60.0)
"""


def program(name: str, folder: Path) -> Path:
    """One program of the page, as a file."""
    page = (ROOT / "docs" / "publishing.md").read_text()
    found = re.search(rf"<!-- program: {name} -->\n```python\n(.*?)```", page, re.DOTALL)
    assert found is not None
    path = folder / f"{name}.py"
    path.write_text(found[1])
    return path


def test_both_programs_of_the_page_publish_what_the_metrics_then_show(
    kafka: KafkaBroker,
    registry: SchemaRegistry,
    topic: str,
    start_worker: Callable[..., WorkerProcess],
    tmp_path: Path,
) -> None:
    environment = {**os.environ, "KAFKA": kafka.bootstrap, "TOPIC": topic, "REGISTRY": registry.url}
    worker = start_worker(
        kafka={"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        schema_registry={"url": registry.url},
    )
    for name in ("publisher", "registry"):
        path = program(name, tmp_path)
        path.write_text(PATIENCE + path.read_text())
        subprocess.run([sys.executable, str(path)], env=environment, cwd=ROOT, check=True, timeout=180)

    first = {"model": "gpt-4o", "provider": "openai"}
    second = {"model": "gpt-4o-mini", "provider": "openai"}
    cost = computed_nano_usd("gpt-4o", "openai", 1200, 1024, 180, 1_790_000_000_000_000)
    price = computed_nano_usd("gpt-4o-mini", "openai", 800, 0, 90, 1_790_000_000_000_000)
    assert cost
    assert price
    expected = {
        key("tokentrace_spans_total", status="ok", **first): 1,
        key("tokentrace_spans_total", status="ok", **second): 1,
        key("tokentrace_cost_total", caller="support-bot", **first): cost,
        key("tokentrace_cost_total", caller="search", **second): price,
        key("tokentrace_cached_prompt_tokens_total", caller="support-bot", **first): 1024,
        key("tokentrace_span_pricing_total", source="computed", **first): 1,
        key("tokentrace_span_pricing_total", source="computed", **second): 1,
        key("tokentrace_ttft_ms_count", **first): None,
        key("tokentrace_latency_ms_count", **first): 1,
        key("tokentrace_latency_ms_sum", **second): 640_000,
        key("tokentrace_eval_score_sum", **first): 920_000,
    }

    def shown() -> bool:
        totals = span_totals([worker])
        return {series: totals.get(series) for series in expected} == expected

    assert wait_for(shown), span_totals([worker])


#: Contract prices as docs/pricing.md writes them: a change of rates between two months, and a discount that ends.
CONTRACT: dict[str, Any] = {
    "models": [
        {
            "provider": "openai",
            "model": "gpt-4o*",
            "service_tier": "batch",
            "rates": {"prompt": 1.1, "completion": 4.4},
        },
        {
            "provider": "openai",
            "model": "gpt-4o*",
            "until": "2026-09-01",
            "rates": {"prompt": 2.2, "completion": 8.8, "cache_read": 0.1234567},
            "tiers": [{"above": 1000, "rates": {"prompt": 3.3}}],
            "modifiers": [{"service_tier": "priority", "multiply": 1.75}],
        },
        {"provider": "openai", "model": "gpt-4o*", "from": "2026-09-01", "rates": {"prompt": 2, "completion": 8}},
    ],
    "discounts": [{"provider": "openai", "percent": 7.25, "until": "2026-08-01", "configured": True}],
}


def contract_price(record: dict[str, Any]) -> tuple[int, str]:
    """(nano-USD, source) of a span, by hand."""
    prompt, cached, completion = (record[f"{name}_tokens"] for name in ("prompt", "cached_prompt", "completion"))
    tier, month = record["service_tier"], datetime.fromtimestamp(record["ended_at"] / 1e6, UTC).month
    if tier == "batch":
        usd = prompt * Fraction("1.1") + completion * Fraction("4.4")
    elif month < 9:
        rate = Fraction("3.3") if prompt > 1000 else Fraction("2.2")
        usd = (prompt - cached) * rate + cached * Fraction("0.1234567") + completion * Fraction("8.8")
        usd *= Fraction("1.75") if tier == "priority" else 1
    else:
        usd = prompt * Fraction(2) + completion * Fraction(8)
    usd *= 1 - Fraction("0.0725") if month < 8 else 1
    known = tier in (None, "default", "batch") or (tier == "priority" and month < 9)
    return round(usd / 10**6 * 10**9), "computed" if known else "estimated"


def test_service_tiers_and_dated_contract_prices_are_charged_exactly(
    kafka: KafkaBroker, topic: str, start_worker: Callable[..., WorkerProcess]
) -> None:
    worker = start_worker(
        kafka={"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic}, pricing=CONTRACT
    )
    rng = random.Random(3)
    records = []
    for _ in range(3000):
        month = datetime(2026, rng.choice([7, 8, 9]), 1, tzinfo=UTC)
        ended_us = round(month.timestamp() * 1e6) + rng.choice([-1, 0, 1])
        prompt = rng.choice([0, 1000, 1001, rng.randrange(50_000)])
        record = span(prompt_tokens=prompt, completion_tokens=rng.randrange(1, 900), cached_prompt_tokens=prompt // 3)
        record |= {"caller": rng.choice("ab"), "started_at": ended_us - 5_000_000, "ended_at": ended_us}
        records.append(record | {"service_tier": rng.choice([None, "default", "batch", "priority", "scale"])})
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for record in records:
        producer.produce(topic, message(record))
    producer.flush()
    expected: Counter[Key] = Counter()
    for record in records:
        nano_usd, source = contract_price(record)
        labels = {"model": record["model"], "provider": record["provider"]}
        expected[key("tokentrace_cost_total", caller=record["caller"], **labels)] += nano_usd
        expected[key("tokentrace_span_pricing_total", source=source, **labels)] += 1
        expected[key("tokentrace_spans_total", status="ok", **labels)] += 1

    def shown() -> bool:
        totals = span_totals([worker])
        return {series: totals.get(series) for series in expected} == expected

    assert wait_for(shown), ({series: span_totals([worker]).get(series) for series in expected}, expected)
    estimated = key("tokentrace_span_pricing_total", source="estimated", model="gpt-4o", provider="openai")
    assert expected[estimated] > 100
