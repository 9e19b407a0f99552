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
class PlainCounter:
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
REJECTED: Final = PlainCounter(
    "tokentrace_spans_rejected_total", "Messages, or parts of a span, that were not counted, by reason.", ("reason",)
)
GROUPS: Final = GaugeFamily("tokentrace_groups", "Groups (model, provider, caller) that have series of their own.", ())
GROUPS_LIMIT: Final = GaugeFamily("tokentrace_groups_limit", "Most groups that get series of their own.", ())
OVERFLOWED: Final = PlainCounter(
    "tokentrace_groups_overflowed_total", "Spans counted under __overflow__ because the groups were full.", ()
)

#: Families over cells, in the order of exposition. PRICING's `source` is no group label, so it cannot be chosen away.
CELL_FAMILIES: Final[tuple[CounterFamily | HistogramFamily | GaugeFamily, ...]] = (
    COST, SPANS, TOKENS, CACHED, REASONING, LATENCY, TTFT,
    PROMPT_TOKENS, COMPLETION_TOKENS, EVAL_SCORE, QUALITY, PRICING,
)  # fmt: skip
OTHER_FAMILIES: Final = (REJECTED, GROUPS, GROUPS_LIMIT, OVERFLOWED)

#: Names that `metrics.labels` takes: the family's own, without the prefix.
LABELLED: Final = {family.name.removeprefix("tokentrace_"): family for family in CELL_FAMILIES}
