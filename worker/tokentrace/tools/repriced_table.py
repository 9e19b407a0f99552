"""Table of a repriced bill, for `tokentrace bill --reprice` and `--what-if`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich import box
from rich.table import Table
from rich.text import Text

from tokentrace.ledger.formats import usd
from tokentrace.ledger.reprice import Repriced
from tokentrace.ledger.repriced_formats import RepricedBill, amounts
from tokentrace.model.text import printable

_TITLES: Final = ("spans", "billed USD", "repriced USD", "difference USD", "wrong by at most USD")


def repriced_table(bill: RepricedBill, limit: int | None = None) -> Table:
    """Return the table, the largest amounts first."""
    shown = Table(box=box.SIMPLE_HEAD)
    for name in bill.by:
        shown.add_column(name)
    for title in _TITLES:
        shown.add_column(title, justify="right")

    def add(labels: Sequence[str], row: Repriced, style: str | None = None) -> None:
        # A Text, since rich interprets markup in a string.
        cells = [Text(printable(label)) for label in labels]
        shown.add_row(*cells, f"{row.spans:,}", *map(usd, amounts(row).values()), style=style)

    rows = bill.in_order()
    for labels, row in rows[:limit]:
        add(labels, row)
    if limit is not None and len(rows) > limit:
        shown.add_row(f"... {len(rows) - limit:,} more", style="dim")
    shown.add_section()
    add(["all", *[""] * (len(bill.by) - 1)], bill.total, "bold")
    return shown
