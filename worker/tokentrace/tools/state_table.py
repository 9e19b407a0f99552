"""Table of the durable totals, for `tokentrace state show`: rows by labels, subtotals of the first label, units."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from rich import box
from rich.table import Table
from rich.text import Text

from tokentrace.model.measures import UNIT_OF
from tokentrace.model.text import printable

Labels = tuple[str, ...]
Sums = Mapping[str, int]
Row = tuple[Labels, Sums]

#: Sums that every table shows -> the column's title.
_COLUMNS: Final = {
    "spans": "spans",
    "cost_nano_usd": "cost USD",
    "prompt_tokens": "prompt tokens",
    "cached_prompt_tokens": "cached",
    "completion_tokens": "completion tokens",
}

_KEYS: Final[Mapping[str, Callable[[Row], Any]]] = {
    "cost": lambda row: -row[1].get("cost_nano_usd", 0),
    "spans": lambda row: -row[1].get("spans", 0),
    "tokens": lambda row: -row[1].get("prompt_tokens", 0) - row[1].get("completion_tokens", 0),
    "name": lambda row: row[0],
}


def in_order(sums: Mapping[Labels, Sums], by: str) -> list[Row]:
    """Return the rows by cost, spans, tokens or name; equal ones by name."""
    return sorted(sorted(sums.items(), key=_KEYS["name"]), key=_KEYS[by])


def table(
    by: Sequence[str],
    rows: Sequence[Row],
    subtotals: Mapping[Labels, Sums],
    total: Sums,
    *,
    units: bool = False,
    limit: int | None = None,
) -> Table:
    """Return the table. subtotals: value of the first label -> sums, empty for none; they order the rows too."""
    columns = dict(_COLUMNS)
    if units:
        columns |= {name: unit.name for name, unit in UNIT_OF.items() if total.get(name) and name not in columns}
    shown = Table(box=box.SIMPLE_HEAD)
    for name in by:
        shown.add_column(name)
    for title in columns.values():
        shown.add_column(title, justify="right")

    def add(labels: Sequence[str], sums: Sums, style: str | None = None) -> None:
        # A Text, since rich interprets markup in a string.
        cells = [Text(printable(label)) for label in labels]
        shown.add_row(*cells, *(_figure(name, sums.get(name, 0)) for name in columns), style=style)

    kept = rows[:limit]
    first = list(dict.fromkeys(labels[0] for labels, _ in kept)) if subtotals else []
    if subtotals:
        kept = sorted(kept, key=lambda row: first.index(row[0][0]))
    for position, (labels, sums) in enumerate(kept):
        add(labels, sums)
        ends = position + 1 == len(kept) or kept[position + 1][0][0] != labels[0]
        if subtotals and ends and sum(other[0] == labels[0] for other, _ in rows) > 1:
            add([labels[0], "all", *[""] * (len(by) - 2)], subtotals[labels[:1]], "bold")
    if len(rows) > len(kept):
        shown.add_row(f"... {len(rows) - len(kept):,} more", style="dim")
    shown.add_section()
    add(["all", *[""] * (len(by) - 1)], total, "bold")
    return shown


def _figure(name: str, value: int) -> str:
    """Return an exact figure: USD to the nano-dollar, a unit in its own quantity."""
    scale = 10**9 if name == "cost_nano_usd" else UNIT_OF[name].scale if name in UNIT_OF else 1
    if scale == 1:
        return f"{value:,}"
    return f"{value // scale:,}.{value % scale:0{len(str(scale)) - 1}d}"
