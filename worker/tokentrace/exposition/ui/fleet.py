"""Fleet: what Kafka knows beside the rollups. The lag of every partition, the latest dead letters, the budgets.

Each is asked for by an inquiry, see `inquiry`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from tokentrace.budgets.records import goes_on
from tokentrace.budgets.store import BudgetStore
from tokentrace.commit.dead_letters import PREFIX
from tokentrace.kafka.batch import message_offset, message_partition
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.group_offsets import GroupOffsets
from tokentrace.kafka.log_bounds import TopicBounds
from tokentrace.kafka.reader import Message, TopicReader
from tokentrace.model.text import printable

#: Dead letters of a partition that are read, and examples that are shown.
LETTERS: Final = 200
EXAMPLES: Final = 20
#: Verdicts on budgets that are shown.
BUDGETS: Final = 100
#: Most characters of a text from a message.
MOST_TEXT: Final = 300


class FleetLag:
    """The lag of the consumer group, from its committed offsets to the ends of the input topic."""

    def __init__(self, clients: KafkaClients, topic: str, group_id: str) -> None:
        self._clients, self._topic, self._group_id = clients, topic, group_id
        self._asked: tuple[GroupOffsets, TopicBounds] | None = None

    def __call__(self) -> list[dict[str, Any]]:
        """Return the partitions that the group has committed offsets of. Raises UsageError if Kafka does not tell."""
        if self._asked is None:
            clients = self._clients
            self._asked = GroupOffsets(clients, self._group_id, self._topic), TopicBounds(clients, self._topic)
        offsets, topic = self._asked
        committed = offsets.committed()
        bounds = topic.bounds(sorted(committed))
        return [
            {
                "partition": partition,
                "committed": committed[partition].offset,
                "end": found.end,
                # Retention may have removed what is not read yet.
                "lag": max(found.end - max(committed[partition].offset, found.first), 0),
            }
            for partition, found in sorted(bounds.items())
        ]


class LatestLetters:
    """The latest dead letters of all replicas: how many of each reason, and the newest as examples."""

    def __init__(self, clients: KafkaClients, topic: str, group_id: str) -> None:
        self._clients, self._topic, self._group_id = clients, topic, group_id
        self._ends: Mapping[int, int] = {}
        self._found: dict[str, Any] | None = None

    def __call__(self) -> dict[str, Any] | None:
        """Read them again if there are new ones. Raises UsageError or FatalError if the topic cannot be read."""
        reader = TopicReader(self._clients, self._topic, self._group_id)
        partitions = range(reader.partition_count())
        bounds = TopicBounds(self._clients, self._topic).bounds(partitions)
        ends = {partition: found.end for partition, found in bounds.items()}
        if self._found is None or ends != self._ends:
            starts = {partition: max(found.end - LETTERS, found.first) for partition, found in bounds.items()}
            letters = [_letter(message) for message in reader.read_to_end(starts, await_open=False)]
            self._found, self._ends = _summary(letters), ends
        return self._found


class OpenBudgets:
    """The verdicts on budgets whose period goes on, those first that are spent most."""

    def __init__(
        self, clients: KafkaClients, topic: str, group_id: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._clients, self._topic, self._group_id, self._clock = clients, topic, group_id, clock

    def __call__(self) -> list[Mapping[str, Any]]:
        """Return the records that gateways read, at most `BUDGETS`. Raises FatalError if they cannot be read."""
        store = BudgetStore.read(self._clients, self._topic, self._group_id)
        now_s = self._clock()
        verdicts = [verdict for found in store.verdicts.values() for verdict in found.values()]
        return sorted((verdict for verdict in verdicts if goes_on(verdict, now_s)), key=_unspent)[:BUDGETS]


def _unspent(verdict: Mapping[str, Any]) -> Decimal:
    return -Decimal(verdict["spent_usd"]) / Decimal(verdict["limit_usd"])


def _summary(letters: Sequence[dict[str, Any]]) -> dict[str, Any]:
    newest = sorted(letters, key=lambda letter: letter["time_s"] or 0.0, reverse=True)
    reasons = Counter(letter["reason"] for letter in letters)
    return {"letters": len(letters), "reasons": dict(reasons.most_common()), "examples": newest[:EXAMPLES]}


def _letter(message: Message) -> dict[str, Any]:
    """The facts of a dead letter; of the rejected message itself only its place and its size."""
    headers: Mapping[str, Any] = dict(message.headers() or ())

    def text(name: str) -> str:
        return printable((headers.get(PREFIX + name) or b"").decode("utf-8", "replace"))[:MOST_TEXT]

    kind, time_ms = message.timestamp()
    return {
        "reason": text("reason"),
        "error": text("error"),
        "topic": text("topic"),
        "partition": text("partition"),
        "offset": text("offset"),
        "bytes": len(message.value() or b""),
        "time_s": time_ms / 1e3 if kind else None,
        "letter": f"{message_partition(message)}:{message_offset(message)}",
    }
