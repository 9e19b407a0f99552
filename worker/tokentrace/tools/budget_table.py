"""Table of the verdicts on budgets, for `tokentrace budgets list`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from rich import box
from rich.table import Table
from rich.text import Text

from tokentrace.model.text import printable

Verdict = Mapping[str, Any]

_STYLES: Final = {"exceeded": "bold red", "warning": "yellow"}


def in_order(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Return the verdicts on one budget: the last period first, and in it the group that has spent most."""
    by_share = sorted(verdicts, key=_share, reverse=True)
    return sorted(by_share, key=lambda verdict: str(verdict["starts_at"]), reverse=True)


def table(verdicts: Sequence[Verdict]) -> Table:
    """Return the table. Amounts are exact."""
    incomplete = any(verdict["since"] for verdict in verdicts)
    shown = Table(box=box.SIMPLE_HEAD)
    for title in ("budget", "period", "group"):
        shown.add_column(title)
    for title in ("spent USD", "limit USD", "%"):
        shown.add_column(title, justify="right")
    shown.add_column("verdict")
    if incomplete:
        shown.add_column("counted since")
    for verdict in verdicts:
        group = " ".join(f"{name}={value}" for name, value in verdict["group"].items())
        # A Text, since rich interprets markup in a string.
        cells = [Text(printable(text)) for text in (verdict["budget"], verdict["period"], group)]
        figures = verdict["spent_usd"], verdict["limit_usd"], f"{_share(verdict):.1%}".removesuffix("%")
        style = _STYLES.get(verdict["verdict"])
        shown.add_row(
            *cells, *figures, verdict["verdict"], *([verdict["since"] or ""] if incomplete else []), style=style
        )
    return shown


def _share(verdict: Verdict) -> Decimal:
    return Decimal(verdict["spent_usd"]) / Decimal(verdict["limit_usd"])
