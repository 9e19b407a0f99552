"""The metric families that are computed from spans: each declared once, with all that anyone needs to know of it.

The names, types and labels are a contract: dashboards and alerts are written against them. Exposition, the
configuration's check of label overrides, and `docs/metrics.md` are derived from this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

MODEL: Final = ("model", "provider")
CALLER: Final = ("model", "provider", "caller")
#: Every label that a family may be given by `metrics.labels.<family>`, in the order in which they are written.
GROUP_LABELS: Final = ("status", "model", "provider", "caller")


@dataclass(frozen=True, slots=True)
class CounterFamily:
    """A counter over cells. columns: (value of the extra label, or "", column of measures.SUMS).

    decimals: the column holds the family's unit times 10 ** decimals.
    present_only: a sample is left out while it is 0.
    """

    name: str
    help: str
    labels: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    extra_label: str = ""
    decimals: int = 0
    present_only: bool = False
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


COST: Final = CounterFamily("tokentrace_cost_total", "Total cost in USD.", CALLER, (("", "cost_nano_usd"),), decimals=9)
SPANS: Final = CounterFamily(
    "tokentrace_spans_total", "Total spans recorded.", ("status", "model", "provider"), (("", "spans"),)
)
TOKENS: Final = CounterFamily(
    "tokentrace_tokens_total",
    "Total tokens, prompt and completion.",
    CALLER,
    (("prompt", "prompt_tokens"), ("completion", "completion_tokens")),
    extra_label="token_type",
)
CACHED: Final = CounterFamily(
    "tokentrace_cached_prompt_tokens_total",
    "Prompt tokens that were read from a cache; part of the prompt tokens.",
    CALLER,
    (("", "cached_prompt_tokens"),),
)
REASONING: Final = CounterFamily(
    "tokentrace_reasoning_tokens_total",
    "Completion tokens that were spent on reasoning; part of the completion tokens.",
    CALLER,
    (("", "reasoning_tokens"),),
)
LATENCY: Final = HistogramFamily(
    "tokentrace_latency_ms", "Latency of a call in milliseconds.", MODEL, "latency_ms", decimals=3
)
TTFT: Final = HistogramFamily(
    "tokentrace_ttft_ms", "Time to the first token in milliseconds.", MODEL, "ttft_ms", decimals=3
)
PROMPT_TOKENS: Final = HistogramFamily("tokentrace_prompt_tokens", "Prompt tokens of a call.", MODEL, "prompt_tokens")
COMPLETION_TOKENS: Final = HistogramFamily(
    "tokentrace_completion_tokens", "Completion tokens of a call.", MODEL, "completion_tokens"
)
EVAL_SCORE: Final = HistogramFamily(
    "tokentrace_eval_score", "Quality score of an answer, 0 to 1.", MODEL, "eval_score", decimals=6
)
QUALITY: Final = GaugeFamily(
    "tokentrace_quality_score", "Mean quality score over the last metrics.quality_window of this replica.", MODEL
)
PRICING: Final = CounterFamily(
    "tokentrace_span_pricing_total",
    "Spans by where their cost comes from: the span, a price table, or nowhere (cost 0).",
    ("source", *MODEL),
    (("reported", "priced_reported"), ("computed", "priced_computed"), ("unpriced", "unpriced")),
    extra_label="source",
    present_only=True,
)
REJECTED: Final = UnlabelledCounter(
    "tokentrace_spans_rejected_total", "Messages, or parts of a span, that were not counted, by reason.", ("reason",)
)
GROUPS: Final = GaugeFamily("tokentrace_groups", "Groups (model, provider, caller) that have series of their own.", ())
GROUPS_LIMIT: Final = GaugeFamily("tokentrace_groups_limit", "Most groups that get series of their own.", ())
OVERFLOWED: Final = UnlabelledCounter(
    "tokentrace_groups_overflowed_total", "Spans counted under __overflow__ because the groups were full.", ()
)

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
    ALERT_TIME, ALERT_PENDING, ALERT_SECONDS, ALERT_BYTES,
)  # fmt: skip

#: Families over cells, in the order of exposition. PRICING's `source` is no group label, so it cannot be chosen away.
CELL_FAMILIES: Final[tuple[CounterFamily | HistogramFamily | GaugeFamily, ...]] = (
    COST, SPANS, TOKENS, CACHED, REASONING, LATENCY, TTFT,
    PROMPT_TOKENS, COMPLETION_TOKENS, EVAL_SCORE, QUALITY, PRICING,
)  # fmt: skip
GLOBAL_FAMILIES: Final = (REJECTED, GROUPS, GROUPS_LIMIT, OVERFLOWED)

#: Names that `metrics.labels` takes: the family's own, without the prefix.
FAMILIES_BY_NAME: Final = {family.name.removeprefix("tokentrace_"): family for family in CELL_FAMILIES}
