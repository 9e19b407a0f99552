"""Section `ledger`: the database with the hours that bills are made of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, PlainSerializer, StrictBool, model_validator

from tokentrace.config.fields import ListenAddress, TimeZone
from tokentrace.config.section import Section, located
from tokentrace.model.secrets import public_url

_SQLITE: Final = "sqlite:///"
#: The ledger unless it is set, relative to the configuration.
DEFAULT_URL: Final = f"{_SQLITE}tokentrace-ledger.db"


def _database_url(value: str) -> str:
    if not value.startswith((_SQLITE, "postgresql://", "postgresql+psycopg://")):
        other = value.startswith(("postgres://", "jdbc:postgresql://"))
        hint = "; write postgresql:// at its beginning" if other else ""
        if found := re.fullmatch(r"(?:sqlite:/{1,2})?([\w./-]+\.(?:db|sqlite3?))", value):
            hint = f"; write {_SQLITE}{found[1]}"
        raise ValueError(f"must be sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE{hint}")
    if value.startswith(_SQLITE):
        if not value.removeprefix(_SQLITE).partition("?")[0].strip("/"):
            raise ValueError("names no file; write sqlite:///FILE")
        return value
    where = value.partition("://")[2]
    if where.count("@") > 1 or "/" in where.rpartition("@")[0]:
        raise ValueError("has a user name or password with @ or / in it; write %40 for @ and %2F for /")
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("is not a valid URL; its port must be a number from 0 to 65535") from None
    if not host and "host=" not in parts.query:
        raise ValueError("names no host; write postgresql://USER:PASSWORD@HOST/DATABASE")
    if not parts.path.strip("/"):
        raise ValueError("names no database; write postgresql://USER:PASSWORD@HOST/DATABASE")
    return value


def _public(url: str) -> str:
    return url if url.startswith(_SQLITE) else public_url(url)


DatabaseUrl = Annotated[str, AfterValidator(_database_url), PlainSerializer(_public)]


class Ledger(Section):
    """Hours of every group in a SQL database, for `tokentrace ledger`, `tokentrace bill` and the live page."""

    url: DatabaseUrl | None = None
    """Database: sqlite:///FILE, or postgresql://USER:PASSWORD@HOST/DATABASE; the file tokentrace-ledger.db beside the
    configuration if unset."""
    in_worker: StrictBool = False
    """Keep the ledger in one of the workers, in place of `tokentrace ledger run`; requires url, a database that all of
    them reach."""
    zones: tuple[TimeZone, ...] = ()
    """Time zones whose days can be billed although they do not begin on whole hours of UTC, such as Asia/Kolkata; also
    those of the budgets. Months can be billed in all zones."""
    addr: ListenAddress | None = None
    """Listen address of `tokentrace ledger run` for its metrics and health, `host:port` or `:port`; none if unset. The
    paths, tokens and TLS are those of http_server."""

    @model_validator(mode="after")
    def _shared(self) -> Ledger:
        if self.in_worker and self.url is None:
            raise located((("url",), "is required by in_worker: the database that all workers reach"))
        return self


def absolute_url(url: str | None, folder: Path) -> str | None:
    """Return the URL with the file of SQLite relative to a folder."""
    if url is None or not url.startswith(_SQLITE):
        return url
    file, mark, query = url.removeprefix(_SQLITE).partition("?")
    return f"{_SQLITE}{folder / file}{mark}{query}"
