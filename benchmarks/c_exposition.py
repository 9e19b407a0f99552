"""(c) Exposition: `Renderer.render` of a new snapshot against `prometheus_client.generate_latest` of the same data.

Every cell has changed since the last rendering, as under load.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from prometheus_client import generate_latest

from tokentrace.expose import Format, Renderer

from .baselines import FastavroPrometheus
from .effort import Effort
from .measure import Figure, Row, in_turns
from .rig import Rig
from .workload import workload

#: Series that one model with one caller has, near enough.
SERIES_PER_MODEL = 84
SPANS_PER_MODEL = 60


def run(effort: Effort) -> Figure:
    rows = []
    cases: dict[str, dict[str, Any]] = {}
    for wanted in effort.series:
        models = max(wanted // SERIES_PER_MODEL, 1)
        load = workload("default", models * SPANS_PER_MODEL, models, only_models=True)
        rig = Rig(load)
        baseline = FastavroPrometheus(load.schema)
        baseline.count(load.messages)
        delta = rig.count()
        lines = {"tokentrace": 0, "client": 0}
        renderer = Renderer()

        def ours(form: Format) -> Callable[[], float]:
            def run() -> float:
                snapshot = rig.commit(delta)
                began = time.perf_counter()
                body = renderer.render(snapshot, [], form)
                seconds = time.perf_counter() - began
                lines["tokentrace"] = _samples(body)
                return lines["tokentrace"] / seconds

            return run

        def theirs() -> float:
            began = time.perf_counter()
            body = generate_latest(baseline.registry)
            seconds = time.perf_counter() - began
            lines["client"] = _samples(body)
            return lines["client"] / seconds

        text, open_metrics = ours("text"), ours("openmetrics")
        text()
        speed, client = in_turns(effort.repeats, text, theirs)
        (open_speed,) = in_turns(effort.repeats, open_metrics)
        ratio = speed.over(client)
        text()
        rows.append(
            Row(
                f"{lines['tokentrace']} series",
                speed.text(" M lines/s", 1e6),
                ratio.text(),
                "prometheus_client.generate_latest",
                ">= 8",
            )
        )
        cases[str(wanted)] = {
            "vs_prometheus_client": ratio.median,
            "lines_per_s": speed.median,
            "openmetrics_lines_per_s": open_speed.median,
            "series": lines["tokentrace"],
            "render_s": lines["tokentrace"] / speed.median,
            "prometheus_client_lines_per_s": client.median,
        }
    results = {"vs_prometheus_client": min(case["vs_prometheus_client"] for case in cases.values()), "cases": cases}
    return Figure("c exposition", rows, {"exposition": results})


def _samples(body: bytes) -> int:
    """Lines that are samples."""
    return body.count(b"\n") - body.count(b"\n#") - body.startswith(b"#")
