"""The cost limit of spans whose cost is computed: found before deduplication, so that a dead letter can be replayed.

A span can only exceed the limit with more tokens than any price list charges so little for. Nearly every batch has
none, and is told apart by its largest counts; the others price the spans in question twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tokentrace.aggregate.repair import repair
from tokentrace.model import reasons
from tokentrace.model.measures import UNIT_OF
from tokentrace.model.messages import Reject
from tokentrace.model.reasons import MAX_TOKENS
from tokentrace.model.snapshot import OVERFLOW_GROUP, Group
from tokentrace.model.spans import SpanBatch
from tokentrace.pricing import MAX_CALL_USD, MAX_RATE_PER_1M, Pricer

_REASON = "cost_out_of_range"
_TOKENS = ("prompt_tokens", "completion_tokens", "total_tokens", "cached_prompt_tokens")


class ComputedCostLimit:
    """Rejects spans whose computed cost exceeds `max_cost_usd`."""

    def __init__(self, max_cost_usd: float, pricer: Pricer) -> None:
        self._max_nano_usd = round(max_cost_usd * 1e9)
        self._pricer = pricer
        #: Tokens that cost no more than the limit at any rate.
        factor = pricer.largest_factor
        self._cheap_tokens = int((max_cost_usd - MAX_CALL_USD * factor) * 1e6 / (MAX_RATE_PER_1M * factor))

    def reject(self, spans: SpanBatch, groups: Sequence[Group]) -> tuple[SpanBatch, list[Reject]]:
        """Return (the spans within the limit, the others). spans: valid, not repaired. groups: all that are known."""
        counts = [getattr(spans, name).values for name in _TOKENS]
        # Quantities of other units cost up to so many tokens each.
        counts += [
            column.values * (MAX_TOKENS // UNIT_OF[name].most)
            for name, column in spans.optional.items()
            if name in UNIT_OF
        ]
        if sum(int(count.max(initial=0)) for count in counts) <= self._cheap_tokens:
            return spans, []
        tokens = sum(counts)
        rows = np.flatnonzero(~spans.cost_usd.present & (tokens > self._cheap_tokens))
        suspects, _ = repair(spans.take(rows))
        # Spans of the overflow group are priced by their own names: a rejected span makes no group.
        priced = self._pricer.price(suspects, np.full(len(rows), OVERFLOW_GROUP), groups)
        over = priced.cost_nano_usd > self._max_nano_usd
        if not over.any():
            return spans, []
        rejects = [
            _reject(suspects, index, int(priced.cost_nano_usd[index])) for index in np.flatnonzero(over).tolist()
        ]
        kept = np.ones(len(spans), np.bool_)
        kept[rows[over]] = False
        return spans.take(np.flatnonzero(kept)), rejects


def _reject(spans: SpanBatch, index: int, nano_usd: int) -> Reject:
    cost = f"{nano_usd // 10**9}.{nano_usd % 10**9:09d}"
    sentence = f"{reasons.WHOLE[_REASON].rstrip('.')} (computed: {cost})."
    return Reject(int(spans.row[index]), _REASON, sentence, spans.part_of(index))
