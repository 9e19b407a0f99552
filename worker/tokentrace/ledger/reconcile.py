"""Reconcile: a provider's export against the ledger, by day and model, with likely reasons of differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from tokentrace.ledger.database import Database
from tokentrace.ledger.exports import MEASURED, Entry, plain_name
from tokentrace.ledger.period import between
from tokentrace.ledger.query import Billing
from tokentrace.model.globs import matches

#: (day, model without the date of its release).
Key = tuple[str, str]
#: Column of the ledger for what is measured.
_COLUMNS: Final = {name: name for name in MEASURED} | {"requests": "spans"}
#: A price is that of a contract where the same calls cost so much more or less, at least.
_PRICE_RATIO: Final = 0.005


@dataclass(frozen=True, slots=True)
class Comparison:
    """One day and model. export, ledger: amounts by name. verdict: matched, missing, extra or different.

    reason: the likely one, empty for what matches.
    """

    day: str
    model: str
    export: Mapping[str, int]
    ledger: Mapping[str, int]
    verdict: str
    reason: str

    @property
    def drift_nano_usd(self) -> int:
        """Ledger minus export; 0 where the export has no costs."""
        if "cost_nano_usd" not in self.export and self.verdict != "extra":
            return 0
        return self.ledger.get("cost_nano_usd", 0) - self.export.get("cost_nano_usd", 0)


def exported(entries: Iterable[Entry]) -> dict[Key, Counter[str]]:
    """Sum the lines of an export. Lines that are of no model are kept under the empty name."""
    found: dict[Key, Counter[str]] = {}
    for entry in entries:
        found.setdefault((entry.day, plain_name(entry.model)), Counter()).update(entry.amounts)
    return found


def ledger_days(database: Database, days: Iterable[str], provider: str, zone: ZoneInfo) -> dict[Key, Counter[str]]:
    """Sum the ledger of the days from the first to the last. provider: glob over the spans' providers. zone: of days.

    Raises UsageError where the ledger has one sum of two of the days.
    """
    ordered = sorted(days)
    behind = date.fromisoformat(ordered[-1]) + timedelta(days=1)
    period = between(ordered[0], behind.isoformat(), zone)
    found: dict[Key, Counter[str]] = {}
    bill = Billing(database).bill(period, ["day", "provider", "model", "source"])
    for (day, name, model, source), sums in bill.rows.items():
        if matches(provider, name):
            row = found.setdefault((day, plain_name(model)), Counter())
            row.update({measured: sums.get(column, 0) for measured, column in _COLUMNS.items()})
            row["unpriced"] += sums.get("spans", 0) if source == "unpriced" else 0
    return found


def compare(
    export: Mapping[Key, Mapping[str, int]], ledger: Mapping[Key, Mapping[str, int]], tolerance_nano_usd: int
) -> list[Comparison]:
    """Compare every day and model that either has. tolerance_nano_usd: of costs; quantities have none."""
    names = [name for name in MEASURED if any(name in amounts for amounts in export.values())]
    found = []
    for key in sorted({*export, *ledger}):
        theirs = {name: export[key].get(name, 0) for name in names if key in export}
        ours = {name: number for name, number in ledger.get(key, {}).items() if number}
        if not any(theirs.values()) and not any(ours.get(name) for name in names):
            continue
        if key not in ledger:
            verdict, reason = "missing", "calls that nobody published, or that have another model's name"
        elif key not in export:
            verdict, reason = "extra", "calls of another account or provider, or a day that the export lacks"
        else:
            differing = [name for name in names if not _equal(name, theirs[name], ours, tolerance_nano_usd)]
            verdict = "different" if differing else "matched"
            reason = _reason(key, theirs, ours, differing, export, ledger) if differing else ""
        found.append(Comparison(*key, theirs, ours, verdict, reason))
    return found


def _equal(name: str, number: int, ours: Mapping[str, int], tolerance_nano_usd: int) -> bool:
    return abs(number - ours.get(name, 0)) <= (tolerance_nano_usd if name == "cost_nano_usd" else 0)


def _reason(
    key: Key,
    theirs: Mapping[str, int],
    ours: Mapping[str, int],
    differing: Sequence[str],
    export: Mapping[Key, Mapping[str, int]],
    ledger: Mapping[Key, Mapping[str, int]],
) -> str:
    quantities = [name for name in differing if name != "cost_nano_usd"]
    if quantities:
        if all(_over_days(export, key[1], name) == _over_days(ledger, key[1], name) for name in quantities):
            return "the same calls on other days: the export has days of another time zone, or calls ran past midnight"
        fewer = all(ours.get(name, 0) <= theirs[name] for name in quantities)
        return "calls that nobody published" if fewer else "calls of another account, or published twice"
    if unpriced := ours.get("unpriced", 0):
        return f"{unpriced:,} spans have no price"
    cost = ours.get("cost_nano_usd", 0)
    if not cost:
        return "the ledger has no cost"
    ratio = theirs["cost_nano_usd"] / cost
    if len(theirs) > 1 and abs(ratio - 1) >= _PRICE_RATIO:
        return f"another price for the same usage: the export's is {ratio:.4f} times the ledger's"
    if abs(ratio - 1) < _PRICE_RATIO:
        return "rounding, or a few calls"
    return f"another price or other calls: the export's cost is {ratio:.4f} times the ledger's"


def _over_days(rows: Mapping[Key, Mapping[str, int]], model: str, name: str) -> int:
    return sum(row.get(name, 0) for (_, other), row in rows.items() if other == model)
