"""(c) Exposition: `Renderer.render` of a new snapshot against `prometheus_client.generate_latest` of the same data.

Every cell has changed since the last rendering, as under load.
"""

from __future__ import annotations

import time
from typing import Any

from prometheus_client import generate_latest

from tokentrace.exposition import Format, Renderer

from .baselines import FastavroPrometheus
from .effort import Effort
from .measure import Figure, Row, in_turns
from .rig import Harness
from .workload import workload

#: Series that one model with one caller has, near enough.
SERIES_PER_MODEL = 84
SPANS_PER_MODEL = 60


def run(effort: Effort) -> Figure:
    rows = []
    cases: dict[str, dict[str, Any]] = {}
    for wanted in effort.series:
        data = _SameData(max(wanted // SERIES_PER_MODEL, 1))
        data.text()
        speed, client, open_metrics = in_turns(effort.repeats, data.text, data.client, data.open_metrics)
        ratio = speed.over(client)
        measured = speed.text(" M lines/s", 1e6)
        rows.append(Row(f"{data.series} series", measured, ratio.text(), "prometheus_client.generate_latest", ">= 8"))
        cases[str(wanted)] = {
            "vs_prometheus_client": ratio.median,
            "lines_per_s": speed.median,
            "openmetrics_lines_per_s": open_metrics.median,
            "series": data.series,
            "render_s": data.series / speed.median,
            "prometheus_client_lines_per_s": client.median,
        }
    results = {"vs_prometheus_client": min(case["vs_prometheus_client"] for case in cases.values()), "cases": cases}
    return Figure("c exposition", rows, {"exposition": results})


class _SameData:
    """The same spans in tokentrace's ledger and in the client library's registry. Each method gives lines a second."""

    def __init__(self, models: int) -> None:
        load = workload("default", models * SPANS_PER_MODEL, models, only_models=True)
        self.series = 0
        self._rig = Harness(load)
        self._delta = self._rig.count()
        self._renderer = Renderer()
        self._baseline = FastavroPrometheus(load.schema)
        self._baseline.count(load.messages)

    def text(self) -> float:
        return self._render("text")

    def open_metrics(self) -> float:
        return self._render("openmetrics")

    def client(self) -> float:
        began = time.perf_counter()
        body = generate_latest(self._baseline.registry)
        seconds = time.perf_counter() - began
        return _samples(body) / seconds

    def _render(self, form: Format) -> float:
        snapshot = self._rig.commit(self._delta)
        began = time.perf_counter()
        body = self._renderer.render(snapshot, [], form)
        seconds = time.perf_counter() - began
        if form == "text":
            self.series = _samples(body)
        return _samples(body) / seconds


def _samples(body: bytes) -> int:
    """Lines that are samples."""
    return sum(not line.startswith(b"#") for line in body.splitlines())
