"""Recipes of docs/contributing: their files exist, and the worker metric is added as its recipe says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.docs.test_generated import PAGES
from tests.harness import Harness
from tests.services import ROOT
from tokentrace.alerts import rules
from tokentrace.config.alerts import KINDS, Metric
from tokentrace.exposition import docs, worker_metrics
from tokentrace.model import measures, worker_stats
from tokentrace.model.worker_stats import Lag, Moment, WorkerStats

RECIPES = sorted((ROOT / "docs" / "contributing").glob("*.md"))
PACKAGE = ROOT / "worker" / "tokentrace"
#: A path in backticks, such as `decode/framing.py` or `schemas/span.avsc`.
_PATH = re.compile(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:py|avsc))`")


def snippets(recipe: str) -> list[str]:
    """The Python blocks of a recipe, without the indentation of their list."""
    text = (ROOT / "docs" / "contributing" / f"{recipe}.md").read_text()
    return [block.replace("\n   ", "\n").strip() for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = [path for path in _PATH.findall(page.read_text()) if path.endswith((".py", ".avsc", ".md"))]
    assert [path for path in named if not any((root / path).exists() for root in (ROOT, PACKAGE))] == []


@pytest.mark.parametrize("page", RECIPES, ids=lambda path: path.name)
def test_recipes_are_in_their_index(page: Path) -> None:
    index = (ROOT / "docs" / "contributing" / "README.md").read_text()
    assert page.name == "README.md" or f"({page.name})" in index


def test_worker_metric_recipe_adds_a_metric_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = snippets("worker-metric")
    metric: Any = eval(line, vars(worker_stats))
    monkeypatch.setattr(worker_metrics, "WORKER_METRICS", (*worker_stats.WORKER_METRICS, metric))
    stats = WorkerStats(replica_id="r", guarantee="exactly_once", started_at_s=1.0)
    stats.lag = {0: Lag(7, 1.5), 1: Lag(0, 0.0), 2: Lag(1, 0.5)}
    families = worker_metrics.collect_worker_metrics(Moment(stats, Harness().ledger.snapshot, 2.0))
    found = {family.name: family for family in families if "behind" in family.name}
    assert [sample.value for sample in found["tokentrace_worker_behind_partitions"].samples] == [2.0]
    assert "| `tokentrace_worker_behind_partitions` | gauge |" in docs.worker_families()


def test_measure_recipe_declares_a_sum_that_the_layout_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = snippets("measure")
    measure: Any = eval(line, vars(measures))
    assert measure.name not in measures.SUMS
    monkeypatch.setattr(measures, "SUMS", (*measures.SUMS, measure.name))
    assert measures.Layout.build().fields[measure.name] == slice(len(measures.SUMS) - 1, len(measures.SUMS))


def test_alert_recipe_declares_a_metric_of_an_existing_histogram() -> None:
    (line,) = snippets("alert")
    ((name, metric),) = eval(f"{{{line}}}", vars(rules)).items()
    assert name not in rules.MEASURES
    assert metric.block in measures.Layout.build().histograms


def test_alerts_page_lists_every_metric_and_kind() -> None:
    page = (ROOT / "docs" / "alerts.md").read_text()
    assert [name for name in (*get_args(Metric), *KINDS) if f"`{name}`" not in page] == []
