"""Pricer: finds the price plan of every group once, and charges batches of spans by it."""

from __future__ import annotations

import fnmatch
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.arrays import grown
from tokentrace.model.measures import SUMMED_FIELDS, UNIT_OF
from tokentrace.model.once import Once
from tokentrace.model.snapshot import OVERFLOW_GROUP, Group
from tokentrace.model.spans import ESTIMATED as ESTIMATED_FIELD
from tokentrace.model.spans import EVENT_TIME, OK, SpanBatch, Strings
from tokentrace.pricing.genai_prices import GenaiPrices, Match
from tokentrace.pricing.rates import PricePlan, Rates, configured_plan
from tokentrace.pricing.table import NO_PLAN, RateTable

log = logging.getLogger(__name__)

#: Sources of a cost, indexed by the codes in `Priced.source`.
SOURCES: Final = ("reported", "computed", "unpriced", "estimated")
#: The sum that counts the spans of each source.
SOURCE_SUMS: Final = ("priced_reported", "priced_computed", "unpriced", "priced_estimated")
REPORTED, COMPUTED, UNPRICED, ESTIMATED = (np.uint8(code) for code in range(4))

_NANO_USD: Final = 1e9
_NOT_LOOKED_UP: Final = -1
#: Most unpriced models that the log names.
_MAX_NAMED: Final = 100
#: Most names with a cached plan. At this size the cache is cleared, and names are looked up again.
_MAX_NAMES: Final = 20_000


@dataclass(frozen=True, slots=True)
class Priced:
    """Costs of m spans. cost_nano_usd: int64[m], 0 if unpriced. source: uint8[m], index into SOURCES."""

    cost_nano_usd: NDArray[np.int64]
    source: NDArray[np.uint8]


class Price(NamedTuple):
    """The plan of a model, and where it is from: a configured glob, or an entry of the built-in table."""

    plan: PricePlan
    glob: str = ""
    match: Match | None = None


