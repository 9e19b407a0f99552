"""The metric families that are computed from spans: name, type, labels, help and columns of each.

The families over cells come from the table of measures; the others are declared here. The names, types and labels are
a contract: dashboards and alerts are written against them. Exposition, the configuration's check of label overrides,
and `docs/metrics.md` are derived from these tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from tokentrace.model.measures import MEASURES, MODEL, SUM_MEASURES, Distribution, Sum
from tokentrace.model.units import UNITS

#: Label of the series of a family whose labels were changed; its value is the number of the change.
REVISION_LABEL: Final = "labels_revision"

#: Every label that a family may be given by `metrics.labels.<family>`, in the order in which they are written; the
#: dimensions follow.
GROUP_LABELS: Final = ("status", "model", "provider", "caller")


@dataclass(frozen=True, slots=True)
class CounterFamily:
    """A counter over cells. columns: (value of the extra label, or "", column of measures.SUMS).

    decimals: the column holds the family's unit times 10 ** decimals; decimals_of: column -> its own, where another.
    present_only: a sample is left out while it is 0.
    """

    name: str
    help: str
    labels: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    extra_label: str = ""
    decimals: int = 0
    present_only: bool = False
    decimals_of: Mapping[str, int] = field(default_factory=dict)
    type: Literal["counter"] = "counter"


@dataclass(frozen=True, slots=True)
class HistogramFamily:
    """A histogram over cells. measure: name in Layout.histograms. decimals: of its sum, as above."""

    name: str
    help: str
    labels: tuple[str, ...]
    measure: str
    decimals: int = 0
    type: Literal["histogram"] = "histogram"


@dataclass(frozen=True, slots=True)
class GaugeFamily:
    """A gauge; where it is over cells, its labels can be chosen."""

    name: str
    help: str
    labels: tuple[str, ...]
    type: Literal["gauge"] = "gauge"


@dataclass(frozen=True, slots=True)
class UnlabelledCounter:
    """A counter that is not over cells."""

    name: str
    help: str
    labels: tuple[str, ...]
    type: Literal["counter"] = "counter"


def _counter(first: Sum, sums: Sequence[Sum]) -> CounterFamily:
    return CounterFamily(
        f"tokentrace_{first.family or first.name}_total",
        first.help,
        first.labels,
        tuple((sum_.label[1] if sum_.label else "", sum_.name) for sum_ in sums),
        extra_label=first.label[0] if first.label else "",
        decimals=_decimals(first.scale),
        present_only=first.present_only,
    )


def _usage(first: Sum) -> CounterFamily:
    """The family over all units, also those that have families of their own."""
    sums = {sum_.unit: sum_ for sum_ in SUM_MEASURES if sum_.unit}
    ordered = [sums[unit.name] for unit in UNITS]
    return replace(
        _counter(first, ordered),
        columns=tuple((sum_.unit, sum_.name) for sum_ in ordered),
        decimals=0,
        decimals_of={sum_.name: _decimals(sum_.scale) for sum_ in ordered if sum_.scale > 1},
    )


def _histogram(measure: Distribution) -> HistogramFamily:
    return HistogramFamily(
        f"tokentrace_{measure.name}", measure.help, measure.labels, measure.name, _decimals(measure.scale)
    )


def _decimals(scale: int) -> int:
    """scale: a power of ten."""
    return len(str(scale)) - 1


def _measured() -> Iterator[CounterFamily | HistogramFamily | GaugeFamily]:
    """Return the families of `measures.MEASURES`, in its order; a gauge of the scores follows their histogram."""
    for measure in MEASURES:
        if isinstance(measure, Distribution):
            yield _histogram(measure)
            if measure.name == "eval_score":
                yield QUALITY
            continue
        sums = [other for other in SUM_MEASURES if other.family == measure.family] if measure.family else [measure]
        if sums[0] is not measure:
            continue
        yield _usage(measure) if measure.unit and measure.family == "usage" else _counter(measure, sums)


QUALITY: Final = GaugeFamily(
    "tokentrace_quality_score", "Mean quality score over the last metrics.quality_window of this replica.", MODEL
)
REJECTED: Final = UnlabelledCounter(
    "tokentrace_spans_rejected_total", "Messages, or parts of a span, that were not counted, by reason.", ("reason",)
)
#: Kind of a gap -> its family.
GAP_FAMILIES: Final = {
    "lost": UnlabelledCounter(
        "tokentrace_worker_lost_records_total", "Records that retention removed before they were read.", ("partition",)
    ),
    "truncated": UnlabelledCounter(
        "tokentrace_worker_truncated_records_total",
        "Records that were counted and that the partition's log has lost since.",
        ("partition",),
    ),
    "skipped": UnlabelledCounter(
        "tokentrace_worker_skipped_records_total",
        "Records not counted, since the group's offset was set ahead of what is counted.",
        ("partition",),
    ),
}
GROUPS: Final = GaugeFamily("tokentrace_groups", "Groups (model, provider, caller) that have series of their own.", ())
GROUPS_LIMIT: Final = GaugeFamily("tokentrace_groups_limit", "Most groups that get series of their own.", ())
OVERFLOWED: Final = UnlabelledCounter(
    "tokentrace_groups_overflowed_total", "Spans counted under __overflow__ because the groups were full.", ()
)
DIMENSION_GROUPS: Final = GaugeFamily(
    "tokentrace_dimension_groups", "Groups that differ in a dimension and have series of their own.", ()
)
DIMENSION_GROUPS_LIMIT: Final = GaugeFamily(
    "tokentrace_dimension_groups_limit", "Most groups by dimensions that get series of their own.", ()
)
DIMENSION_VALUES: Final = GaugeFamily(
    "tokentrace_dimension_values", "Values of a dimension that have series of their own.", ("dimension",)
)
DIMENSION_VALUES_LIMIT: Final = GaugeFamily(
    "tokentrace_dimension_values_limit", "Most values of a dimension that get series of their own.", ("dimension",)
)
DIMENSION_OVERFLOWED: Final = UnlabelledCounter(
    "tokentrace_dimension_overflowed_total",
    "Spans counted under __overflow__ in a dimension because its values or the groups were full.",
    ("dimension",),
)
#: Families that only a worker with dimensions serves.
DIMENSION_FAMILIES: Final = (
    DIMENSION_GROUPS, DIMENSION_GROUPS_LIMIT, DIMENSION_VALUES, DIMENSION_VALUES_LIMIT, DIMENSION_OVERFLOWED,
)  # fmt: skip

ALERT_FIRINGS: Final = UnlabelledCounter(
    "tokentrace_alert_firings_total", "Firings of a built-in alert rule, over the whole fleet.", ("rule",)
)
ALERT_DELIVERY_FAILED: Final = UnlabelledCounter(
    "tokentrace_alert_delivery_failed_total", "Rounds of tries that did not deliver an alert.", ("rule",)
)
ALERT_LATE: Final = UnlabelledCounter(
    "tokentrace_alert_late_spans_total", "Spans that were counted after their minute had been evaluated.", ()
)
ALERT_CLAMPED: Final = UnlabelledCounter(
    "tokentrace_alert_clamped_spans_total",
    "Spans without a time that can be true; they count in the minute in which they were published.",
    (),
)
ALERT_UNREADABLE: Final = UnlabelledCounter(
    "tokentrace_alert_unreadable_records_total",
    "Records of the rollups and alerts topics that this evaluator could not read, and left out.",
    (),
)
ALERT_FIRING: Final = GaugeFamily(
    "tokentrace_alert_firing", "Instances of the rule that are firing; 0 or 1 without group_by.", ("rule",)
)
ALERT_LAST_VALUE: Final = GaugeFamily(
    "tokentrace_alert_last_value",
    "The rule's metric when it was last evaluated; with group_by, of the instance nearest to firing.",
    ("rule",),
)
ALERT_LAST_FIRED: Final = GaugeFamily(
    "tokentrace_alert_last_fired_timestamp_seconds", "Event time of the last firing, 0 before the first.", ("rule",)
)
ALERT_TIME: Final = GaugeFamily(
    "tokentrace_alert_evaluated_timestamp_seconds", "Event time up to which the rules are evaluated.", ()
)
ALERT_PENDING: Final = GaugeFamily(
    "tokentrace_alert_deliveries_pending", "Alerts that are neither delivered nor given up.", ()
)
ALERT_SECONDS: Final = GaugeFamily("tokentrace_alert_evaluation_seconds", "How long the last evaluation took.", ())
ALERT_BYTES: Final = GaugeFamily("tokentrace_alert_window_bytes", "Memory of the windows' sums.", ())

#: Families of the built-in alerts: one replica at a time serves them, the evaluator.
ALERT_FAMILIES: Final = (
    ALERT_FIRINGS, ALERT_DELIVERY_FAILED, ALERT_FIRING, ALERT_LAST_VALUE, ALERT_LAST_FIRED, ALERT_LATE, ALERT_CLAMPED,
    ALERT_UNREADABLE, ALERT_TIME, ALERT_PENDING, ALERT_SECONDS, ALERT_BYTES,
)  # fmt: skip

BUDGET_SPENT: Final = GaugeFamily("tokentrace_budget_spent_usd", "Cost in the current period of a budget.", ("budget",))
BUDGET_LIMIT: Final = GaugeFamily("tokentrace_budget_limit_usd", "Amount of the budget in a period.", ("budget",))
BUDGET_REMAINING: Final = GaugeFamily(
    "tokentrace_budget_remaining_usd",
    "Amount that is left in the current period; below 0 once it is exceeded.",
    ("budget",),
)
BUDGET_FORECAST: Final = GaugeFamily(
    "tokentrace_budget_forecast_usd",
    "Cost at the period's end, if spending goes on as it has in the period.",
    ("budget",),
)
BUDGET_GROUPS: Final = GaugeFamily("tokentrace_budget_groups", "Groups in the current period of a budget.", ("budget",))
BUDGET_FIRINGS: Final = UnlabelledCounter(
    "tokentrace_budget_thresholds_reached_total",
    "Thresholds of a budget that were reached, each once in a period.",
    ("budget",),
)
BUDGET_DELIVERY_FAILED: Final = UnlabelledCounter(
    "tokentrace_budget_delivery_failed_total", "Rounds of tries that did not deliver an alert of a budget.", ("budget",)
)
BUDGET_EXPIRED: Final = UnlabelledCounter(
    "tokentrace_budget_expired_spans_total",
    "Spans that were counted so late that the budget does not keep their period any more.",
    ("budget",),
)
BUDGET_OVERFLOWED: Final = UnlabelledCounter(
    "tokentrace_budget_overflowed_spans_total",
    "Spans counted under __overflow__ because the budget's groups were full.",
    ("budget",),
)
#: Families of an amount by group, which have the labels of the budget's `group_by` too.
BUDGET_GROUP_FAMILIES: Final = (BUDGET_SPENT, BUDGET_LIMIT, BUDGET_REMAINING, BUDGET_FORECAST)
#: Families of the budgets: one replica at a time serves them, the evaluator.
BUDGET_FAMILIES: Final = (
    *BUDGET_GROUP_FAMILIES, BUDGET_GROUPS, BUDGET_FIRINGS, BUDGET_DELIVERY_FAILED, BUDGET_EXPIRED, BUDGET_OVERFLOWED,
)  # fmt: skip

LEDGER_LAG: Final = GaugeFamily(
    "tokentrace_ledger_lag_records", "Rollups, and markers of their transactions, that are not in the ledger yet.", ()
)
LEDGER_COMMITTED: Final = GaugeFamily(
    "tokentrace_ledger_committed_timestamp_seconds",
    "Time of the last commit of a worker that is in the ledger, 0 before the first.",
    (),
)
LEDGER_GAPS: Final = GaugeFamily("tokentrace_ledger_gaps", "Gaps that the ledger records: rollups that it lacks.", ())
LEDGER_READY: Final = GaugeFamily(
    "tokentrace_ledger_ready", "1 while the ledger is read into its database, 0 while that does not answer.", ()
)
LEDGER_FAILURES: Final = UnlabelledCounter(
    "tokentrace_ledger_failures_total",
    "Times that the ledger stopped here because of an error, or its database did not answer.",
    (),
)
#: Families of a ledger, in the workers or in a process of its own.
LEDGER_FAMILIES: Final = (LEDGER_LAG, LEDGER_COMMITTED, LEDGER_GAPS, LEDGER_READY, LEDGER_FAILURES)


def revision_label(revision: int) -> str:
    """Return the label of the series of a revision as text, empty for the first."""
    return f'{REVISION_LABEL}="{revision}"' if revision else ""


#: Families over cells, in the order of exposition. A counter's extra label is not a group label: it cannot be left out.
CELL_FAMILIES: Final = tuple(_measured())
GLOBAL_FAMILIES: Final[tuple[UnlabelledCounter | GaugeFamily, ...]] = (
    REJECTED,
    *GAP_FAMILIES.values(),
    GROUPS,
    GROUPS_LIMIT,
    OVERFLOWED,
    *DIMENSION_FAMILIES,
)

#: Names that `metrics.labels` takes: the family's own, without the prefix.
FAMILIES_BY_NAME: Final = {family.name.removeprefix("tokentrace_"): family for family in CELL_FAMILIES}
