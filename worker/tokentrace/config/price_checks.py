"""Checks of the section `pricing` that concern several of its keys: each problem with the key that it is at.

They read the document itself, so that they find what is wrong between two rules while a third cannot be read. A key
that has a wrong type is reported elsewhere, and left out here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from functools import cache
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from tokentrace.config.document import KeyPath, dotted
from tokentrace.config.fields import Moment, UsdPrice
from tokentrace.model.globs import covers, is_literal, matches
from tokentrace.model.providers import ProviderNames
from tokentrace.model.spans import MODIFIERS, ORDINARY_MODIFIERS
from tokentrace.model.units import BY_NAME, UNITS, WHOLES

Problem = tuple[KeyPath, str]

_EVER: Final = 1 << 63
#: USD that the largest quantity of a unit may cost: a million tokens at 10,000 USD a thousand times.
_MOST_USD: Final = 10**7
#: USD of one request, besides its usage.
_MOST_PER_REQUEST: Final = 1
#: Key of a mapping's rates -> its unit.
_CLASSIC: Final = {"prompt_per_1m": "prompt", "completion_per_1m": "completion", "cached_prompt_per_1m": "cache_read"}
_MOMENT: Final = TypeAdapter(Moment)
_PRICE: Final = TypeAdapter(UsdPrice)


def pricing_problems(section: Any) -> Iterator[Problem]:
    """Yield the problems of the section, as the document has it."""
    if not isinstance(section, Mapping):
        return
    declared = frozenset(name.lower() for name in _items(section.get("providers")) if isinstance(name, str))
    models = section.get("models")
    if isinstance(models, Mapping):
        for glob, rates in models.items():
            yield from _too_high(("pricing", "models", glob), rates, _CLASSIC)
        yield from _order([_Reach.of_glob(("pricing", "models", glob), glob) for glob in models])
    rules = list(_entries(models, ("pricing", "models")))
    for path, rule in rules:
        yield from _rule(path, rule)
    modifiers = list(_entries(section.get("modifiers"), ("pricing", "modifiers")))
    for path, modifier in modifiers:
        yield from _modifier(path, modifier, {})
    discounts = list(_entries(section.get("discounts"), ("pricing", "discounts")))
    for entries in (rules, modifiers, discounts):
        for path, entry in entries:
            yield from _provider(path, entry, declared)
            yield from _dates(path, entry)
    for entries in (rules, _meant(modifiers), discounts):
        yield from _order([_Reach.of(path, entry) for path, entry in entries])


def _items(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else ()


def _entries(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Mapping[str, Any]]]:
    for index, entry in enumerate(_items(value)):
        if isinstance(entry, Mapping):
            yield (*path, index), entry


# -- one entry ---------------------------------------------------------------------------------------------------------


def _rule(path: KeyPath, rule: Mapping[str, Any]) -> Iterator[Problem]:
    base = rule.get("rates")
    yield from _rates((*path, "rates"), base, {})
    yield from _ordinary(path, rule)
    highest = 0
    below = dict(base) if isinstance(base, Mapping) else {}
    for at, tier in _entries(rule.get("tiers"), (*path, "tiers")):
        above = tier.get("above")
        if isinstance(above, int) and not isinstance(above, bool):
            if above <= highest and highest:
                yield (*at, "above"), f"must be more than {highest}, the one of the tier before; sort the tiers"
            highest = max(highest, above)
        yield from _rates((*at, "rates"), tier.get("rates"), below)
        below.update(tier["rates"] if isinstance(tier.get("rates"), Mapping) else {})
    modifiers = list(_entries(rule.get("modifiers"), (*path, "modifiers")))
    for at, modifier in modifiers:
        yield from _modifier(at, modifier, rule)
        yield from _dates(at, modifier)
    yield from _order([_Reach.of(at, modifier) for at, modifier in _meant(modifiers)])


def _meant(modifiers: Sequence[tuple[KeyPath, Mapping[str, Any]]]) -> list[tuple[KeyPath, Mapping[str, Any]]]:
    """Return the modifiers that name any calls."""
    return [(path, one) for path, one in modifiers if any(one.get(name) for name in MODIFIERS)]


def _modifier(path: KeyPath, modifier: Mapping[str, Any], rule: Mapping[str, Any]) -> Iterator[Problem]:
    named = [name for name in MODIFIERS if modifier.get(name)]
    if not named:
        yield path, f"names no call whose price it changes; set one of {', '.join(MODIFIERS)}"
    for name in named:
        if rule.get(name):
            yield (*path, name), f"never applies: the rule itself is for calls of one {name}"
    yield from _ordinary(path, modifier)


def _ordinary(path: KeyPath, entry: Mapping[str, Any]) -> Iterator[Problem]:
    for name in MODIFIERS:
        value = entry.get(name)
        if isinstance(value, str) and value.strip().lower().replace("-", "_") in ORDINARY_MODIFIERS[name]:
            yield (*path, name), f"{value!r} is what a price without {name} is for; leave the key out"


def _dates(path: KeyPath, entry: Mapping[str, Any]) -> Iterator[Problem]:
    since, until = _moment(entry.get("from")), _moment(entry.get("until"))
    if since is not None and until is not None and until <= since:
        yield (*path, "until"), "must be after from; the entry never applies"


def _moment(value: Any) -> int | None:
    try:
        return None if value is None else _MOMENT.validate_python(value)
    except ValidationError:
        return None


def _rates(path: KeyPath, rates: Any, base: Mapping[str, Any]) -> Iterator[Problem]:
    """base: prices that hold for units without one."""
    if not isinstance(rates, Mapping):
        return
    yield from _too_high(path, rates, {name: name for name in rates if name in BY_NAME})
    priced = [unit.name for unit in UNITS if unit.name in rates or unit.name in base]
    if base and all(name in base for name in rates):
        return  # Said of the base.
    for name in priced:
        for whole in WHOLES[name]:
            if whole not in priced:
                yield (
                    (*path, name) if name in rates else path,
                    f"{name} is part of {whole}, which has no price; set it, 0 if it is free",
                )
    yield from ((path, problem) for problem in _joins(priced))


def _too_high(path: KeyPath, rates: Any, units: Mapping[str, str]) -> Iterator[Problem]:
    """units: key of a price -> its unit."""
    for key, value in rates.items() if isinstance(rates, Mapping) else ():
        unit = units.get(key)
        try:
            price = _PRICE.validate_python(value)
        except ValidationError:
            continue
        if unit is not None and price > _most(unit):
            yield (*path, key), f"{price} USD is beyond every price; it is at most {_most(unit):f}, {_per(unit)}"


def _joins(priced: Sequence[str]) -> Iterator[str]:
    """Yield the units that are part of two priced ones, and have no price that says which of the two applies."""
    for index, name in enumerate(priced):
        for other in priced[index + 1 :]:
            kind = BY_NAME[name].kind | BY_NAME[other].kind
            joined = next((unit.name for unit in UNITS if unit.kind == kind), None)
            if joined is not None and joined not in priced:
                yield f"{joined} is part of {name} and of {other}, which both have a price; give it one too"


def _most(name: str) -> Decimal:
    unit = BY_NAME[name]
    if name == "request":
        return Decimal(_MOST_PER_REQUEST * unit.per)
    return Decimal(_MOST_USD) * unit.per * unit.scale / unit.most


def _per(name: str) -> str:
    per = BY_NAME[name].per
    return {10**6: "per million", 10**9: "per billion", 1000: "per thousand", 3600: "per hour"}[per]


# -- providers ---------------------------------------------------------------------------------------------------------


@cache
def _known() -> tuple[ProviderNames, frozenset[str]]:
    """Return (names of providers, the ids of the price table)."""
    from genai_prices.data import providers  # A large module, loaded only if needed.

    ids = frozenset(provider.id for provider in providers)
    return ProviderNames(ids), ids


def canonical_provider(glob: str) -> str:
    """Return a provider's id in the price table where the glob is another of its names, else the glob."""
    if not is_literal(glob):
        return glob.lower()
    names, _ = _known()
    return names.id_of(glob) or glob.strip().lower()


