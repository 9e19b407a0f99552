"""Measures: all that is counted of a span, declared once, and the integer columns that it is counted in.

A *group* is one (model, provider, caller); a *cell* is a group with a status, as in a data cube. A cell's counts are
one row of int64 columns, laid out by `Layout`. Rows add: they are a commutative monoid, so no total depends on order,
batching, replica or restart. Units are the smallest that matter: nano-USD, microseconds, millionths.

`MEASURES` is the table. Columns, aggregation, validation, the fields that decoding reads, the fields of the durable
records, metric families, `metrics.buckets` and the reference pages are derived from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Final, Literal, NamedTuple

from tokentrace.model.units import BY_NAME, UNITS, Unit

MODEL: Final = ("model", "provider")
CALLER: Final = ("model", "provider", "caller")

#: Default upper bounds (inclusive, `le`) of the histograms; the last bucket is +Inf.
DURATION_MS_BOUNDS: Final = (50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 3000.0, 5000.0, 10000.0, 30000.0)
TOKEN_BOUNDS: Final = (*(float(1 << power) for power in range(6, 16)), 65536.0, 131072.0, 262144.0, 1048576.0)
SCORE_BOUNDS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class PartOf(NamedTuple):
    """A token count is part of another and never larger: where it is, the span is counted without it.

    reason: of `model.reasons.PART`.
    """

    whole: str
    reason: str


@dataclass(frozen=True, slots=True)
class Sum:
    """One number a cell: a column, a field of the durable records, and a sample of a counter.

    name: of the column and of the records' field, which never changes. It is also the span's field, unless `computed`.
    help: HELP of the family, which is `tokentrace_<family or name>_total`. labels: of the family, by default.
    computed: not a field of the span; `aggregate` computes it. scale: the column holds the family's unit times this.
    label: (extra label, value), where several sums share a family; the first of them declares its help and labels.
    present_only: a sample is left out while it is 0. part_of: see `PartOf`. doc: of the field, where help is not its.
    unit: value of the label of `tokentrace_usage_total`, which is over all sums that have one, empty for none.
    rare: few spans have it. Its column is behind all others, in rows that need it; in the records it shares a field.
    """

    name: str
    help: str = ""
    labels: tuple[str, ...] = ()
    family: str = ""
    label: tuple[str, str] | None = None
    computed: bool = False
    scale: int = 1
    present_only: bool = False
    part_of: PartOf | None = None
    doc: str = ""
    unit: str = ""
    rare: bool = False


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram a cell: bucket counts, and the sum of what was observed.

    name: of the span's field, of the key in `metrics.buckets`, and of the family, which is `tokentrace_<name>`.
    bounds: the default upper bounds. help, labels: of the family.
    sum: the field of the sum in the durable records, which never changes; empty where it is the `Sum` of this name.
    scale: the sum holds the family's unit times this. observed: values that are observed.
    """

    name: str
    help: str
    bounds: tuple[float, ...]
    labels: tuple[str, ...] = MODEL
    sum: str = ""
    scale: int = 1
    observed: Literal["present", "positive"] = "present"


#: The extra label of the families below, and the help of that over all units.
_UNIT_FAMILY: Final = "usage"
_USAGE_HELP: Final = "Quantity of everything that providers bill, by unit; a part is also in its whole."


def _unit_sum(unit: Unit) -> Sum:
    """The sum of a unit that no other measure counts."""
    return Sum(
        unit.column, _USAGE_HELP, CALLER, _UNIT_FAMILY, ("unit", unit.name), scale=unit.scale, present_only=True,
        doc=f"Quantity of the unit {unit.name}.", unit=unit.name, rare=not unit.field,
    )  # fmt: skip


#: Units that are counted by a measure with a family of its own.
_COUNTED: Final = frozenset({"prompt", "completion", "cache_read", "reasoning"})

