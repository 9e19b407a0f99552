"""Pricer: finds the price plan of every group once, and charges batches of spans by it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.measures import SUMMED_FIELDS, UNIT_OF
from tokentrace.model.once import Once
from tokentrace.model.snapshot import OVERFLOW_GROUP, Group
from tokentrace.model.spans import ESTIMATED as ESTIMATED_FIELD
from tokentrace.model.spans import EVENT_TIME, OK, SpanBatch, Strings
from tokentrace.pricing.compose import Composer
from tokentrace.pricing.genai_prices import GenaiPrices
from tokentrace.pricing.modifiers import NONE, Modifiers, distinct_modifiers
from tokentrace.pricing.rates import PricePlan, Rates
from tokentrace.pricing.rules import NO_RULES, PriceRules, classic_rules
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
#: Most modifiers with a cached plan for each group, likewise.
_MAX_CODES: Final = 256


@dataclass(frozen=True, slots=True)
class Priced:
    """Costs of m spans. cost_nano_usd: int64[m], 0 if unpriced. source: uint8[m], index into SOURCES."""

    cost_nano_usd: NDArray[np.int64]
    source: NDArray[np.uint8]


class _Kinds(NamedTuple):
    """kind: int64[k], index into `calls` of every span."""

    kind: NDArray[np.int64]
    calls: list[Modifiers]


class Pricer:
    """Prices spans.

    rates: glob (`*`, `?`, `[...]`) over model names, case-insensitive -> Rates. builtin: use the built-in prices if no
    glob or rule applies. clock: Unix time, for spans without a timestamp. rules: after the globs.
    """

    def __init__(
        self,
        rates: Mapping[str, Rates],
        builtin: bool = True,
        clock: Callable[[], float] = time.time,
        rules: PriceRules = NO_RULES,
    ) -> None:
        rules = replace(rules, rules=(*classic_rules(rates), *rules.rules))
        self._builtin = GenaiPrices() if builtin or rules.name_providers else None
        self._composer = Composer(rules, self._builtin, builtin)
        self._classes = self._composer.classes()
        #: Bound on what modifiers multiply a price by.
        self.largest_factor = float(self._composer.largest_factor())
        self._clock = clock
        self._table = RateTable()
        self._plan_of_name: dict[tuple[str, str, Modifiers], int] = {}
        #: (model, provider) that the log has named, and (model, provider, modifiers) without a price of their own.
        self._unpriced = Once[tuple[str, str]](_MAX_NAMED)
        self._estimated = Once[tuple[str, str, Modifiers]](_MAX_NAMED)
        self._groups: Sequence[Group] = ()
        #: Row: the code of a call's modifiers, 0 for none. Column: the group.
        self._plan_of_group: NDArray[np.int32] = np.zeros((1, 0), np.int32)
        self._codes: dict[Modifiers, int] = {NONE: 0}
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
        if charged.estimated is not None:
            source[rows[charged.estimated & charged.billed]] = ESTIMATED
        failed = rows[~charged.billed | self._table.per_call(plan)]
        failed = failed[spans.status[failed] != OK]
        if len(failed):
            has_price = self._table.has_price(charged.tier[np.searchsorted(rows, failed)])
            self._price_failures(spans, failed, has_price, Priced(cost, source))
        if (estimated := spans.optional.get(ESTIMATED_FIELD)) is not None:
            source[(source == COMPUTED) & (estimated.values > 0)] = ESTIMATED
        return Priced(cost, source)

    @staticmethod
    def _price_failures(
        spans: SpanBatch, rows: NDArray[np.int64], has_price: NDArray[np.bool_], priced: Priced
    ) -> None:
        """Set the price of failed calls that have used nothing to 0, which is computed where the model has a price.

        rows: int64[f], of failed calls. has_price: bool[f]. priced: of all spans, changed in place.
        """
        used = np.logical_or.reduce([quantity > 0 for quantity in _usage(spans, rows).values()])
        unused = rows[~used]
        priced.cost_nano_usd[unused] = 0
        priced.source[unused] = np.where(has_price[~used], COMPUTED, UNPRICED)

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
        kinds = self._modifiers_of(spans, rows) if spans.modifiers else None
        if self._looked_up < len(groups) or len(self._codes) > len(self._plan_of_group):
            self._grow(len(groups))
        if kinds is None:
            code: NDArray[np.int64] | int = 0
            plan: NDArray[np.int32] = self._plan_of_group[0].take(group)
        else:
            code = np.array([self._codes[call] for call in kinds.calls], np.int64).take(kinds.kind)
            plan = self._plan_of_group[code, group]
        unknown = plan == _NOT_LOOKED_UP
        if unknown.any():
            self._look_up(np.unique((code * len(groups) + group)[unknown]), groups)
            plan = self._plan_of_group[code, group]
        overflowed = np.flatnonzero(group == OVERFLOW_GROUP)
        if len(overflowed):
            overflow_rows = rows[overflowed]
            calls = [NONE] * len(overflowed)
            if kinds is not None:
                calls = [kinds.calls[kind] for kind in kinds.kind.take(overflowed).tolist()]
            names = zip(
                _texts(spans, spans.model, overflow_rows),
                _texts(spans, spans.provider, overflow_rows),
                calls,
                strict=True,
            )
            plan[overflowed] = [self._plan_id(*name) for name in names]
        return plan

    def _modifiers_of(self, spans: SpanBatch, rows: NDArray[np.int64]) -> _Kinds:
        """Tell the modifiers of the spans apart, and give each a code."""
        distinct = distinct_modifiers(spans, rows)
        calls = [self._classes.of(Modifiers.of(*texts)) for texts in distinct.texts]
        new = {call for call in calls if call not in self._codes}
        if len(self._codes) + len(new) > _MAX_CODES:
            self._codes, self._looked_up = {NONE: 0}, 0
            new = set(calls) - {NONE}
        for call in sorted(new):
            self._codes[call] = len(self._codes)
        return _Kinds(distinct.kind, calls)

    def _grow(self, groups: int) -> None:
        """Make room for new groups and codes, whose plans are not looked up yet."""
        before = self._plan_of_group
        codes = len(self._codes)
        if codes > before.shape[0] or groups > before.shape[1] or not self._looked_up:
            width = before.shape[1] if groups <= before.shape[1] else max(groups, 2 * before.shape[1], 64)
            self._plan_of_group = np.full((codes, width), _NOT_LOOKED_UP, np.int32)
            if self._looked_up:
                known = min(codes, before.shape[0])
                self._plan_of_group[:known, : self._looked_up] = before[:known, : self._looked_up]
        # The overflow group has no plan: its spans are looked up by their own names.
        self._plan_of_group[:, OVERFLOW_GROUP] = NO_PLAN
        self._looked_up = groups

    def _look_up(self, keys: NDArray[np.int64], groups: Sequence[Group]) -> None:
        """Look up plans. keys: int64[j], code * groups + group."""
        calls = list(self._codes)
        for key in keys.tolist():
            code, number = divmod(key, len(groups))
            group = groups[number]
            self._plan_of_group[code, number] = self._plan_id(group.model, group.provider, calls[code])

    def _plan_id(self, model: str, provider: str, call: Modifiers = NONE) -> int:
        """Return the id of a model's plan, from the cache of names or by a lookup."""
        plan_id = self._plan_of_name.get((model, provider, call))
        if plan_id is None:
            plan = self.find(model, provider, call)
            plan_id = NO_PLAN if plan is None else self._table.add(plan)
            if plan is None:
                self._name_unpriced(model, provider)
            else:
                self._name_estimated(plan, model, provider, call)
            if len(self._plan_of_name) >= _MAX_NAMES:
                self._plan_of_name.clear()
                if self._builtin:
                    self._builtin.clear_cache()
            self._plan_of_name[model, provider, call] = plan_id
        return plan_id

    def _name_unpriced(self, model: str, provider: str) -> None:
        """Log a model without a price once."""
        if self._unpriced.first((model, provider)):
            log.warning(
                "No price for model %r of provider %r: its spans without cost_usd cost 0. Set pricing.models, or see "
                "`tokentrace price`.%s",
                model, provider, " Further models are not named here." if self._unpriced.full else "",
            )  # fmt: skip

    def _name_estimated(self, plan: PricePlan, model: str, provider: str, call: Modifiers) -> None:
        """Log once that calls of today with some modifiers have no price of their own."""
        now_us = int(self._clock() * 1e6)
        today = next((price_list for price_list in plan if price_list.condition.applies(now_us)), None)
        if today is not None and today.estimated and self._estimated.first((model, provider, call)):
            log.warning(
                "No price for %s of model %r, provider %r: its spans have the ordinary price, and are counted as "
                "estimated. Set pricing.modifiers, or see `tokentrace price`.%s",
                today.origin.left, model, provider, " Further ones are not named here." if self._estimated.full else "",
            )  # fmt: skip

    def variants(self) -> list[Modifiers]:
        """Return the modifiers of calls that may have prices of their own, a call of each class."""
        return self._classes.examples()

    def find(self, model: str, provider: str, call: Modifiers = NONE) -> PricePlan | None:
        """Return the plan of a model, as its application names it and its provider; None for an unpriced one."""
        return self._composer.plan(model, provider, call)


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