class Pricer:
    """Prices spans.

    rates: glob (`*`, `?`, `[...]`) over model names, case-insensitive -> Rates; the first match applies.
    builtin: use the built-in prices if no glob matches. clock: Unix time, for spans without a timestamp.
    """

    def __init__(
        self, rates: Mapping[str, Rates], builtin: bool = True, clock: Callable[[], float] = time.time
    ) -> None:
        self._configured = [
            (glob, re.compile(fnmatch.translate(glob.lower())), configured_plan(model_rates))
            for glob, model_rates in rates.items()
        ]
        self._builtin = GenaiPrices() if builtin else None
        self._clock = clock
        self._table = RateTable()
        self._plan_of_name: dict[tuple[str, str], int] = {}
        #: (model, provider) that the log has named.
        self._unpriced = Once[tuple[str, str]](_MAX_NAMED)
        self._groups: Sequence[Group] = ()
        self._plan_of_group: NDArray[np.int32] = np.zeros(0, np.int32)
        self._looked_up = 0

    def price(self, spans: SpanBatch, group: NDArray[np.int64], groups: Sequence[Group]) -> Priced:
        """Price m validated spans. group: int64[m], indices into groups.

        groups may only grow between calls; a different sequence resets the cached plans of groups. Spans of the
        overflow group are priced by their own model and provider.
        """
        cost = np.rint(spans.cost_usd.values * _NANO_USD).astype(np.int64)
        reported = spans.cost_usd.present
        if reported.all():
            return Priced(cost, np.full(len(spans), REPORTED))
        source = np.full(len(spans), REPORTED)
        rows = np.flatnonzero(~reported)
        plan = self._plans(spans, rows, group[rows], groups)
        usage = _usage(spans, rows)
        charged = self._table.charge(plan, usage, lambda at: self._times_us(spans, rows[at]))
        cost[rows], source[rows] = charged.nano_usd, np.where(charged.billed, COMPUTED, UNPRICED)
        failed = rows[~charged.billed | self._table.per_call(plan)]
        failed = failed[spans.status[failed] != OK]
        if len(failed):
            self._price_failures(spans, failed, plan[np.searchsorted(rows, failed)], Priced(cost, source))
        if (estimated := spans.optional.get(ESTIMATED_FIELD)) is not None:
            source[(source == COMPUTED) & (estimated.values > 0)] = ESTIMATED
        return Priced(cost, source)

    @staticmethod
    def _price_failures(spans: SpanBatch, rows: NDArray[np.int64], plan: NDArray[np.int32], priced: Priced) -> None:
        """Set the price of failed calls that have used nothing to 0, which is computed where the model has a price.

        rows: int64[f], of failed calls. plan: int32[f], their plans. priced: of all spans, changed in place.
        """
        used = np.logical_or.reduce([quantity > 0 for quantity in _usage(spans, rows).values()])
        unused = rows[~used]
        priced.cost_nano_usd[unused] = 0
        priced.source[unused] = np.where(plan[~used] != NO_PLAN, COMPUTED, UNPRICED)

    def _times_us(self, spans: SpanBatch, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return int64[len(rows)], the time of each call, on which prices depend: its event time where it has one."""
        if EVENT_TIME in spans.optional:
            return spans.optional[EVENT_TIME].values[rows]
        started_us, ended_us = spans.started_at_us.values[rows], spans.ended_at_us.values[rows]
        times_us = np.where(started_us > 0, started_us, ended_us)
        return np.where(times_us > 0, times_us, int(self._clock() * 1e6))

    def _plans(
        self, spans: SpanBatch, rows: NDArray[np.int64], group: NDArray[np.int64], groups: Sequence[Group]
    ) -> NDArray[np.int32]:
        """Return int32[len(rows)], the plan id of every span. group: int64[len(rows)]."""
        if groups is not self._groups:
            self._groups, self._looked_up = groups, 0
        if self._looked_up < len(groups):
            self._plan_of_group = grown(self._plan_of_group, len(groups))
            self._plan_of_group[self._looked_up : len(groups)] = _NOT_LOOKED_UP
            # The overflow group has no plan: its spans are looked up by their own names.
            self._plan_of_group[OVERFLOW_GROUP] = NO_PLAN
            self._looked_up = len(groups)
        plan = self._plan_of_group[group]
        unknown = plan == _NOT_LOOKED_UP
        if unknown.any():
            for index in np.unique(group[unknown]).tolist():
                self._plan_of_group[index] = self._plan_id(groups[index].model, groups[index].provider)
            plan = self._plan_of_group[group]
        overflowed = np.flatnonzero(group == OVERFLOW_GROUP)
        if len(overflowed):
            overflow_rows = rows[overflowed]
            names = zip(
                _texts(spans, spans.model, overflow_rows), _texts(spans, spans.provider, overflow_rows), strict=True
            )
            plan[overflowed] = [self._plan_id(*name) for name in names]
        return plan

    def _plan_id(self, model: str, provider: str) -> int:
        """Return the id of a model's plan, from the cache of names or by a lookup."""
        plan_id = self._plan_of_name.get((model, provider))
        if plan_id is None:
            price = self.find(model, provider)
            plan_id = NO_PLAN if price is None else self._table.add(price.plan)
            if price is None:
                self._name_unpriced(model, provider)
            if len(self._plan_of_name) >= _MAX_NAMES:
                self._plan_of_name.clear()
                if self._builtin:
                    self._builtin.clear_cache()
            self._plan_of_name[model, provider] = plan_id
        return plan_id

    def _name_unpriced(self, model: str, provider: str) -> None:
        """Log a model without a price once."""
        if self._unpriced.first((model, provider)):
            log.warning(
                "No price for model %r of provider %r: its spans without cost_usd cost 0. Set pricing.models, or see "
                "`tokentrace price`.%s",
                model, provider, " Further models are not named here." if self._unpriced.full else "",
            )  # fmt: skip

    def find(self, model: str, provider: str) -> Price | None:
        """Return the price of a model, as its application names it and its provider; None for an unpriced one."""
        lowered = model.lower()
        for glob, pattern, plan in self._configured:
            if pattern.match(lowered):
                return Price(plan, glob=glob)
        match = self._builtin.find(model, provider) if self._builtin else None
        return None if match is None else Price(match.plan, match=match)


def _usage(spans: SpanBatch, rows: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Return unit -> int64[len(rows)], of the units that any span of the batch may have used."""
    names = (*SUMMED_FIELDS, *spans.optional)
    return {UNIT_OF[name].name: spans.numbers(name).values[rows] for name in names if name in UNIT_OF}


def _texts(spans: SpanBatch, strings: Strings, rows: NDArray[np.int64]) -> list[str]:
    """Return the strings at rows."""
    buffer = spans.buffer.data
    start = strings.offset[rows]
    bounds = zip(start.tolist(), (start + strings.length[rows]).tolist(), strict=True)
    return [str(buffer[first:end], "utf-8") for first, end in bounds]
