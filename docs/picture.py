"""Draw docs/dashboard.png: the dashboard's panels, by its own queries, from a real run.

    python -m docs.picture

A real Kafka and a real Prometheus (as for `make test`), three workers with alert rules, and six minutes of traffic in
which one model becomes slow and bad, one worker is killed, and some messages are no spans. All that is drawn came
out of Prometheus by the expressions in dashboards/grafana.json.
"""

from __future__ import annotations

import io
import json
import math
import random
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Producer
from matplotlib.figure import Figure
from PIL import Image
from tests.deploy.expressions import filled, panels
from tests.services import ROOT
from tests.services.kafka import KafkaBroker
from tests.services.prometheus import Prometheus
from tests.services.workers import WorkerProcess, wait_for, write_config

from tokentrace.model.span_encoder import span_message
from tokentrace.tools.traffic import Traffic, rate_at

SECONDS, RATE, STEP_S = 360, 60, 5
SLOW = range(150, 240)
KILLED, BACK = 270, 285
OF_ONE_MODEL = {"window": "1m", "min_spans": 20, "filter": {"model": "gpt-4o"}}
RULES = [
    {"name": "slow", "metric": "latency_p50", "op": "gt", "threshold": 5_000, **OF_ONE_MODEL},
    {"name": "failing", "metric": "error_rate", "op": "gt", "threshold": 0.1, **OF_ONE_MODEL},
    {"name": "bad answers", "metric": "quality_score", "op": "lt", "threshold": 0.75, **OF_ONE_MODEL},
    {"name": "spend", "metric": "total_cost", "op": "gt", "threshold": 50, "window": "5m"},
]
#: Panels of the picture: those that the run moves, at a size at which they can be read.
SHOWN = (
    "Cost over time",
    "Model usage breakdown",
    "Quality score over time",
    "Bill by caller",
    "Alert history",
    "Error rate",
    "Latency heatmap",
    "Latency p50, p95, p99",
    "Cost per span",
    "Token consumption",
    "Throughput",
    "Rejects by reason",
)
UNITS = {"currencyUSD": "USD", "percentunit": "part", "reqps": "a second", "ms": "ms", "s": "s", "short": ""}


def run(folder: Path) -> tuple[Prometheus, float, list[Any]]:
    """(Prometheus, when it began, what has to be stopped)."""
    kafka = KafkaBroker(folder / "kafka")
    kafka.start()
    topic = kafka.create_topic("llm-spans", 6)
    shared = {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": "tokentrace"},
        "alerts": RULES,
    }
    workers = {}
    for name in ("tokentrace-0", "tokentrace-1", "tokentrace-2"):
        config = write_config(folder / f"{name}.yml", {**shared, "worker": {"replica_id": name}}, name)
        workers[name] = WorkerProcess(config, folder / f"{name}.log")
    for worker in workers.values():
        worker.wait_until_ready()
    prometheus = Prometheus(folder / "prometheus", {name: worker.target for name, worker in workers.items()})
    prometheus.start()
    assert wait_for(lambda: len(prometheus.query("tokentrace_worker_lag_records")) == 6)
    produce(kafka, topic, workers["tokentrace-1"])
    time.sleep(3)
    return prometheus, time.time() - SECONDS - 3, [*workers.values(), prometheus, kafka]


