"""Metrics of the built-in alerts, from the evaluator's view. Only the evaluating replica exposes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from tokentrace.model import families
from tokentrace.model.families import GaugeFamily, UnlabelledCounter

if TYPE_CHECKING:
    from tokentrace.alerts.snapshot import EvaluatorSnapshot


def collect_alert_metrics(view: EvaluatorSnapshot | None) -> Iterator[Metric]:
    """Yield every family of the alerts; none without a view."""
    if view is None:
        return
    states = view.states
    yield _by_rule(families.ALERT_FIRINGS, {name: state.firings for name, state in states.items()})
    yield _by_rule(families.ALERT_DELIVERY_FAILED, view.delivery_failed)
    yield _by_rule(families.ALERT_FIRING, {name: state.firing for name, state in states.items()})
    yield _by_rule(
        families.ALERT_LAST_VALUE, {name: state.value for name, state in states.items() if state.value is not None}
    )
    yield _by_rule(families.ALERT_LAST_FIRED, {name: state.fired_at_s for name, state in states.items()})
    for family, value in (
        (families.ALERT_LATE, view.late),
        (families.ALERT_CLAMPED, view.clamped),
        (families.ALERT_UNREADABLE, view.unreadable),
        (families.ALERT_TIME, view.time_s),
        (families.ALERT_PENDING, view.pending),
        (families.ALERT_SECONDS, view.evaluation_seconds),
        (families.ALERT_BYTES, view.bytes),
    ):
        metric = _metric(family)
        metric.add_metric([], value)
        yield metric


def _by_rule(family: UnlabelledCounter | GaugeFamily, values: Mapping[str, float]) -> Metric:
    metric = _metric(family)
    for name, value in values.items():
        metric.add_metric([name], value)
    return metric


def _metric(family: UnlabelledCounter | GaugeFamily) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if family.type == "counter" else GaugeMetricFamily
    return kind(family.name, family.help, labels=family.labels)
