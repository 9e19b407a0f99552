"""Store: adds cells to the database, together with the position behind the rollups that they are from.

The position is changed first, and only from what this process knows it to be, so that of two ledgers on one database
one is refused. A transaction whose answer is lost is either whole or not there: the position, read again, tells.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import sqlalchemy as sa

from tokentrace.errors import FatalError
from tokentrace.ledger.cells import Cells
from tokentrace.ledger.database import Database
from tokentrace.ledger.tables import GAPS, GROUPS, HOUR_SUMS, HOURS, POSITION, UNIT_SUMS, UNITS
from tokentrace.ledger.upsert import Upsert
from tokentrace.model.arrays import Ints
from tokentrace.model.snapshot import BASE_LABELS, Group

#: Identities of one query.
_TOGETHER: Final = 500


class Position(NamedTuple):
    """The ledger's position in the rollups; see `tables.POSITION`."""

    topic: str
    topic_id: str
    first_offset: int
    next_offset: int
    committed_at_us: int


@dataclass(frozen=True, slots=True)
class RollupGap:
    """Rollups that are not in the ledger; see `tables.GAPS`."""

    topic_id: str
    first_offset: int
    next_offset: int
    from_us: int
    until_us: int
    reason: str

    def as_json(self) -> dict[str, Any]:
        """Return what programs are told of it."""
        return {"first_offset": self.first_offset, "next_offset": self.next_offset, "reason": self.reason}


def identity(group: Group) -> str:
    """Return what tells a group from every other: a hash, since databases do not index texts of any length."""
    return hashlib.sha256(json.dumps([*group.base, group.dimensions]).encode()).hexdigest()


class LedgerStore:
    """The one writer of a ledger. `groups` grows with the numbers that the reader of rollups gives."""

    def __init__(self, database: Database, groups: Sequence[Group]) -> None:
        self._database = database
        self._groups = groups
        self._ids: dict[int, int] = {}
        self._hours = Upsert(HOURS, database.dialect)
        self._units = Upsert(UNITS, database.dialect)

    def position(self) -> Position | None:
        """Return the position, None before the first transaction."""
        return read_position(self._database)

    def begin(self, position: Position, gap: RollupGap | None, now_us: int) -> None:
        """Store the position of a new ledger, and what it begins behind."""
        with self._database.begin() as connection:
            connection.execute(POSITION.insert().values(position._asdict()))
            if gap is not None:
                connection.execute(GAPS.insert().values(_gap_row(gap, now_us)))

    def apply(self, cells: Cells | None, before: Position, after: Position) -> None:
        """Add cells, and move the position. Raises FatalError where another ledger has moved it."""
        with self._database.begin() as connection:
            _move(connection, before, after)
            new = self._add(connection, cells) if cells is not None and len(cells.keys) else {}
        self._ids |= new

    def accept(self, gap: RollupGap, before: Position, after: Position, now_us: int) -> None:
        """Record a gap, and move the position behind it."""
        with self._database.begin() as connection:
            _move(connection, before, after)
            connection.execute(GAPS.insert().values(_gap_row(gap, now_us)))

    def clear(self, before: Position, after: Position) -> None:
        """Remove all hours, to fill them again from `after`. Corrections stay; gaps of the log are found again."""
        with self._database.begin() as connection:
            _move(connection, before, after)
            for table in (HOURS, UNITS):
                connection.execute(table.delete())
            connection.execute(GAPS.delete().where(GAPS.c.first_offset >= after.next_offset))

    # -- rows --------------------------------------------------------------------------------------------------------

    def _add(self, connection: sa.Connection, cells: Cells) -> Mapping[int, int]:
        """Add the cells. Return number -> id of groups that were not known before."""
        numbers = cells.keys[:, 1]
        new = self._new_ids(connection, [number for number in np.unique(numbers).tolist() if number not in self._ids])
        ids = self._ids | new
        keys = cells.keys.copy()
        keys[:, 1] = [ids[number] for number in numbers.tolist()]
        hours = np.concatenate([keys, cells.values[:, : len(HOUR_SUMS)]], axis=1)
        self._hours.run(connection, list(zip(*hours.T.tolist(), strict=True)))
        self._units.run(connection, list(_unit_rows(keys, cells.values)))
        return new

    def _new_ids(self, connection: sa.Connection, numbers: Sequence[int]) -> dict[int, int]:
        """Return number -> id. Groups that the database does not have are inserted."""
        number_of = {identity(self._groups[number]): number for number in numbers}
        identities = list(number_of)
        ids: dict[int, int] = {}
        for first in range(0, len(identities), _TOGETHER):
            some = GROUPS.c.identity.in_(identities[first : first + _TOGETHER])
            found = connection.execute(sa.select(GROUPS.c.identity, GROUPS.c.group_id).where(some))
            ids |= {number_of[key]: group_id for key, group_id in found}
        missing = [number for number in numbers if number not in ids]
        if missing:
            last = connection.execute(sa.select(sa.func.coalesce(sa.func.max(GROUPS.c.group_id), 0))).scalar_one()
            ids |= {number: last + place for place, number in enumerate(missing, 1)}
            rows = [_group_row(ids[number], self._groups[number]) for number in missing]
            connection.execute(GROUPS.insert(), rows)
        return ids


def read_position(database: Database) -> Position | None:
    """Return the ledger's position, None before its first transaction."""
    with database.begin() as connection:
        return position_in(connection)


def position_in(connection: sa.Connection) -> Position | None:
    """Return the ledger's position within a transaction."""
    row = connection.execute(sa.select(POSITION)).one_or_none()
    return None if row is None else Position(*row)


def read_gaps(database: Database) -> list[RollupGap]:
    """Return the gaps in the order of their time."""
    columns = [column for column in GAPS.columns if column.name != "accepted_at_us"]
    with database.begin() as connection:
        return [RollupGap(*row) for row in connection.execute(sa.select(*columns).order_by(GAPS.c.until_us))]


def _move(connection: sa.Connection, before: Position, after: Position) -> None:
    unmoved = sa.and_(
        POSITION.c.topic == before.topic,
        POSITION.c.topic_id == before.topic_id,
        POSITION.c.next_offset == before.next_offset,
    )
    moved = connection.execute(POSITION.update().where(unmoved).values(after._asdict()))
    if moved.rowcount != 1:
        raise FatalError("Another process has written to this ledger. Run one `tokentrace ledger run` for a database.")


def _unit_rows(keys: Ints, values: Ints) -> list[tuple[Any, ...]]:
    rare = values[:, len(HOUR_SUMS) :]
    rows, columns = np.nonzero(rare)
    return [
        (*key, UNIT_SUMS[column], quantity)
        for key, column, quantity in zip(
            keys[rows].tolist(), columns.tolist(), rare[rows, columns].tolist(), strict=True
        )
    ]


def _group_row(group_id: int, group: Group) -> dict[str, Any]:
    # PostgreSQL has no text with a NUL; the identity tells such groups apart.
    labels = {name: group.label(name).replace("\0", "\ufffd") for name in BASE_LABELS}
    dimensions = json.dumps(dict(group.dimensions), ensure_ascii=False, sort_keys=True)
    return {"group_id": group_id, "identity": identity(group), **labels, "dimensions": dimensions}


def _gap_row(gap: RollupGap, now_us: int) -> dict[str, Any]:
    return {**{name: getattr(gap, name) for name in RollupGap.__slots__}, "accepted_at_us": now_us}
