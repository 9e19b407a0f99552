"""The worker's own metrics, `tokentrace_worker_*`, from the table `WORKER_METRICS`.

They are few series, so the client library holds and formats them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from prometheus_client import Histogram, ProcessCollector
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from tokentrace.model.worker_stats import WORKER_METRICS, Moment, WorkerMetric

PREFIX: Final = "tokentrace_worker_"

_process = ProcessCollector(namespace="tokentrace_worker", registry=None)


def collect_worker_metrics(moment: Moment) -> Iterator[Metric]:
    """Yield every worker family at this moment, those of the process last."""
    for declared in WORKER_METRICS:
        yield _family(declared, declared.get(moment))
    yield from _process.collect()


def declared_families() -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    """Yield name as exposed, type, labels and help of every worker family."""
    suffixes = {"counter": "_total", "info": "_info"}
    for declared in WORKER_METRICS:
        kind = "gauge" if declared.kind == "info" else declared.kind
        yield PREFIX + declared.name + suffixes.get(declared.kind, ""), kind, declared.labels, declared.help
    for metric in _process.collect():
        yield metric.name + suffixes.get(metric.type, ""), metric.type, (), metric.documentation


def _family(declared: WorkerMetric, value: Any) -> Metric:
    name = PREFIX + declared.name
    if declared.kind == "info":
        return InfoMetricFamily(name, declared.help, value)
    if declared.kind == "histogram":
        return _histogram(name, declared.help, value)
    make = CounterMetricFamily if declared.kind == "counter" else GaugeMetricFamily
    family: CounterMetricFamily | GaugeMetricFamily = make(name, declared.help, labels=declared.labels)
    if not declared.labels:
        family.add_metric([], float(value))
    else:
        for key, number in value.items():
            family.add_metric([str(part) for part in key] if isinstance(key, tuple) else [str(key)], number)
    return family


def _histogram(name: str, help_: str, histogram: Histogram) -> Metric:
    """Return the buckets and the sum, without the creation time that the library adds as a sample."""
    (metric,) = histogram.collect()
    buckets = [(sample.labels["le"], sample.value) for sample in metric.samples if sample.name.endswith("_bucket")]
    (sum_value,) = (sample.value for sample in metric.samples if sample.name.endswith("_sum"))
    return HistogramMetricFamily(name, help_, buckets=buckets, sum_value=sum_value)