def produce(kafka: KafkaBroker, topic: str, victim: WorkerProcess) -> None:
    """Traffic, a minute and a half in which one model is slow and bad, and a crash."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 5, "sticky.partitioning.linger.ms": 0})
    traffic, rng, began_s = Traffic(6), random.Random(6), time.monotonic()
    for second in range(SECONDS):
        for _ in range(int(rate_at(RATE, 0.25 + second / SECONDS))):
            span = traffic.span()
            if second in SLOW and span["model"] == "gpt-4o":
                span["latency_ms"] *= 4
                if "eval.score" in span["attributes"]:
                    span["attributes"]["eval.score"] *= 0.6
                if rng.random() < 0.15:
                    span["status"] = "error"
            if rng.random() < 0.04:
                span |= {"model": "house-llm", "provider": "vllm", "cost_usd": None}
            producer.produce(topic, span_message(span))
        if second % 20 == 0:
            producer.produce(topic, b"no span")
        producer.poll(0)
        if second == KILLED:
            victim.kill()
        if second == BACK:
            victim.restart()
        time.sleep(max(0.0, began_s + second + 1 - time.monotonic()))
    producer.flush()


def draw(prometheus: Prometheus, from_s: float) -> None:
    """Draw the panels of SHOWN."""
    board = json.loads((ROOT / "dashboards" / "grafana.json").read_text())
    found = {panel["title"]: panel for panel in panels(board)}
    shown = [found[title] for title in SHOWN]
    columns = 3
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(15, 2.9 * rows), layout="constrained")
    axes = figure.subplots(rows, columns)
    for axis, panel in zip(axes.flat, shown, strict=False):
        axis.set_title(panel["title"], loc="left", fontsize=11, fontweight="bold")
        draw_panel(axis, panel, prometheus, from_s)
    for axis in axes.flat[len(shown) :]:
        axis.set_axis_off()
    figure.suptitle(
        "The dashboard's queries over six minutes: three replicas; gpt-4o is slow and bad from 150 s to 240 s, "
        f"one replica is killed at {KILLED} s and back at {BACK} s",
        fontsize=12,
    )
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=90)
    image = Image.open(drawn).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    image.save(ROOT / "docs" / "dashboard.png", optimize=True)


def draw_panel(axis: Any, panel: dict[str, Any], prometheus: Prometheus, from_s: float) -> None:
    unit, kind = UNITS[panel["fieldConfig"]["defaults"]["unit"]], panel["type"]
    axis.tick_params(labelsize=8)
    axis.set_ylabel(unit, fontsize=8)
    variables = {"__rate_interval": "20s", "__interval": "15s", "__range": f"{SECONDS}s"}
    queries = [(filled(target["expr"], **variables), target.get("legendFormat", "")) for target in panel["targets"]]
    if kind in ("bargauge", "stat"):
        found = [(named(legend, labels), value) for text, legend in queries for labels, value in prometheus.query(text)]
        steps = panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [{"value": None, "color": "green"}])
        colors = [[step["color"] for step in steps if value >= (step["value"] or 0)][-1] for _, value in found]
        names, values = [name for name, _ in found], [value for _, value in found]
        axis.barh(
            names[::-1], values[::-1], color=[f"tab:{color}".replace("tab:yellow", "gold") for color in colors[::-1]]
        )
        for row, (_, value) in enumerate(reversed(found)):
            axis.text(value, row, f" {value:.3g}", va="center", fontsize=8)
        return
    if kind == "table":
        draw_table(axis, [prometheus.query_range(text, from_s, from_s + SECONDS, STEP_S) for text, _ in queries])
        return
    step_s = 15 if kind == "heatmap" or panel["title"] == "Model usage breakdown" else STEP_S
    series = [
        (named(legend, labels), np.array(samples))
        for text, legend in queries
        for labels, samples in prometheus.query_range(text, from_s + step_s, from_s + SECONDS, step_s)
    ]
    if not series:
        axis.text(0.5, 0.5, panel["fieldConfig"]["defaults"].get("noValue", "no data"), ha="center", va="center")
        axis.set_axis_off()
        return
    if kind == "heatmap":
        draw_heatmap(axis, {float(name): values for name, values in series}, from_s)
        return
    if panel["title"] == "Model usage breakdown":
        bottom: dict[float, float] = {}
        for name, values in series:
            at, heights = values[:, 0], values[:, 1]
            axis.bar(at - from_s, heights, width=12, bottom=[bottom.get(t, 0.0) for t in at], label=name)
            for t, height in zip(at, heights, strict=True):
                bottom[t] = bottom.get(t, 0.0) + height
    else:
        for name, values in series:
            axis.plot(values[:, 0] - from_s, values[:, 1], linewidth=2.4 if name == "fleet" else 1.1, label=name)
        if "score" in panel["title"]:
            axis.axhline(0.75, color="tab:red", linestyle="--", linewidth=1)
        else:
            axis.set_ylim(bottom=0)
    axis.set_xlim(0, SECONDS)
    if len(series) > 3 and "score" not in panel["title"]:
        # The names are above the lines.
        axis.set_ylim(top=axis.get_ylim()[1] * (1.3 if len(series) <= 8 else 1.6))
    size, columns = (6.5, 3) if len(series) <= 8 else (5, 3)
    axis.legend(fontsize=size, ncols=columns, loc="best", framealpha=0.6, columnspacing=0.9, handlelength=1.2)


def draw_heatmap(axis: Any, rows: dict[float, Any], from_s: float) -> None:
    """Rows are cumulative buckets; a cell is what lies between a bucket and the one below."""
    bounds = sorted(rows)
    times = rows[bounds[0]][:, 0] - from_s
    cumulative = np.array([rows[bound][:, 1] for bound in bounds])
    cells = np.diff(cumulative, axis=0, prepend=0)
    axis.pcolormesh(
        times, np.arange(len(bounds)), np.where(cells > 0, cells, np.nan), cmap="Oranges", shading="nearest"
    )
    axis.set_yticks(np.arange(len(bounds)), [f"{bound:g}" for bound in bounds], fontsize=7)


def draw_table(axis: Any, answers: Sequence[Any]) -> None:
    """A row for each rule and time fired, with the first value seen, as the panel's transformations make it."""
    fired, values = (
        {(labels["rule"], at): value for labels, samples in answer for at, value in samples} for answer in answers
    )
    rows: dict[tuple[float, str], float] = {}
    for (rule, at), fired_ms in sorted(fired.items()):
        rows.setdefault((fired_ms, rule), values.get((rule, at), math.nan))
    text = [
        [f"{datetime.fromtimestamp(fired_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}", rule, f"{value:.4g}"]
        for (fired_ms, rule), value in sorted(rows.items(), reverse=True)
    ]
    axis.set_axis_off()
    table = axis.table(
        text,
        colLabels=["time fired", "rule", "value at firing"],
        loc="upper center",
        cellLoc="left",
        edges="horizontal",
    )
    table.set_fontsize(9)


def named(legend: str, labels: dict[str, str]) -> str:
    """Grafana's legend of a series."""
    for name in ("model", "provider", "caller", "instance", "partition", "reason", "token_type", "le"):
        legend = legend.replace(f"{{{{{name}}}}}", labels.get(name, ""))
    return legend


def main() -> None:
    """Run, draw, and leave nothing running."""
    running: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            prometheus, from_s, running = run(Path(folder))
            draw(prometheus, from_s)
        finally:
            for worker in running:
                (worker.kill if isinstance(worker, WorkerProcess) else worker.stop)()


if __name__ == "__main__":
    main()
