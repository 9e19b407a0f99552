"""Corrections: the difference between a bill and the same calls at other prices, as a dated entry that adds to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import sqlalchemy as sa

from tokentrace.errors import UsageError
from tokentrace.ledger.database import Database
from tokentrace.ledger.period import Period
from tokentrace.ledger.period_cells import Cell, CellKey
from tokentrace.ledger.reprice import Repricing
from tokentrace.ledger.tables import CORRECTION_CELLS, CORRECTIONS

_TOGETHER: Final = 5000
_MINUTE_US: Final = 60_000_000


class Correction(NamedTuple):
    """A correction. cells: key -> nano-USD to add, without zeros. error: by how much the sum is wrong at most."""

    cells: dict[CellKey, int]
    spans: int
    error: int

    @property
    def cost_nano_usd(self) -> int:
        """Return the sum of all cells."""
        return sum(self.cells.values())


def correction_of(cells: Iterable[Cell], repricing: Repricing) -> Correction:
    """Return what makes the bill that of the other prices. Entered twice, the second one has no cells."""
    found: dict[CellKey, int] = {}
    spans = error = 0
    for cell in cells:
        one = repricing.reprice(cell)
        if difference := one.amount.likely - one.billed:
            found[cell.key] = difference
            spans += one.spans
            error += one.error
    return Correction(found, spans, error)


def enter(database: Database, correction: Correction, period: Period, reason: str, prices: str, now_us: int) -> int:
    """Write a correction. Return its number. Raises UsageError for one without cells.

    reason, prices: why, and by which prices, in words.
    """
    if not correction.cells:
        raise UsageError("There is nothing to correct: the bill of the period is that of these prices.")
    with database.begin() as connection:
        last = connection.execute(sa.select(sa.func.coalesce(sa.func.max(CORRECTIONS.c.correction_id), 0)))
        number = int(last.scalar_one()) + 1
        times = {"from_us": period.start * _MINUTE_US, "until_us": period.end * _MINUTE_US, "entered_at_us": now_us}
        entry = {**times, "reason": reason, "prices": prices}
        connection.execute(CORRECTIONS.insert().values(correction_id=number, **entry))
        rows = [
            {"correction_id": number, **key._asdict(), "cost_nano_usd": cost} for key, cost in correction.cells.items()
        ]
        for first in range(0, len(rows), _TOGETHER):
            connection.execute(CORRECTION_CELLS.insert(), rows[first : first + _TOGETHER])
    return number
