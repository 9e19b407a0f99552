"""Records: the topic of the budgets as JSON, which gateways in any language read.

- `["verdict", budget, period, labels]`: one group in one period, its sum and its verdict.
- `["budget", name]`: what a budget sums, since when, and how many verdicts it has.
- `["position"]`: the offset of the rollups up to which all of them are, and the event time.

Amounts are exact decimals as text. Fields may be added; a change that older readers would misread gets a new `version`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from tokentrace.budgets.budget import Budget, Labels, group_of, nano_usd, usd
from tokentrace.budgets.calendar import Period
from tokentrace.budgets.spending import Account, Counters, Spending
from tokentrace.errors import UnreadableRecord
from tokentrace.model.text import utc_text

VERSION: Final = 1

#: Key and value; None is a tombstone.
TopicRecord = tuple[bytes, bytes | None]
Key = tuple[str, ...]


def verdict_key(budget: str, period: str, labels: Labels) -> bytes:
    """Return the key of a verdict."""
    return _json(["verdict", budget, period, [*labels]])


def verdict_record(spending: Spending, account: Account, now: int | None) -> TopicRecord:
    """Return the verdict on an account. now: the minute before which everything is counted."""
    budget, period = spending.budget, account.period
    known_from = spending.known_from()
    record = {
        "version": VERSION,
        "budget": budget.name,
        "group": group_of(budget.group_by, account.labels),
        "period": period.name,
        "starts_at": _text(period.start),
        "ends_at": _text(period.end),
        "verdict": account.verdict,
        "spent_usd": usd(account.spent_nano_usd),
        "limit_usd": usd(account.limit_nano_usd),
        "reached_percent": [*account.reached],
        "spans": account.spans,
        "since": _text(known_from) if known_from > period.start else None,
        "as_of": None if now is None else _text(now),
    }
    return verdict_key(budget.name, period.name, account.labels), _json(record)


def account_of(budget: Budget, record: Mapping[str, Any]) -> Account:
    """Return the account that a verdict is on. Raises KeyError or ValueError for a record that is none."""
    return Account(
        Period(record["period"], _minute(record["starts_at"]), _minute(record["ends_at"])),
        tuple(record["group"][name] for name in budget.group_by),
        nano_usd(record["limit_usd"]),
        nano_usd(record["spent_usd"]),
        record["spans"],
        tuple(record["reached_percent"]),
    )


def goes_on(record: Mapping[str, Any], now_s: float) -> bool:
    """Return whether the period of a verdict contains this Unix time."""
    return _minute(record["starts_at"]) <= now_s // 60 < _minute(record["ends_at"])


def budget_key(name: str) -> bytes:
    """Return the key of a budget's own record."""
    return _json(["budget", name])


def budget_record(spending: Spending) -> TopicRecord:
    """Return what a budget sums, and how many verdicts it has: with fewer of them its sums would be too low."""
    record = {
        "version": VERSION,
        "subject": spending.budget.subject,
        "since_us": spending.since_us,
        "verdicts": len(spending),
        **asdict(spending.counters),
    }
    return budget_key(spending.budget.name), _json(record)


def spending_of(budget: Budget, record: Mapping[str, Any]) -> Spending:
    """Return a budget as its record has it, without accounts. Raises KeyError for a record that is none."""
    counters = {name: record[name] for name in asdict(Counters())}
    return Spending(budget, since_us=record["since_us"], counters=Counters(**counters))


def position_record(offset: int, replica: str, now: int | None) -> TopicRecord:
    """Return the position. replica: that wrote it. now: as for a verdict, of all of them, changed or not."""
    record = {"version": VERSION, "offset": offset, "replica": replica, "as_of": None if now is None else _text(now)}
    return _json(["position"]), _json(record)


def parse_key(key: bytes | None) -> tuple[str, ...] | None:
    """Return a key's kind and its texts, the labels as JSON; None for a key that is not one of this topic."""
    try:
        parts = json.loads(key or b"")
    except ValueError:
        return None
    if not isinstance(parts, list) or len(parts) != _PARTS.get(parts[0] if parts else None):
        return None
    return tuple(part if isinstance(part, str) else json.dumps(part) for part in parts)


_PARTS: Final[Mapping[Any, int]] = {"verdict": 4, "budget": 2, "position": 1}


def parse_value(value: bytes) -> dict[str, Any]:
    """Return a record. Raises UnreadableRecord for what is none of this version."""
    try:
        record = json.loads(value)
        version = record["version"]
    except (ValueError, TypeError, KeyError) as error:
        raise UnreadableRecord(f"A record of a budget is damaged ({error!r}).") from error
    if version != VERSION:
        raise UnreadableRecord(
            f"A record of a budget has version {version!r}, and this release reads version {VERSION}. Run at least the "
            "release that wrote it."
        )
    return dict(record)


#: Made once: `json.dumps` makes one at every call.
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


def _json(value: object) -> bytes:
    return _ENCODER.encode(value).encode()


@lru_cache(maxsize=1000)
def _text(minute: int) -> str:
    return utc_text(minute * 60.0)


def _minute(text: str) -> int:
    return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()) // 60
