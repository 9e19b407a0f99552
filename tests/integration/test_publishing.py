"""The programs of docs/publishing.md, run as they are written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.oracle import computed_nano_usd, key
from tests.services import ROOT
from tests.services.kafka import KafkaBroker
from tests.services.registry import SchemaRegistry
from tests.services.workers import WorkerProcess, span_totals, wait_for


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
    environment.pop("PYTHONPATH", None)
    worker = start_worker(
        kafka={"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        schema_registry={"url": registry.url},
    )
    for name in ("single-object", "registry"):
        path = program(name, tmp_path)
        assert "tokentrace" not in re.sub(r'"tokentrace\.v1"', "", path.read_text()), "it must not need the package"
        subprocess.run([sys.executable, str(path)], env=environment, cwd=ROOT, check=True, timeout=60)

    first = {"model": "gpt-4o", "provider": "openai"}
    second = {"model": "gpt-4o-mini", "provider": "openai"}
    price = computed_nano_usd("gpt-4o-mini", "openai", 800, 0, 90, 1_790_000_000_000_000)
    assert price
    expected = {
        key("tokentrace_spans_total", status="ok", **first): 1,
        key("tokentrace_spans_total", status="ok", **second): 1,
        key("tokentrace_cost_total", caller="support-bot", **first): 3_520_000,
        key("tokentrace_cost_total", caller="search", **second): price,
        key("tokentrace_cached_prompt_tokens_total", caller="support-bot", **first): 1024,
        key("tokentrace_span_pricing_total", source="reported", **first): 1,
        key("tokentrace_span_pricing_total", source="computed", **second): 1,
        key("tokentrace_latency_ms_sum", **first): 2_140_000,
        key("tokentrace_latency_ms_sum", **second): 640_000,
        key("tokentrace_eval_score_sum", **first): 920_000,
    }

    def shown() -> bool:
        totals = span_totals([worker])
        return {series: totals.get(series) for series in expected} == expected

    assert wait_for(shown), span_totals([worker])
