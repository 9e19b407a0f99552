"""Cells of a period: what the ledger knows of each part, group, status and source, for prices that are found again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from tokentrace.errors import UsageError
from tokentrace.ledger.database import Database
from tokentrace.ledger.parts import Part
from tokentrace.ledger.period import Period
from tokentrace.ledger.query import BOOKED, Labels, label_of, read_groups, require_known
from tokentrace.ledger.tables import (
    CORRECTION_CELLS,
    CORRECTIONS,
    HOUR_SUMS,
    HOURS,
    LEDGER_SOURCES,
    UNITS,
)
from tokentrace.ledger.within import require_whole, within
from tokentrace.model.snapshot import Group
from tokentrace.model.spans import STATUSES
from tokentrace.pricing.rates import US_PER_DAY


class CellKey(NamedTuple):
    """Key of a cell in the tables, whatever the day on which it was booked."""

    hour: int
    group_id: int
    status: int
    source: int
    from_minute: int = 0
    until_minute: int = 60


class Cell(NamedTuple):
    """One cell. sums: by name. corrected: nano-USD that corrections have added."""

    key: CellKey
    group: Group
    sums: Mapping[str, int]
    corrected: int

    @property
    def part(self) -> Part:
        """The hour, or the part of one."""
        return Part(self.key.hour, self.key.from_minute, self.key.until_minute)

    @property
    def status(self) -> str:
        """The status, as a word."""
        return STATUSES[self.key.status]

    @property
    def source(self) -> str:
        """The source of its cost, as a word."""
        return LEDGER_SOURCES[self.key.source]


def cells_in(
    database: Database, period: Period, by: Sequence[str] = (), as_of: int | None = None
) -> Iterator[tuple[Labels, Cell]]:
    """Yield the cells of a period with their labels. as_of: as in `Billing`.

    Where a rebuild has cut an hour in another way, the corrections of its earlier parts are cells of their own. Raises
    UsageError as `Billing.bill` does, and for the booking day, since a cell is here once.
    """
    if BOOKED in by:
        raise UsageError("Calls at other prices cannot be summed by booking day.")
    with database.snapshot() as connection:
        groups = read_groups(connection)
        require_known(by, groups.values())
        require_whole(connection, period, as_of)
        units = _units(connection, period, as_of)
        corrected = _corrected(connection, period, as_of)
        columns = [sa.func.sum(HOURS.c[name]) for name in HOUR_SUMS]
        for key, *numbers in _select(connection, HOURS, period, as_of, columns):
            found = {name: int(number) for name, number in zip(HOUR_SUMS, numbers, strict=True)}
            sums = Counter(found | units.get(key, {}))
            yield _labelled(by, Cell(key, groups[key.group_id], sums, corrected.pop(key, 0)), period)
        for key, nano_usd in corrected.items():
            yield _labelled(by, Cell(key, groups[key.group_id], Counter(), nano_usd), period)


def _labelled(by: Sequence[str], cell: Cell, period: Period) -> tuple[Labels, Cell]:
    return tuple(label_of(name, cell.key._asdict(), cell.group, period) for name in by), cell


def _select(
    connection: sa.Connection, table: sa.Table, period: Period, as_of: int | None, columns: Sequence[Any], *more: Any
) -> Iterator[tuple[Any, ...]]:
    keys = [table.c[name] for name in CellKey._fields]
    query = sa.select(*keys, *columns).where(within(table, period)).group_by(*keys, *more)
    if as_of is not None:
        query = query.where(table.c.booked <= as_of)
    for row in connection.execution_options(yield_per=10_000).execute(query):
        yield CellKey(*row[: len(keys)]), *row[len(keys) :]


def _units(connection: sa.Connection, period: Period, as_of: int | None) -> dict[CellKey, dict[str, int]]:
    found: dict[CellKey, dict[str, int]] = {}
    columns = [UNITS.c.unit, sa.func.sum(UNITS.c.quantity)]
    for key, unit, quantity in _select(connection, UNITS, period, as_of, columns, UNITS.c.unit):
        found.setdefault(key, {})[unit] = int(quantity)
    return found


def _corrected(connection: sa.Connection, period: Period, as_of: int | None) -> dict[CellKey, int]:
    cells = CORRECTION_CELLS
    keys = [cells.c[name] for name in CellKey._fields]
    query = (
        sa.select(*keys, sa.func.sum(cells.c.cost_nano_usd))
        .join(CORRECTIONS, CORRECTIONS.c.correction_id == cells.c.correction_id)
        .where(within(cells, period))
        .group_by(*keys)
    )
    if as_of is not None:
        query = query.where(CORRECTIONS.c.entered_at_us < (as_of + 1) * US_PER_DAY)
    return {CellKey(*row[:-1]): int(row[-1]) for row in connection.execute(query)}