def _provider(path: KeyPath, entry: Mapping[str, Any], declared: frozenset[str]) -> Iterator[Problem]:
    glob = entry.get("provider")
    if not isinstance(glob, str) or not glob or glob == "*":
        return
    names, ids = _known()
    if is_literal(glob):
        known = bool(names.id_of(glob)) or glob.strip().lower() in declared
    else:
        known = any(matches(glob, name) for name in (*ids, *declared))
    if not known:
        near = get_close_matches(glob.lower(), sorted(ids | declared), 1)
        hint = f'; did you mean "{near[0]}"?' if near else "; list one of your own in pricing.providers"
        yield (*path, "provider"), f"unknown provider{hint}"


# -- order -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Reach:
    """Reach of an entry, the calls that it applies to.

    globs: of the provider, the model and the modifiers, "*" for all. since, until: microseconds since the epoch.
    """

    path: KeyPath
    globs: tuple[str, ...]
    since: int
    until: int

    @classmethod
    def of_glob(cls, path: KeyPath, model: str) -> _Reach:
        return cls(path, ("*", model, *("*" for _ in MODIFIERS)), -_EVER, _EVER)

    @classmethod
    def of(cls, path: KeyPath, entry: Mapping[str, Any]) -> _Reach | None:
        """None where a part of it cannot be read."""
        globs = [entry.get(name) or "*" for name in ("provider", "model", *MODIFIERS)]
        dates = [_moment(entry.get(name)) for name in ("from", "until")]
        if not all(isinstance(glob, str) for glob in globs) or any(
            entry.get(name) is not None and date is None for name, date in zip(("from", "until"), dates, strict=True)
        ):
            return None
        since, until = dates
        provider = globs[0] if globs[0] == "*" else canonical_provider(globs[0])
        return cls(path, (provider, *globs[1:]), -_EVER if since is None else since, _EVER if until is None else until)

    def names_of(self, other: _Reach) -> bool:
        """Return whether it applies to all calls of the other, dates apart."""
        return all(
            # An entry for any value applies to calls without one; one with a glob, only to those with one.
            glob == "*" or (inner != "*" and covers(glob, inner)) if index > 1 else covers(glob, inner)
            for index, (glob, inner) in enumerate(zip(self.globs, other.globs, strict=True))
        )

    @property
    def dated(self) -> bool:
        return self.since != -_EVER or self.until != _EVER


