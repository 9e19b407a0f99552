"""Text: the lines of an exposition, in Prometheus text 0.0.4 or OpenMetrics 1.0."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

Format = Literal["text", "openmetrics"]


def head(name: str, type_: str, help_: str, form: Format) -> str:
    if form == "openmetrics" and type_ == "counter":
        name = name.removesuffix("_total")
    return f"# HELP {name} {help_}\n# TYPE {name} {type_}\n"


def created(name: str, labels: str, created_s: float) -> str:
    return f"{name}_created{{{labels}}} {created_s!r}\n" if labels else f"{name}_created {created_s!r}\n"


def number_template(decimals: int) -> str:
    """Return the template of a number: whole units, and the decimals after the point."""
    return f"%d.%0{decimals}d" if decimals else "%d"


def split_decimals(units: NDArray[np.int64] | NDArray[np.object_], decimals: int) -> list[list[int]]:
    """Return the columns that fill the template of `number_template`."""
    if not decimals:
        return [units.tolist()]
    # Not by divmod, which takes no array of Python's integers.
    whole = units // 10**decimals
    return [whole.tolist(), (units - whole * 10**decimals).tolist()]


def with_extra_label(labels: str, name: str, value: str) -> str:
    if not name:
        return labels
    return f'{labels},{name}="{value}"' if labels else f'{name}="{value}"'


def sample(name: str, labels: str, value: str) -> str:
    return f"{name}{{{labels}}} {value}\n" if labels else f"{name} {value}\n"


class _CollectedMetrics(Collector):
    """A collector of metrics that were collected before."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def library_text(metrics: Iterable[Metric], form: Format, with_created: bool = False) -> bytes:
    """Return metrics as the client library writes them. In OpenMetrics, its `# EOF` ends the exposition."""
    registry = CollectorRegistry(auto_describe=False)
    collected = list(metrics)
    if not with_created:
        for metric in collected:
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
    registry.register(_CollectedMetrics(collected))
    return generate_openmetrics(registry) if form == "openmetrics" else generate_latest(registry)
