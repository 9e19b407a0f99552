"""Formats of a repriced bill: JSON and CSV, both exact, and the sentences below its table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tokentrace.ledger.formats import inert, usd
from tokentrace.ledger.period import Period
from tokentrace.ledger.query import Labels
from tokentrace.ledger.reprice import Repriced
from tokentrace.ledger.usage_price import NOTHING

#: Columns of amounts, all in nano-USD.
COLUMNS: Final = ("billed_nano_usd", "repriced_nano_usd", "difference_nano_usd", "at_most_wrong_by_nano_usd")


@dataclass(frozen=True, slots=True)
class RepricedBill:
    """A period at other prices. rows: by label values."""

    period: Period
    by: Sequence[str]
    rows: Mapping[Labels, Repriced]

    @property
    def total(self) -> Repriced:
        """Return the sum of all rows."""
        total = Repriced(0, 0, NOTHING, 0)
        for row in self.rows.values():
            total += row
        return total

    def in_order(self) -> list[tuple[Labels, Repriced]]:
        """Return the rows, the largest amounts first."""
        return sorted(self.rows.items(), key=lambda row: (-row[1].amount.likely, row[0]))


def amounts(row: Repriced) -> dict[str, int]:
    """Return the amounts of a row by column."""
    likely = row.amount.likely
    return dict(zip(COLUMNS, (row.billed, likely, likely - row.billed, row.error), strict=True))


def as_json(bill: RepricedBill) -> dict[str, Any]:
    """Return the bill as a JSON object."""
    return {
        "period": {
            "from": bill.period.begins.isoformat(),
            "to": bill.period.ends.isoformat(),
            "zone": bill.period.zone.key,
        },
        "total": {"spans": bill.total.spans, **amounts(bill.total), "kept_nano_usd": bill.total.kept},
        "rows": [
            {**dict(zip(bill.by, labels, strict=True)), "spans": row.spans, **amounts(row)}
            for labels, row in bill.in_order()
        ],
    }


def as_csv(bill: RepricedBill) -> str:
    """Return the rows as CSV (RFC 4180)."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([*bill.by, "spans", *COLUMNS])
    for labels, row in bill.in_order():
        writer.writerow([*map(inert, labels), row.spans, *amounts(row).values()])
    return out.getvalue()


def notes(bill: RepricedBill) -> Iterator[str]:
    """Return the lines below a repriced bill."""
    total = bill.total
    yield f"From {bill.period.begins.isoformat()} to before {bill.period.ends.isoformat()} ({bill.period.zone.key})."
    if total.error:
        yield (
            f"An estimate, wrong by at most {usd(total.error)} USD: the price of some calls depends on the single call "
            "(its tier, modifiers, rounding), and the ledger has their sums."
        )
    else:
        yield "Exact: every rate that applies is linear in what the ledger has."
    if total.kept:
        yield f"{usd(total.kept)} USD are the same in both: reported or mixed costs, or models that were not named."
