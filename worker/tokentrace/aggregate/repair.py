"""Repair: counts that are absent or contradict each other, read so that nothing which is billed is lost.

A missing prompt or completion count is derived from the total. Prompt tokens that are fewer than the cached ones are
those beside them, as some providers count. A whole is never below the sum of its parts. What was repaired, and how, is
in columns of `spans.REPAIRS`; a count that was absent and follows from others is not a repair.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.measures import SUM_MEASURES, UNIT_OF
from tokentrace.model.spans import BELOW_PARTS, ESTIMATED, EXCLUDES_CACHE, INCLUDES_CACHE, Numbers, SpanBatch
from tokentrace.model.units import PARTS, UNITS, WHOLES

Changes = dict[str, Numbers]


def repair(spans: SpanBatch) -> tuple[SpanBatch, dict[str, int]]:
    """Return (spans with missing counts derived and contradictions resolved, PART reason -> spans).

    The arrays of `spans` are never written to.
    """
    parts: dict[str, int] = {}
    spans, derived = _split_totals(spans)
    for measure in SUM_MEASURES:
        if measure.part_of is not None:
            spans = _drop_excess(spans, measure.name, *measure.part_of, parts)
    spans = _hold_parts(_include_cache(_hold_parts(spans, "cache_write"), derived))
    score = spans.eval_score
    # Written so that NaN, which stands for an attribute that is not a number, fails.
    bad_score = score.present & ~((score.values >= 0.0) & (score.values <= 1.0))
    if bad_score.any():
        spans = spans.replace({"eval_score": _without(score, bad_score, "eval_score_invalid", parts)})
    return spans, parts


def _split_totals(spans: SpanBatch) -> tuple[SpanBatch, NDArray[np.bool_] | None]:
    """Derive a missing prompt or completion count from the total and the other; without both, all of it is prompt.

    A count of 0 beside a total that is larger is missing: many publishers write 0 for what they do not know. Return
    also where the prompt count was derived, bool[m], None for nowhere.
    """
    prompt, completion, total = spans.prompt_tokens, spans.completion_tokens, spans.total_tokens
    if not total.present.any():
        return spans, None
    rest = total.values - prompt.values - completion.values
    lacking = total.present & (rest >= 0)
    lacking &= (rest > 0) | ~(prompt.present & completion.present)
    if not lacking.any():
        return spans, None
    no_prompt, no_completion = prompt.values == 0, completion.values == 0
    lacking &= no_prompt | no_completion
    if not lacking.any():
        return spans, None
    into_prompt, into_completion = lacking & no_prompt, lacking & no_completion & ~no_prompt
    # Both are missing: the total may have any split.
    estimated = into_prompt & no_completion & (rest > 0)
    changes = {
        "prompt_tokens": Numbers(np.where(into_prompt, rest, prompt.values), prompt.present | into_prompt),
        "completion_tokens": Numbers(
            np.where(into_completion, rest, completion.values), completion.present | into_completion
        ),
    }
    if estimated.any():
        changes[ESTIMATED] = _flags(estimated)
    return spans.replace(changes), into_prompt


def _include_cache(spans: SpanBatch, derived: NDArray[np.bool_] | None) -> SpanBatch:
    """Add to the prompt count what was read from and written to a cache, where it does not include it.

    derived: bool[m], where the prompt count follows from a total, which includes it; None for nowhere.
    """
    prompt, cached = spans.prompt_tokens, spans.cached_prompt_tokens.values
    writes = spans.optional.get("cache_write_tokens")
    flag = spans.optional.get(INCLUDES_CACHE)
    beside = cached if writes is None else cached + writes.values
    more = beside > prompt.values
    excluded = more
    if flag is not None:
        excluded = np.where(flag.present, flag.values == 0, more)
    elif not more.any():
        return spans
    if derived is not None:
        excluded = excluded & ~derived
    repaired = excluded & more & prompt.present
    if flag is not None:
        repaired &= ~flag.present
    changes = {
        "prompt_tokens": Numbers(
            np.where(excluded, prompt.values + beside, prompt.values), prompt.present | (excluded & more)
        )
    }
    if repaired.any():
        changes[EXCLUDES_CACHE] = _flags(repaired)
    return spans.replace(changes)


def _hold_parts(spans: SpanBatch, only: str = "") -> SpanBatch:
    """Raise every count to the sum of its parts. only: a unit, to raise no other; empty for all."""
    used = {UNIT_OF[name].name for name in spans.optional if name in UNIT_OF}
    if only:
        used &= {only, *PARTS[only]}
    if not used:
        return spans if only else _hold_cache(spans)
    used |= {"prompt", "cache_read", "completion", "reasoning"} if not only else {only}
    used |= {whole for unit in tuple(used) for whole in WHOLES[unit] if not only}
    changes: Changes = {}
    below = np.zeros(len(spans), np.bool_)
    # What is in no part, of each unit that was seen to; parts come before their wholes.
    rest: dict[str, NDArray[np.int64]] = {}
    for unit in reversed(UNITS):
        if unit.name not in used:
            continue
        column = _column(spans, unit.column)
        beyond: NDArray[np.int64] = column.values
        for part in PARTS[unit.name]:
            if part in rest:
                beyond = beyond - rest[part]
        short = beyond < 0
        if short.any():
            below |= short & column.present
            changes[unit.column] = Numbers(
                np.where(short, column.values - beyond, column.values), column.present | short
            )
            beyond = np.where(short, 0, beyond)
        rest[unit.name] = beyond
    return _changed(spans, changes, below)


def _hold_cache(spans: SpanBatch) -> SpanBatch:
    """As `_hold_parts`, for spans without optional units."""
    changes: Changes = {}
    below = np.zeros(len(spans), np.bool_)
    for part, whole in (("cached_prompt_tokens", "prompt_tokens"), ("reasoning_tokens", "completion_tokens")):
        column, least = spans.numbers(whole), spans.numbers(part).values
        short = column.values < least
        if short.any():
            below |= short & column.present
            changes[whole] = Numbers(np.where(short, least, column.values), column.present | short)
    return _changed(spans, changes, below)


def _changed(spans: SpanBatch, changes: Changes, below: NDArray[np.bool_]) -> SpanBatch:
    if below.any():
        before = spans.optional.get(BELOW_PARTS)
        changes[BELOW_PARTS] = _flags(below if before is None else below | before.present)
    return spans.replace(changes) if changes else spans


def _column(spans: SpanBatch, name: str) -> Numbers:
    """A column of a unit, all absent where the batch has none."""
    column = spans.optional.get(name)
    if column is None and name in spans.__slots__:
        column = spans.numbers(name)
    return column or Numbers(np.zeros(len(spans), np.int64), np.zeros(len(spans), np.bool_))


def _flags(rows: NDArray[np.bool_]) -> Numbers:
    return Numbers(rows.astype(np.int64), rows)


def _drop_excess(spans: SpanBatch, part: str, whole: str, reason: str, parts: dict[str, int]) -> SpanBatch:
    """Drop a token count that exceeds the count that it is part of, where that is given."""
    column, of = spans.numbers(part), spans.numbers(whole)
    excess = column.present & of.present & (column.values > of.values)
    if not excess.any():
        return spans
    return spans.replace({part: _without(column, excess, reason, parts)})


def _without(column: Numbers, bad: NDArray[np.bool_], reason: str, parts: dict[str, int]) -> Numbers:
    parts[reason] = int(bad.sum())
    return Numbers(np.where(bad, 0, column.values), column.present & ~bad)
