"""Bills: sums of the ledger over a period, by any labels, as integers. Nothing is rounded here."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa

from tokentrace.errors import UsageError
from tokentrace.ledger.database import Database
from tokentrace.ledger.parts import Part
from tokentrace.ledger.period import CALENDAR, Period
from tokentrace.ledger.store import RollupGap, position_in, read_gaps
from tokentrace.ledger.tables import (
    CORRECTION_CELLS,
    CORRECTIONS,
    GROUPS,
    HOUR_SUMS,
    HOURS,
    LEDGER_SOURCES,
    UNITS,
)
from tokentrace.ledger.within import require_whole, within
from tokentrace.model.snapshot import BASE_LABELS, Group
from tokentrace.model.spans import STATUSES
from tokentrace.pricing.rates import US_PER_DAY

Labels = tuple[str, ...]
#: Labels that are not the group's.
CODES: Final[Mapping[str, Sequence[str]]] = {"status": STATUSES, "source": LEDGER_SOURCES}
BOOKED: Final = "booked"
#: A period is closed at the end of the day (UTC) that follows its last hour; what is booked later has changed it.
CLOSING_DAYS: Final = 1


@dataclass(frozen=True, slots=True)
class Bill:
    """Sums of a period. rows: by label values, in no order. total: of all rows.

    late: booked after the period was closed. corrections: nano-USD that corrections have added; in the rows too.
    committed_at_us: the last commit that the ledger has. gaps: what may be missing.
    """

    period: Period
    by: Labels
    rows: Mapping[Labels, Mapping[str, int]]
    total: Mapping[str, int]
    late: Mapping[str, int]
    corrections: int
    committed_at_us: int
    gaps: Sequence[RollupGap]

    @property
    def subtotals(self) -> dict[Labels, Mapping[str, int]]:
        """Return the sums by the first label."""
        sums: dict[Labels, Counter[str]] = {}
        for labels, row in self.rows.items():
            sums.setdefault(labels[:1], Counter()).update(row)
        return dict(sums)


@dataclass(slots=True)
class _Sums:
    by_label: dict[Labels, Counter[str]] = field(default_factory=dict)

    def add(self, labels: Labels, name: str, number: Any) -> None:
        # PostgreSQL gives a sum as a decimal.
        if number:
            self.by_label.setdefault(labels, Counter())[name] += int(number)


class Billing:
    """Answers from one ledger. as_of: the last booking day that counts, None for all."""

    def __init__(self, database: Database, as_of: int | None = None) -> None:
        self._database = database
        self._as_of = as_of

    def labels(self) -> set[str]:
        """Return the labels of groups: those that every group has, and the dimensions of any."""
        with self._database.snapshot() as connection:
            groups = read_groups(connection)
        return {*BASE_LABELS, *(name for group in groups.values() for name, _ in group.dimensions)}

    def bill(self, period: Period, by: Sequence[str], *, units: bool = False) -> Bill:
        """Sum the period by labels.

        Raises UsageError for a label that no group has, and where the ledger has one sum of what is on both sides of a
        bound.
        """
        with self._database.snapshot() as connection:
            position = position_in(connection)
            groups = read_groups(connection)
            require_known(by, groups.values())
            require_whole(connection, period, self._as_of)
            sums = _Sums()
            names = [name for name in HOUR_SUMS if units or name in ("cost_nano_usd", "spans") or "_tokens" in name]
            columns: list[Any] = [sa.func.sum(HOURS.c[name]) for name in names]
            for key, *numbers in self._select(connection, HOURS, period, by, columns):
                labels = _labels(by, key, groups, period)
                for name, number in zip(names, numbers, strict=True):
                    sums.add(labels, name, number)
            if units:
                columns = [UNITS.c.unit, sa.func.sum(UNITS.c.quantity)]
                for key, unit, quantity in self._select(connection, UNITS, period, by, columns, UNITS.c.unit):
                    sums.add(_labels(by, key, groups, period), unit, quantity)
            corrections = 0
            for key, number in self._corrections(connection, period, by):
                corrections += int(number)
                sums.add(_labels(by, key, groups, period), "cost_nano_usd", number)
            late = self._late(connection, period)
        total: Counter[str] = Counter()
        for row in sums.by_label.values():
            total.update(row)
        return Bill(
            period, tuple(by), sums.by_label, total, late, corrections,
            0 if position is None else position.committed_at_us, self._gaps(period),
        )  # fmt: skip

    def _select(
        self,
        connection: sa.Connection,
        table: sa.Table,
        period: Period,
        by: Sequence[str],
        columns: Sequence[Any],
        *more: Any,
    ) -> Iterable[tuple[Any, ...]]:
        """Yield (key, *columns) for each key: the group, and the other columns that the labels need."""
        keys = {name: table.c[name] for name in _key_columns(by)}
        query = sa.select(*keys.values(), *columns).where(within(table, period)).group_by(*keys.values(), *more)
        if self._as_of is not None:
            query = query.where(table.c.booked <= self._as_of)
        for row in connection.execute(query):
            yield dict(zip(keys, row, strict=False)), *row[len(keys) :]

    def _corrections(
        self, connection: sa.Connection, period: Period, by: Sequence[str]
    ) -> Iterable[tuple[dict[str, int], int]]:
        cells, entries = CORRECTION_CELLS, CORRECTIONS
        booked = entries.c.entered_at_us // US_PER_DAY
        keys: dict[str, Any] = {name: booked if name == BOOKED else cells.c[name] for name in _key_columns(by)}
        query = (
            sa.select(*keys.values(), sa.func.sum(cells.c.cost_nano_usd))
            .join(entries, entries.c.correction_id == cells.c.correction_id)
            .where(within(cells, period))
            .group_by(*keys.values())
        )
        if self._as_of is not None:
            query = query.where(entries.c.entered_at_us < (self._as_of + 1) * US_PER_DAY)
        for row in connection.execute(query):
            yield dict(zip(keys, row, strict=False)), row[-1]

    def _late(self, connection: sa.Connection, period: Period) -> dict[str, int]:
        query = sa.select(sa.func.sum(HOURS.c.cost_nano_usd), sa.func.sum(HOURS.c.spans)).where(
            within(HOURS, period), HOURS.c.booked > closing_day(period)
        )
        if self._as_of is not None:
            query = query.where(HOURS.c.booked <= self._as_of)
        cost, spans = connection.execute(query).one()
        return {"cost_nano_usd": int(cost or 0), "spans": int(spans or 0)}

    def _gaps(self, period: Period) -> list[RollupGap]:
        """Return the gaps that may have had calls of the period: those that end behind its beginning."""
        begins_us = period.start * 60_000_000
        return [gap for gap in read_gaps(self._database) if gap.until_us >= begins_us]


def read_groups(connection: sa.Connection) -> dict[int, Group]:
    """Return the groups by id."""
    columns = GROUPS.c.group_id, GROUPS.c.model, GROUPS.c.provider, GROUPS.c.caller, GROUPS.c.dimensions
    return {
        group_id: Group(model, provider, caller, tuple(sorted(json.loads(dimensions).items())))
        for group_id, model, provider, caller, dimensions in connection.execute(sa.select(*columns))
    }


def closing_day(period: Period) -> int:
    """Return the day (UTC), since the epoch, at whose end a period is closed; see CLOSING_DAYS."""
    return (period.end - 1) // 1440 + CLOSING_DAYS


def _key_columns(by: Sequence[str]) -> list[str]:
    columns = ["group_id", *(name for name in (*CODES, BOOKED) if name in by)]
    return [*columns, *Part._fields] if any(name in CALENDAR for name in by) else columns


def _labels(by: Sequence[str], key: Mapping[str, int], groups: Mapping[int, Group], period: Period) -> Labels:
    group = groups[key["group_id"]]
    return tuple(label_of(name, key, group, period) for name in by)


def label_of(name: str, key: Mapping[str, int], group: Group, period: Period) -> str:
    """Return the value of a label. key: the other columns of the table that it may need."""
    if name in CODES:
        return CODES[name][key[name]]
    if name == BOOKED:
        return f"{datetime.fromtimestamp(key[BOOKED] * 86_400, UTC):%Y-%m-%d}"
    if name in CALENDAR:
        return period.label(name, Part(*(key[column] for column in Part._fields)))
    return group.label(name)


def require_known(by: Sequence[str], groups: Iterable[Group]) -> None:
    """Raises UsageError for a label that is neither known nor a dimension of any group."""
    dimensions = {name for group in groups for name, _ in group.dimensions}
    known = [*BASE_LABELS, *CODES, *CALENDAR, BOOKED, *sorted(dimensions)]
    for name in by:
        if name not in known:
            raise UsageError(f"--by {name} is not a label of the ledger; use any of {', '.join(known)}.")
