"""Upserts: rows of integers that are added to those of a table, in one statement of the database's own kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.base import PGDialect

#: Rows of one statement of PostgreSQL.
_TOGETHER: Final = 10_000


class Upsert:
    """Adds rows to a table: one whose key is there gains the other columns, one whose key is not is inserted."""

    def __init__(self, table: sa.Table, dialect: str) -> None:
        keys = [column.name for column in table.primary_key]
        columns = [column.name for column in table.columns]
        sums = ", ".join(f"{name} = {table.name}.{name} + excluded.{name}" for name in columns if name not in keys)
        self._arrays = dialect == "postgresql"
        if self._arrays:
            types = [column.type.compile(PGDialect()) for column in table.columns]  # type: ignore[no-untyped-call]
            rows = f"SELECT * FROM unnest({', '.join(f'%s::{kind}[]' for kind in types)})"
        else:
            rows = f"VALUES ({', '.join('?' * len(columns))})"
        self._statement = (
            f"INSERT INTO {table.name} ({', '.join(columns)}) {rows}"
            f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {sums}"
        )

    def run(self, connection: sa.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Add the rows, whose keys are distinct. Each has the table's columns in their order."""
        if not rows:
            return
        if not self._arrays:
            connection.exec_driver_sql(self._statement, list(rows))
            return
        for first in range(0, len(rows), _TOGETHER):
            columns = tuple(list(column) for column in zip(*rows[first : first + _TOGETHER], strict=True))
            connection.exec_driver_sql(self._statement, columns)
