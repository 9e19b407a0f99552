"""Budget store: the content of the budgets' topic, which the next evaluator continues from.

Its records are written in one transaction with the evaluator's position, so a reader has all of a position or nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tokentrace.budgets.records import Key, parse_key, parse_value
from tokentrace.errors import UnreadableRecord
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.reader import TopicReader
from tokentrace.state.checksums import require_intact
from tokentrace.state.headers import Headers
from tokentrace.state.unreadable import RecordPlace

log = logging.getLogger(__name__)


@dataclass(slots=True)
class BudgetStore:
    """Records by key. position: the next rollup to sum up, None before the first.

    unreadable: keys whose last record could not be read; they count as absent.
    """

    position: int | None = None
    budgets: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    #: By budget and key.
    verdicts: dict[str, dict[bytes, Mapping[str, Any]]] = field(default_factory=dict)
    unreadable: int = 0

    @classmethod
    def read(cls, clients: KafkaClients, topic: str, group_id: str) -> BudgetStore:
        """Read what is committed now; a record that cannot be read is logged, and its budget begins again.

        Raises FatalError if the topic cannot be read.
        """
        store = cls()
        unreadable: dict[bytes | None, str] = {}
        for message in TopicReader(clients, topic, group_id).read_to_end({0: 0}):
            key = message.key()
            unreadable.pop(key, None)
            try:
                store.apply(key, message.value(), message.headers())
            except UnreadableRecord as error:
                store.apply(key, None)
                unreadable[key] = f"{RecordPlace.of(message)} cannot be read: {error}"
        for line in unreadable.values():
            log.error("%s Its budget begins again, with the rollups that are still there.", line)
        store.unreadable = len(unreadable)
        return store

    def apply(self, key: bytes | None, value: bytes | None, headers: Headers = None) -> None:
        """Apply the next record of the topic. Raises UnreadableRecord, and changes nothing, if it is damaged."""
        parts = parse_key(key)
        if parts is None or key is None:
            return
        record = None
        if value is not None:
            require_intact(key, value, headers)
            record = parse_value(value)
        self._put(parts, key, record)

    def _put(self, parts: Key, key: bytes, record: Mapping[str, Any] | None) -> None:
        if parts[0] == "position":
            self.position = None if record is None else record["offset"]
            return
        kind, name = parts[:2]
        if kind == "budget":
            known: dict[Any, Mapping[str, Any]] = self.budgets
            place: Any = name
        else:
            known, place = self.verdicts.setdefault(name, {}), key
        if record is None:
            known.pop(place, None)
        else:
            known[place] = record