#: In the order of the exposition. One line is one measure.
MEASURES: Final[tuple[Sum | Distribution, ...]] = (
    Sum("cost_nano_usd", "Total cost in USD.", CALLER, family="cost", computed=True, scale=10**9,
        doc="Total cost, nano-USD."),
    Sum("spans", "Total spans recorded.", ("status", *MODEL), computed=True),
    Sum("prompt_tokens", "Total tokens, prompt and completion.", CALLER, "tokens", ("token_type", "prompt"),
        doc="Prompt tokens.", unit="prompt"),
    Sum("completion_tokens", family="tokens", label=("token_type", "completion"), doc="Completion tokens.",
        unit="completion"),
    Sum("cached_prompt_tokens", "Prompt tokens that were read from a cache; part of the prompt tokens.", CALLER,
        unit="cache_read"),
    Sum("reasoning_tokens", "Completion tokens that were spent on reasoning; part of the completion tokens.", CALLER,
        part_of=PartOf("completion_tokens", "reasoning_tokens_invalid"), unit="reasoning"),
    *(_unit_sum(unit) for unit in UNITS if unit.name not in _COUNTED),
    Distribution("latency_ms", "Latency of a call in milliseconds.", DURATION_MS_BOUNDS,
                 sum="latency_us_sum", scale=1000, observed="positive"),
    Distribution("ttft_ms", "Time to the first token in milliseconds.", DURATION_MS_BOUNDS,
                 sum="ttft_us_sum", scale=1000, observed="positive"),
    Distribution("prompt_tokens", "Prompt tokens of a call.", TOKEN_BOUNDS),
    Distribution("completion_tokens", "Completion tokens of a call.", TOKEN_BOUNDS),
    Distribution("eval_score", "Quality score of an answer, 0 to 1.", SCORE_BOUNDS,
                 sum="eval_score_millionths_sum", scale=1_000_000),
    Sum("priced_reported", "Spans by where their cost comes from: the span, a price table, or nowhere (cost 0).",
        ("source", *MODEL), "span_pricing", ("source", "reported"), computed=True, present_only=True,
        doc="Spans that carried their cost."),
    Sum("priced_computed", family="span_pricing", label=("source", "computed"), computed=True, present_only=True,
        doc="Spans whose cost was computed."),
    Sum("unpriced", family="span_pricing", label=("source", "unpriced"), computed=True, present_only=True,
        doc="Spans without a price, cost 0."),
    Sum("priced_estimated", family="span_pricing", label=("source", "estimated"), computed=True, present_only=True,
        doc="Spans whose cost was computed from total_tokens alone."),
    Sum("repaired_prompt_excludes_cache", "Spans whose counts contradicted each other, by how they were read.",
        ("reason", *MODEL), "spans_repaired", ("reason", "prompt_excludes_cache"), computed=True, present_only=True,
        doc="Spans whose prompt tokens were read as those beside the cached ones."),
    Sum("repaired_whole_below_parts", family="spans_repaired", label=("reason", "whole_below_parts"), computed=True,
        present_only=True, doc="Spans with a count below the sum of its parts, which was raised to it."),
    Sum("clamped_times", "Spans whose time cannot be true; they count, and are priced, when they were published.",
        CALLER, "spans_clamped", computed=True, present_only=True,
        doc="Spans whose time was replaced by that of their publication."),
)  # fmt: skip

SUM_MEASURES: Final = tuple(measure for measure in MEASURES if isinstance(measure, Sum))
DISTRIBUTIONS: Final = tuple(measure for measure in MEASURES if isinstance(measure, Distribution))
#: The plain sums, in column order, and those behind the histograms.
SUMS: Final = tuple(measure.name for measure in SUM_MEASURES if not measure.rare)
RARE_SUMS: Final = tuple(measure.name for measure in SUM_MEASURES if measure.rare)
#: The sums of a unit that only some spans have: a batch has a column of it only where any of its spans does.
USAGE_SUMS: Final = tuple(measure.name for measure in SUM_MEASURES if measure.family == _UNIT_FAMILY)
#: The sums that are taken of a field that every batch has a column of: token counts, all of them.
SUMMED_FIELDS: Final = tuple(
    measure.name for measure in SUM_MEASURES if not measure.computed and measure.family != _UNIT_FAMILY
)
#: Sum -> its unit, of those that have one.
UNIT_OF: Final = {measure.name: BY_NAME[measure.unit] for measure in SUM_MEASURES if measure.unit}
#: The field of the durable records that has the rare sums, an array in their order.
RARE_FIELD: Final = "usage"
DEFAULT_BOUNDS: Final = {measure.name: measure.bounds for measure in DISTRIBUTIONS}


