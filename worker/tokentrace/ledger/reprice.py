"""Reprice: the ledger's calls at other prices, or as calls of another model, each sum with the bounds of its error.

What is known of a call is its hour, or part of one, its group, status and source, and the sums of its units. Its
service tier, place and speed are not. Where the ledger's cost is what the ordinary price gives today, to the
nano-dollar, the calls had none of them; else every price that any of them has is possible.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, NamedTuple

from tokentrace.errors import UsageError
from tokentrace.ledger.period_cells import Cell
from tokentrace.ledger.query import Labels
from tokentrace.ledger.usage_price import NOTHING, Amount, Usage, either, lowest_tier, price
from tokentrace.model.globs import matches
from tokentrace.model.measures import UNIT_OF
from tokentrace.model.snapshot import Group
from tokentrace.pricing import Pricer
from tokentrace.pricing.modifiers import NONE, Modifiers
from tokentrace.pricing.rates import PricePlan

#: Sources whose costs stay, unless they are asked for: they are not from a price of ours, or not all of them are.
_KEPT: Final = ("reported", "mixed")


class Swap(NamedTuple):
    """Calls of the models that a glob matches, as calls of another model. provider: empty where the name decides."""

    glob: str
    model: str
    provider: str


class Repriced(NamedTuple):
    """A sum at other prices. billed: as in the bill. amount: at the other prices. kept: part of both, not repriced."""

    spans: int
    billed: int
    amount: Amount
    kept: int

    def __add__(self, other: object) -> Repriced:
        assert isinstance(other, Repriced)
        return Repriced(
            self.spans + other.spans, self.billed + other.billed, self.amount + other.amount, self.kept + other.kept
        )

    @property
    def error(self) -> int:
        """Return by how many nano-USD the likely amount is wrong at most."""
        return max(self.amount.likely - self.amount.low, self.amount.high - self.amount.likely)


@dataclass(frozen=True, slots=True)
class _Prices:
    """Plans of a model by the modifiers of its calls, today's and the others."""

    now: Mapping[Modifiers, PricePlan | None]
    then: Mapping[Modifiers, PricePlan | None]

    @property
    def variants(self) -> list[PricePlan]:
        """Return the distinct plans at the other prices, the ordinary one first."""
        return [plan for plan in dict.fromkeys(self.then.values()) if plan is not None]

    @property
    def told_apart(self) -> bool:
        """True if every modifier that changes the other price changes today's, too."""
        return all(self.now[call] != self.now[NONE] for call, plan in self.then.items() if plan != self.then[NONE])


def parse_swap(text: str) -> Swap:
    """Parse `gpt-4o=claude-sonnet-4-5` or `gpt-*=anthropic/claude-sonnet-4-5`. Raises UsageError."""
    glob, equals, target = (part.strip() for part in text.partition("="))
    if not equals or not glob or not target:
        raise UsageError(f"--what-if: {text!r} is not MODEL=OTHER; write for example gpt-4o=claude-sonnet-4-5.")
    provider, slash, model = target.partition("/")
    return Swap(glob, model, provider) if slash else Swap(glob, target, "")


class Repricing:
    """Prices cells again. now: the prices that they were counted with, as far as these are still configured."""

    def __init__(self, now: Pricer, then: Pricer, swaps: Sequence[Swap] = (), *, reported: bool = False) -> None:
        """then: the other prices. swaps: calls that become others. reported: whether reported costs are repriced."""
        self._now, self._then = now, then
        self._swaps = swaps
        self._reported = reported
        self._prices: dict[tuple[str, str, str, str], _Prices] = {}
        #: Swaps that a cell had, and models that none had.
        self._used: set[Swap] = set()
        self._others: set[str] = set()

    def require_priced(self) -> None:
        """Raises UsageError for a swap whose model has no price."""
        for swap in self._swaps:
            if self._then.find(swap.model, swap.provider) is None:
                raise UsageError(f"--what-if: no price for model {swap.model!r}; see `tokentrace price`.")

    def require_used(self) -> None:
        """Raises UsageError for a swap that no cell had so far."""
        for swap in self._swaps:
            if swap not in self._used:
                near = get_close_matches(swap.glob, sorted(self._others), 1)
                hint = f"; did you mean {near[0]}?" if near else "."
                raise UsageError(f"--what-if: no call of the period is of model {swap.glob!r}{hint}")

    def sums(self, cells: Iterable[tuple[Labels, Cell]]) -> dict[Labels, Repriced]:
        """Return the sums by labels."""
        found: dict[Labels, Repriced] = {}
        for labels, cell in cells:
            one = self.reprice(cell)
            found[labels] = found[labels] + one if labels in found else one
        return found

    def reprice(self, cell: Cell) -> Repriced:
        """Price one cell again."""
        spans, billed = cell.sums["spans"], cell.sums["cost_nano_usd"] + cell.corrected
        swap = next((swap for swap in self._swaps if matches(swap.glob, cell.group.model)), None)
        if swap is None:
            self._others.add(cell.group.model)
        else:
            self._used.add(swap)
        kept = cell.source in _KEPT and not (cell.source == "reported" and self._reported)
        if (self._swaps and swap is None) or (kept and swap is None):
            return Repriced(spans, billed, Amount(billed, billed, billed), billed)
        usage = Usage(cell.part, spans, dict(_quantities(cell.sums)), cell.status != "ok")
        return Repriced(spans, billed, self._amount(cell, usage, self._of(cell.group, swap)), 0)

    def _amount(self, cell: Cell, usage: Usage, prices: _Prices) -> Amount:
        plan, variants = prices.then[NONE], prices.variants
        if not variants:
            return NOTHING
        cost, before = cell.sums["cost_nano_usd"], prices.now[NONE]
        counted = NOTHING
        ordinary_calls = False
        if cell.source in ("computed", "estimated") and before is not None:
            # No call of ordinary ones had a long prompt, if the sum is that of the lowest tier.
            short = usage._replace(largest=lowest_tier(before, usage.part))
            counted = price(before, short)
            ordinary_calls = counted.high - counted.low <= usage.spans + 1 and counted.low <= cost <= counted.high
            usage = short if ordinary_calls else usage
        ordinary = NOTHING if plan is None else price(plan, usage)
        if plan is not None and (len(variants) == 1 or (ordinary_calls and prices.told_apart)):
            return ordinary
        # What the modifiers made of today's price, they are taken to make of the other.
        likely = ordinary.likely * cost // counted.likely if counted.likely else ordinary.likely
        return either([ordinary, *(price(variant, usage) for variant in variants)], likely)

    def _of(self, group: Group, swap: Swap | None) -> _Prices:
        model, provider = (swap.model, swap.provider) if swap is not None else group.base[:2]
        key = (group.model, group.provider, model, provider)
        if key not in self._prices:
            calls = [NONE, *(call for call in {*self._now.variants(), *self._then.variants()} if call != NONE)]
            self._prices[key] = _Prices(
                {call: self._now.find(group.model, group.provider, call) for call in calls},
                {call: self._then.find(model, provider, call) for call in calls},
            )
        return self._prices[key]


def _quantities(sums: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    for name, unit in UNIT_OF.items():
        if quantity := sums.get(name, 0):
            yield unit.name, quantity
