"""Within: the rows of a period, as conditions of SQL, and the refusal of a period that cuts a row in two."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import sqlalchemy as sa

from tokentrace.errors import UsageError
from tokentrace.ledger.parts import Part
from tokentrace.ledger.period import Period, summed, way_out
from tokentrace.ledger.tables import CORRECTION_CELLS, HOURS


def within(table: sa.Table, period: Period) -> sa.ColumnElement[bool]:
    """Return what selects the rows that begin in a period. The primary key begins with the hour, which is named."""
    hour, minute = divmod(period.start, 60)
    conditions = [table.c.hour >= hour]
    if minute:
        conditions.append(sa.or_(table.c.hour > hour, table.c.from_minute >= minute))
    hour, minute = divmod(period.end, 60)
    if minute:
        conditions += [table.c.hour <= hour, sa.or_(table.c.hour < hour, table.c.from_minute < minute)]
    else:
        conditions.append(table.c.hour < hour)
    return sa.and_(*conditions)


def require_whole(connection: sa.Connection, period: Period, as_of: int | None) -> None:
    """Raises UsageError where a row begins before a bound of the period and ends behind it. as_of: as in `Billing`."""
    for verb, bound in (("begins", period.start), ("ends", period.end)):
        hour, minute = divmod(bound, 60)
        for table in (HOURS, CORRECTION_CELLS) if minute else ():
            part = sa.select(table.c.hour, table.c.from_minute, table.c.until_minute)
            query = part.where(table.c.hour == hour, table.c.from_minute < minute, table.c.until_minute > minute)
            if as_of is not None and table is HOURS:
                query = query.where(table.c.booked <= as_of)
            cut = connection.execute(query.limit(1)).first()
            if cut is not None:
                raise UsageError(f"{_where(Part(*cut), verb, bound, period.zone)} {way_out(period.zone, days=False)}")


def _where(part: Part, verb: str, bound: int, zone: ZoneInfo) -> str:
    return f"{summed(part)}, and the period {verb} at {Period(bound, bound, zone).begins:%Y-%m-%d %H:%M} of {zone.key}."
