"""FOCUS: a period as a dataset of the FinOps Open Cost and Usage Specification, version 1.2, in CSV.

A row is one day of one group, status and price source; a correction is a row of its own. Rows have every column that
the specification makes mandatory, those of its other columns that the ledger can fill, and columns with the prefix
`x_`. The ledger knows one cost of each call, which stands in all four columns of costs.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TextIO

from tokentrace.ledger.formats import inert, usd
from tokentrace.ledger.parts import Part
from tokentrace.ledger.period import Period
from tokentrace.ledger.period_cells import Cell
from tokentrace.model.measures import UNIT_OF
from tokentrace.model.snapshot import Group

VERSION: Final = "1.2"
#: Columns that version 1.2 makes mandatory for every provider.
MANDATORY: Final = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart",
    "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd", "ChargePeriodStart", "ContractedCost",
    "EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingQuantity", "PricingUnit", "ProviderName",
    "PublisherName", "ServiceCategory", "ServiceName",
)  # fmt: skip
#: Other columns of the specification that are filled.
OPTIONAL: Final = ("ChargeFrequency", "ConsumedQuantity", "ConsumedUnit", "Tags")
CUSTOM: Final = (
    "x_Model",
    "x_Provider",
    "x_Caller",
    "x_Status",
    "x_PriceSource",
    "x_Spans",
    "x_CostNanoUsd",
    "x_Units",
)
COLUMNS: Final = (*MANDATORY, *OPTIONAL, *CUSTOM)

#: Name of a provider that no span named: the column takes no empty value.
_UNKNOWN: Final = "unknown"
_COSTS: Final = ("BilledCost", "EffectiveCost", "ListCost", "ContractedCost")

#: (day, group, status, source, whether it is a correction).
_Key = tuple[datetime, Group, str, str, bool]


def write_focus(cells: Iterable[Cell], period: Period, account: str, out: TextIO) -> None:
    """Write the cells of a period. account: who is billed."""
    writer = csv.DictWriter(out, COLUMNS)
    writer.writeheader()
    for key, sums in sorted(_by_day(cells, period).items(), key=lambda row: row[0]):
        writer.writerow(_row(key, sums, period, account))


def _by_day(cells: Iterable[Cell], period: Period) -> dict[_Key, Counter[str]]:
    days: dict[Part, datetime] = {}
    rows: dict[_Key, Counter[str]] = {}
    for cell in cells:
        day = days.get(cell.part)
        if day is None:
            day = days[cell.part] = period.day(cell.part)
        key = (day, cell.group, cell.status, cell.source)
        if cell.sums:
            rows.setdefault((*key, False), Counter()).update(cell.sums)
        if cell.corrected:
            rows.setdefault((*key, True), Counter())["cost_nano_usd"] += cell.corrected
    return rows


def _row(key: _Key, sums: Mapping[str, int], period: Period, account: str) -> dict[str, Any]:
    day, group, status, source, correction = key
    tokens = sums.get("prompt_tokens", 0) + sums.get("completion_tokens", 0)
    quantity, unit = (tokens, "Tokens") if tokens else (sums.get("spans", 0), "Requests")
    provider, model = group.provider or _UNKNOWN, group.model
    cost = sums.get("cost_nano_usd", 0)
    what = "Correction of calls" if correction else "Calls"
    texts = {
        "BillingAccountId": account,
        "BillingAccountName": account,
        "ChargeDescription": f"{what} of {model}, status {status}, price {source}",
        "InvoiceIssuerName": provider,
        "ProviderName": provider,
        "PublisherName": provider,
        "ServiceName": model,
        "x_Model": model,
        "x_Provider": group.provider,
        "x_Caller": group.caller,
        "x_Status": status,
        "x_PriceSource": source,
    }
    return {
        **{name: inert(text) for name, text in texts.items()},
        **dict.fromkeys(_COSTS, usd(cost)),
        "BillingCurrency": "USD",
        "BillingPeriodStart": _utc(period.begins),
        "BillingPeriodEnd": _utc(period.ends),
        "ChargeCategory": "Usage",
        "ChargeClass": "Correction" if correction else "",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodStart": _utc(max(day, period.begins)),
        "ChargePeriodEnd": _utc(min(_next(day), period.ends)),
        "PricingQuantity": "" if correction else quantity,
        "PricingUnit": "" if correction else unit,
        "ConsumedQuantity": "" if correction else quantity,
        "ConsumedUnit": "" if correction else unit,
        "ServiceCategory": "AI and Machine Learning",
        "Tags": json.dumps(dict(group.dimensions), ensure_ascii=False),
        "x_Spans": sums.get("spans", 0),
        "x_CostNanoUsd": cost,
        "x_Units": json.dumps(dict(_units(sums))),
    }


def _units(sums: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    for name, unit in UNIT_OF.items():
        if quantity := sums.get(name, 0):
            yield unit.name, quantity


def _next(day: datetime) -> datetime:
    """Return the beginning of the next day, which may be 23 or 25 hours later."""
    return (day + timedelta(days=1)).replace(fold=0)


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
