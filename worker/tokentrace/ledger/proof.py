"""Proof: the sum of the ledger against the all-time totals of the state, per group, and the input that both are from.

Workers commit while the proof is made. Their totals and their rollups are in one transaction, so the rollups that the
totals contain are those of the replica's commits up to its last one: what the ledger has not read of these is added.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from tokentrace.alerts.rollup_reader import Rollup, RollupReader
from tokentrace.errors import FatalError
from tokentrace.ledger.cells import CELL_SUMS, columns_of
from tokentrace.ledger.database import Database
from tokentrace.ledger.follow import Tail
from tokentrace.ledger.input_proof import InputAudit, audit_inputs, faults_of
from tokentrace.ledger.query import read_groups
from tokentrace.ledger.store import Position, RollupGap, position_in, read_gaps
from tokentrace.ledger.tables import HOUR_SUMS, HOURS, UNITS
from tokentrace.model.measures import Layout
from tokentrace.model.snapshot import EXPIRED, Group
from tokentrace.model.spans import STATUSES
from tokentrace.state.checksums import require_intact
from tokentrace.state.replica_totals import ReplicaTotals

#: (group, status) -> sum by name.
GroupSums = dict[tuple[Group, str], Counter[str]]
#: Value of a dimension whose totals `tokentrace state forget` has folded.
_FORGOTTEN: Final = "__forgotten__"
_POLL: Final = 100


@dataclass(frozen=True, slots=True)
class LedgerSums:
    """All that a ledger has, at one position."""

    position: Position
    sums: GroupSums


@dataclass(frozen=True, slots=True)
class Proof:
    """ledger, state: the sums. differing: (group, status) -> ledger minus state, of those that differ.

    pending: rollups that the state has and the ledger has not read yet; they are in its sums here.
    inputs: what became of each offset of the input. faults: a sentence for each sum of it that does not come out.
    """

    ledger: Counter[str]
    state: Counter[str]
    expired: Counter[str]
    groups: int
    differing: Mapping[tuple[Group, str], Mapping[str, int]]
    pending: int
    inputs: Sequence[InputAudit]
    faults: Sequence[str]
    rejected: Mapping[str, int]
    gaps: Sequence[RollupGap]

    @property
    def holds(self) -> bool:
        """True if ledger and state agree, and the input adds up."""
        return self.agrees and not self.faults

    @property
    def difference(self) -> dict[str, int]:
        """Return ledger minus state by name, of the sums that differ."""
        return _difference(self.ledger, self.state)

    @property
    def agrees(self) -> bool:
        """True if the sums are equal, and the ledger has of each group at least what the state has of it.

        The state has less of groups that it has folded away: those that expired, or were forgotten.
        """
        return not self.difference and not any(
            number < 0
            for (group, _), sums in self.differing.items()
            if EXPIRED not in group.base and all(value != _FORGOTTEN for _, value in group.dimensions)
            for number in sums.values()
        )


def prove(
    database: Database, tail: Tail, layout: Layout, replicas: Sequence[ReplicaTotals], ledger: LedgerSums
) -> Proof:
    """Compare. replicas: the state, read after `ledger`."""
    state: GroupSums = {}
    for totals in replicas:
        for key, sums in totals.sums.items():
            state.setdefault(key, Counter()).update(sums)
    counted = ledger.sums
    until_us = {totals.replica: round(totals.committed_at_s * 1e6) for totals in replicas}
    pending = 0
    for rollup, groups in _rest(tail, layout, ledger.position):
        if rollup.committed_at_us <= until_us.get(rollup.replica, -1):
            _add(counted, rollup, groups)
            pending += 1
    names = set(CELL_SUMS)
    differing = {}
    for key in {*counted, *state}:
        difference = _difference(counted.get(key, {}), state.get(key, {}), names)
        if difference:
            differing[key] = difference
    inputs = audit_inputs(replicas)
    expired = _total(sums for (group, _), sums in state.items() if EXPIRED in group.base)
    return Proof(
        ledger=_total(counted.values()),
        state=_named(_total(state.values()), names),
        expired=_named(expired, names),
        groups=len({group for group, _ in counted}),
        differing=differing,
        pending=pending,
        inputs=inputs,
        faults=faults_of(inputs, replicas),
        rejected=_total(totals.rejected for totals in replicas),
        gaps=read_gaps(database),
    )


def ledger_sums(database: Database) -> LedgerSums:
    """Return the sums of all hours. Raises FatalError for a ledger that has read nothing."""
    sums: GroupSums = {}
    with database.snapshot() as connection:
        position = position_in(connection)
        if position is None:
            raise FatalError("The ledger has read nothing yet; run `tokentrace ledger run`.")
        groups = read_groups(connection)
        columns = [sa.func.sum(HOURS.c[name]) for name in HOUR_SUMS]
        by = (HOURS.c.group_id, HOURS.c.status)
        for group_id, status, *numbers in connection.execute(sa.select(*by, *columns).group_by(*by)):
            found = {name: int(number) for name, number in zip(HOUR_SUMS, numbers, strict=True) if number}
            sums[groups[group_id], STATUSES[status]] = Counter(found)
        units = (UNITS.c.group_id, UNITS.c.status, UNITS.c.unit)
        for group_id, status, unit, quantity in connection.execute(
            sa.select(*units, sa.func.sum(UNITS.c.quantity)).group_by(*units)
        ):
            sums.setdefault((groups[group_id], STATUSES[status]), Counter())[unit] += int(quantity)
    return LedgerSums(position, sums)


def _rest(tail: Tail, layout: Layout, position: Position) -> Iterator[tuple[Rollup, list[Group]]]:
    """Yield the rollups from the position to the end that the topic has now, with the groups by their numbers."""
    numbers: dict[Group, int] = {}
    reader = RollupReader(layout, columns_of(layout), lambda group: numbers.setdefault(group, len(numbers)))
    _, end = tail.bounds()
    tail.seek(position.next_offset)
    offset = position.next_offset
    # A group that a record brings is numbered while it is read: the list is taken behind it.
    while offset < end:
        for record in tail.poll(_POLL, 0.2):
            offset = record.offset if record.value is None else record.offset + 1
            if record.value is not None:
                require_intact(record.key, record.value, record.headers)
                yield reader.read(record.value, record.headers), list(numbers)


def _add(sums: GroupSums, rollup: Rollup, groups: Sequence[Group]) -> None:
    for group, status, row in zip(
        rollup.groups.tolist(), rollup.statuses.tolist(), rollup.values.tolist(), strict=True
    ):
        cell = sums.setdefault((groups[group], STATUSES[status]), Counter())
        cell.update({name: number for name, number in zip(CELL_SUMS, row, strict=True) if number})


def _total(rows: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row)
    return total


def _named(sums: Mapping[str, int], names: set[str]) -> Counter[str]:
    return Counter({name: number for name, number in sums.items() if name in names})


def _difference(one: Mapping[str, int], other: Mapping[str, int], names: Iterable[str] = CELL_SUMS) -> dict[str, int]:
    found = {name: one.get(name, 0) - other.get(name, 0) for name in names}
    return {name: number for name, number in found.items() if number}
