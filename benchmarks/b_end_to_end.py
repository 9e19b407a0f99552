"""(b) End to end: the real worker on a real Kafka, against a bare `consume()` loop over the same topic.

The serial bound is what a worker reaches that does one thing at a time: 1 / (1 / consume + 1 / decode and aggregate). A
second topic gives a worker 100 000 series, and is read with a scrape every second and without.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tests.services.kafka import KafkaBroker

from .broker import fill
from .effort import Effort
from .measure import Figure, Measure, Row, in_turns
from .rig import Harness
from .workers import counting_beside, probe, scraped_every_second, timed, url_of, write_config
from .workload import BATCH, DIMENSIONS, workload

GROUPS = 1_000
SERIES_PER_MODEL = 84


def run(effort: Effort, broker: KafkaBroker) -> Figure:
    with tempfile.TemporaryDirectory() as folder:
        rows, results = _against_bare(effort, broker, Path(folder))
        for groups in effort.more_groups:
            row, results[f"spans_per_s_{groups}_groups"] = _over_groups(effort, broker, Path(folder), groups)
            rows.append(row)
        scraped_row, scraped = _while_scraped(effort, broker, Path(folder))
    with_dimensions, dimensions = _with_dimensions(effort, broker)
    rows += [scraped_row, with_dimensions]
    return Figure("b end to end", rows, {"end_to_end": {**results, **scraped, **dimensions}})


def _against_bare(effort: Effort, broker: KafkaBroker, folder: Path) -> tuple[list[Row], dict[str, Any]]:
    load = workload("default", effort.distinct, GROUPS)
    count = effort.topic_spans
    fill(broker, "bench-spans", load.messages, count)
    rig = Harness(load)
    rig.count()
    stages: list[dict[str, float]] = []
    settings = {"commit_interval": effort.commit_interval, "batch_size": BATCH}

    def bare() -> float:
        return float(probe("bare_consumer", broker.bootstrap, "bench-spans", count, BATCH)["messages_per_s"])

    def worker() -> float:
        found = _probed(write_config(folder, broker, "bench-spans", load, **settings), count)
        stages.append(found["stage_seconds"])
        return float(found["spans_per_s"])

    def engine() -> float:
        return len(load.messages) / timed(rig.count)

    bare()  # The broker has warmed up, and the topic is in memory.
    consume, counting, speed = in_turns(max(effort.process_repeats, 1), bare, engine, worker)
    bound = Measure(
        tuple(1 / (1 / one + 1 / other) for one, other in zip(consume.values, counting.values, strict=True))
    )
    case = f"default, {GROUPS} groups, {count / 1e6:.1f} M spans"
    rows = [
        Row(case, speed.text(" M spans/s", 1e6), speed.over(bound).text(), "serial bound", ">= 0.8"),
        Row("", "", speed.over(consume).text(), "bare consume()", ">= 0.4"),
        Row("bare consume()", consume.text(" M messages/s", 1e6)),
        Row("serial bound", bound.text(" M spans/s", 1e6)),
    ]
    totals = {stage: sum(run[stage] for run in stages) for stage in stages[0]}
    busy = sum(totals.values())
    results = {
        "vs_bare_consume": speed.over(consume).median,
        "vs_serial_bound": speed.over(bound).median,
        "spans_per_s": speed.median,
        "bare_messages_per_s": consume.median,
        "decode_aggregate_spans_per_s": counting.median,
        "stage_shares": {stage: seconds / busy for stage, seconds in totals.items() if seconds},
    }
    return rows, results


def _over_groups(effort: Effort, broker: KafkaBroker, folder: Path, groups: int) -> tuple[Row, float]:
    """More groups make larger commits."""
    load = workload("default", effort.distinct, groups)
    topic = f"bench-groups-{groups}"
    fill(broker, topic, load.messages, effort.topic_spans)

    def worker() -> float:
        config = write_config(folder, broker, topic, load, commit_interval=effort.commit_interval, batch_size=BATCH)
        return float(_probed(config, effort.topic_spans)["spans_per_s"])

    (speed,) = in_turns(max(effort.process_repeats, 1), worker)
    return Row(f"default, {groups} groups", speed.text(" M spans/s", 1e6)), speed.median


def _while_scraped(effort: Effort, broker: KafkaBroker, folder: Path) -> tuple[Row, dict[str, Any]]:
    models = max(effort.scraped_series // SERIES_PER_MODEL, 1)
    load = workload("default", max(effort.distinct, models), models, only_models=True)
    count = effort.topic_spans
    fill(broker, "bench-series", load.messages, count)
    scrapes: list[float] = []

    def configured() -> Path:
        interval = effort.commit_interval
        return write_config(folder, broker, "bench-series", load, commit_interval=interval, batch_size=BATCH)

    def alone() -> float:
        return float(_probed(configured(), count)["spans_per_s"])

    def scraped() -> float:
        config = configured()
        with scraped_every_second(url_of(config)) as seconds:
            found = _probed(config, count)
        scrapes.extend(seconds)
        return float(found["spans_per_s"])

    without, with_ = in_turns(max(effort.process_repeats, 1), alone, scraped)
    ratio = with_.over(without)
    row = Row(
        f"scraped every second, {effort.scraped_series} series",
        with_.text(" M spans/s", 1e6),
        ratio.text(),
        "not scraped",
        ">= 0.9",
    )
    return row, {
        "scraped_vs_not": ratio.median,
        "scraped_spans_per_s": with_.median,
        "scrape_s": Measure(tuple(scrapes)).median if scrapes else None,
    }


def _with_dimensions(effort: Effort, broker: KafkaBroker) -> tuple[Row, dict[str, Any]]:
    def sections() -> dict[str, Any]:
        return {
            "dimensions": {
                name: {"source": f"attributes.{name}", "limit": values} for name, values in DIMENSIONS.items()
            }
        }

    without, with_ = counting_beside(effort, broker, "bench-dimensions", sections, "dimensions", GROUPS)
    ratio = with_.over(without)
    case = f"4 dimensions of {', '.join(map(str, DIMENSIONS.values()))} values, {GROUPS} groups"
    row = Row(case, with_.text(" M spans/s", 1e6), ratio.text(), "the same spans without dimensions", ">= 0.9")
    return row, {"with_dimensions": ratio.median, "with_dimensions_spans_per_s": with_.median}


def _probed(config: Path, count: int) -> dict[str, Any]:
    found = probe("worker", config, count)
    assert found["counted"] == count, found
    assert not found["rejected"], found
    return found
