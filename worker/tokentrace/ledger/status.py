"""Status of a ledger: its position, the hours and groups that it has, and what it lacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from tokentrace.errors import UsageError
from tokentrace.ledger.database import Database
from tokentrace.ledger.gaps import describe
from tokentrace.ledger.store import Position, RollupGap, read_gaps, read_position
from tokentrace.ledger.tables import GROUPS, HOURS


@dataclass(frozen=True, slots=True)
class LedgerStatus:
    """cells: rows of hours. first_hour, last_hour: hours since the epoch, None without any."""

    position: Position
    groups: int
    cells: int
    first_hour: int | None
    last_hour: int | None
    gaps: list[RollupGap]

    def as_json(self) -> dict[str, Any]:
        """Return the status as a JSON object."""
        return {
            "topic": self.position.topic,
            "first_offset": self.position.first_offset,
            "next_offset": self.position.next_offset,
            "committed_at": _moment(self.position.committed_at_us),
            "groups": self.groups,
            "cells": self.cells,
            "first_hour": _hour(self.first_hour),
            "last_hour": _hour(self.last_hour),
            "gaps": [gap.as_json() for gap in self.gaps],
        }

    def lines(self) -> Iterator[str]:
        """Return the status as lines of text."""
        position = self.position
        yield f"Topic     {position.topic}, offsets {position.first_offset} to {position.next_offset}"
        yield f"Until     {_moment(position.committed_at_us) or 'nothing yet'}, the last commit that is in the ledger"
        yield f"Groups    {self.groups:,}"
        yield f"Cells     {self.cells:,}, of the hours from {_hour(self.first_hour)} to {_hour(self.last_hour)}"
        for gap in self.gaps:
            yield f"Gap       {describe(gap, position.topic)}"


def status_of(database: Database) -> LedgerStatus:
    """Return the status. Raises UsageError for a ledger that has read nothing yet."""
    position = read_position(database)
    if position is None:
        raise UsageError("The ledger has read nothing yet; run `tokentrace ledger run`.")
    with database.begin() as connection:
        groups = connection.execute(sa.select(sa.func.count()).select_from(GROUPS)).scalar_one()
        hours = sa.select(sa.func.count(), sa.func.min(HOURS.c.hour), sa.func.max(HOURS.c.hour))
        cells, first, last = connection.execute(hours).one()
    return LedgerStatus(position, groups, cells, first, last, read_gaps(database))


def _moment(time_us: int) -> str | None:
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat() if time_us else None


def _hour(hour: int | None) -> str | None:
    return None if hour is None else f"{datetime.fromtimestamp(hour * 3600, UTC):%Y-%m-%d %H}:00 UTC"