def _order(reaches: Sequence[_Reach | None]) -> Iterator[Problem]:
    """Yield entries that never apply, because earlier ones do, and those of one name whose dates overlap."""
    earlier: list[_Reach] = []
    for reach in reaches:
        if reach is None or reach.until <= reach.since:
            continue
        wider = [other for other in earlier if other.names_of(reach)]
        by = _covering(wider, reach)
        if by:
            names = " and ".join(dotted(other.path) for other in by)
            applies = "applies" if len(by) == 1 else "apply"
            yield reach.path, f"never applies: {names} {applies} first; move this entry before, or take it out"
        else:
            for other in wider:
                overlap = max(reach.since, other.since) < min(reach.until, other.until)
                # A rule without dates may follow dated ones, for all other times.
                if overlap and reach.dated and reach.names_of(other):
                    yield reach.path, f"its dates overlap those of {dotted(other.path)}; set from and until apart"
        earlier.append(reach)


def _covering(wider: Sequence[_Reach], reach: _Reach) -> list[_Reach]:
    """Return entries whose dates together cover those of `reach`, empty where they do not."""
    at, used = reach.since, []
    for other in sorted(wider, key=lambda one: (one.since, -one.until)):
        if other.since <= at < other.until and at < reach.until:
            at = other.until
            used.append(other)
    return used if at >= reach.until else []
