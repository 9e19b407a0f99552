"""A PostgreSQL for the tests of the ledger."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.conftest import unavailable
from tests.services import Unavailable
from tests.services.postgresql import PostgreSql


@pytest.fixture(scope="session")
def _postgresql_or_reason(real_service: None) -> Iterator[PostgreSql | str]:
    try:
        server = PostgreSql()
    except Unavailable as error:
        yield str(error)
        return
    server.start()
    yield server
    server.close()


@pytest.fixture
def postgresql(_postgresql_or_reason: PostgreSql | str) -> PostgreSql:
    """A real PostgreSQL with an empty database."""
    if isinstance(_postgresql_or_reason, str):
        unavailable(_postgresql_or_reason)
    with psycopg.connect(_postgresql_or_reason.url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return _postgresql_or_reason