@dataclass(frozen=True, slots=True)
class Histogram:
    """The columns of one histogram in a cell's row.

    bounds: float[b], ascending inclusive upper bounds. An observation falls by its own value, before rounding.
    first: column of the first of b + 1 bucket counts (not cumulative; the last is +Inf).
    sum: column of the sum of observations; sum / `scale` is in the family's unit.
    """

    name: str
    bounds: tuple[float, ...]
    first: int
    sum: int
    scale: int

    @property
    def buckets(self) -> slice:
        return slice(self.first, self.first + len(self.bounds) + 1)


@dataclass(frozen=True, slots=True)
class Layout:
    """Columns of a cell's row: SUMS first, then each histogram's buckets and, where it has its own, its sum.

    Behind them are RARE_SUMS, in rows of `full` columns. Rows that need none of these have `width` columns.
    The token histograms' sums are the token sums themselves, since a count is observed whenever it is summed.
    fields: field of `Counts` in the durable records -> its columns; one for a sum.
    appearing: those of its fields whose samples are left out while they are 0.
    """

    width: int
    full: int
    histograms: Mapping[str, Histogram]
    fields: Mapping[str, slice]

    @property
    def appearing(self) -> tuple[str, ...]:
        sums = (measure.name for measure in SUM_MEASURES if measure.present_only or measure.unit)
        return (*sums, *(f"{name}_buckets" for name in self.histograms))

    @staticmethod
    def column(name: str) -> int:
        """Column of one of SUMS."""
        return SUMS.index(name)

    @classmethod
    def build(cls, bounds: Mapping[str, tuple[float, ...]] | None = None) -> Layout:
        """The layout for these bucket bounds; a histogram that is not named keeps its default."""
        chosen = {**DEFAULT_BOUNDS, **(bounds or {})}
        histograms: dict[str, Histogram] = {}
        fields = {name: slice(column, column + 1) for column, name in enumerate(SUMS)}
        end = len(SUMS)
        for measure in DISTRIBUTIONS:
            first, end = end, end + len(chosen[measure.name]) + 1
            fields[f"{measure.name}_buckets"] = slice(first, end)
            if measure.sum:
                fields[measure.sum] = slice(end, end + 1)
                end += 1
            total = fields[measure.sum or measure.name].start
            histograms[measure.name] = Histogram(measure.name, chosen[measure.name], first, total, measure.scale)
        full = end + len(RARE_SUMS)
        fields |= {name: slice(end + place, end + place + 1) for place, name in enumerate(RARE_SUMS)}
        fields[RARE_FIELD] = slice(end, full)
        return cls(end, full, histograms, fields)


def record_fields() -> list[dict[str, object]]:
    """The fields of `Counts` in the durable records, as Avro has them, in the table's order."""
    sums = [_field(measure.name, measure.doc or measure.help) for measure in SUM_MEASURES if not measure.rare]
    rare: dict[str, object] = {
        "name": RARE_FIELD,
        "type": {"type": "array", "items": "long"},
        "default": [],
        "doc": f"Quantities of {', '.join(RARE_SUMS)}, in this order; seconds times 1,000. Empty: none.",
    }
    return [*sums, *chain.from_iterable(map(_distribution_fields, DISTRIBUTIONS)), rare]


def _distribution_fields(measure: Distribution) -> list[dict[str, object]]:
    buckets: dict[str, object] = {
        "name": f"{measure.name}_buckets",
        "type": {"type": "array", "items": "long"},
        "default": [],
        "doc": f"Observations of {measure.name} in each bucket, not cumulative; the last is +Inf. Empty: none.",
    }
    if not measure.sum:
        return [buckets]
    return [buckets, _field(measure.sum, f"Sum of {measure.name}, times {measure.scale:,}.")]


def _field(name: str, doc: str) -> dict[str, object]:
    return {"name": name, "type": "long", "default": 0, "doc": doc}
