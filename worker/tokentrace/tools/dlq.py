"""Dead letters: reading them, and replaying them to the topic that they came from.

The progress of a replay is committed as the offsets of a consumer group of its own (`<group>.dlq-replay`), so that a
record is not replayed twice unless that is asked for. A crash in between repeats some, and never loses any.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from tokentrace.commit.dead_letters import PREFIX
from tokentrace.errors import FatalError, UsageError
from tokentrace.kafka.batch import message_offset, message_partition
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.group_offsets import CommittedOffsets
from tokentrace.kafka.producer import IdempotentProducer, Record
from tokentrace.kafka.reader import Message, OffsetReader, TopicReader

log = logging.getLogger(__name__)

#: Time that Kafka has to write a batch of records.
_FLUSH_TIMEOUT_S: Final = 15.0
#: A message that its publisher has compressed well has to fit into its topic again.
_COMPRESSION: Final = {"compression.type": "zstd"}
#: Messages between two commits of the replay's progress.
_REPLAY_BATCH: Final = 1000


@dataclass(frozen=True, slots=True)
class DeadLetterRecord:
    """One record of the dead-letter topic. source: topic, partition and offset of the message as it was consumed.

    length: None for a whole message. A reference has the length of its message's value, the hash of that value in hex,
    and of the value only the first bytes.
    """

    partition: int
    offset: int
    reason: str
    error: str
    source: tuple[str, int, int]
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp_ms: int | None
    length: int | None = None
    sha256: str = ""


class DeadLetters:
    """The dead-letter topic of one consumer group."""

    def __init__(self, clients: KafkaClients, topic: str, group_id: str) -> None:
        """group_id: the workers' group."""
        self._clients = clients
        self._topic = topic
        replay_group = f"{group_id}.dlq-replay"
        self._reader = TopicReader(clients, topic, replay_group)
        self._replayed = CommittedOffsets(clients, replay_group, topic)
        self._replay_group = replay_group
        self._originals: dict[str, OffsetReader] = {}

    def close(self) -> None:
        """Free the connections."""
        self._replayed.close()
        for reader in self._originals.values():
            reader.close()

    def original(self, reference: DeadLetterRecord) -> DeadLetterRecord | None:
        """Return a reference as the whole message that it refers to, None if its topic does not retain it any more.

        Raises FatalError if the topic cannot be read.
        """
        topic, partition, offset = reference.source
        reader = self._originals.get(topic)
        if reader is None:
            reader = self._originals[topic] = OffsetReader(self._clients, topic, self._replay_group)
        message = reader.read(partition, offset)
        if message is None:
            return None
        value = message.value() or b""
        # Another hash is of a topic that was recreated.
        if len(value) != reference.length or hashlib.sha256(value).hexdigest() != reference.sha256:
            return None
        return replace(reference, key=message.key(), value=message.value(), headers=_headers(message))

    def read(self, after_replayed: bool = False) -> Iterator[DeadLetterRecord]:
        """Give every record that is there now, each partition in its order.

        after_replayed: start where the last replay ended. Raises UsageError if there is no such topic or no broker
        answers.
        """
        if not self._reader.exists():
            servers = self._clients.bootstrap_servers
            raise UsageError(
                f"Topic {self._topic!r} does not exist at {servers}; a worker creates it when it starts. "
                "Check kafka.dead_letter_topic."
            )
        partitions = range(self._reader.partition_count())
        replayed = self._replayed.committed(partitions) if after_replayed else {}
        starts = {partition: replayed.get(partition, 0) for partition in partitions}
        return map(_record, self._reader.read_to_end(starts))

    def replay(self, wanted: Callable[[DeadLetterRecord], bool], *, again: bool, dry_run: bool) -> dict[str, int]:
        """Replay records, byte for byte and with their original headers. Return topic -> how many.

        again: include records that an earlier replay has passed. Records that are not wanted are skipped. Raises
        FatalError if a record cannot be written; the progress up to there is committed.
        """
        replay = _Replay(self._clients, self._replayed)
        for record in self.read(after_replayed=not again):
            send, found = wanted(record), record
            if send and record.length is not None:
                original = self.original(record)
                if original is None:
                    send = False
                    log.warning(
                        "Dead letter %d:%d is not replayed: it refers to offset %d of %s/%d, which is not retained.",
                        record.partition, record.offset, record.source[2], *record.source[:2],
                    )  # fmt: skip
                else:
                    found = original
            replay.add(found, send=send, dry_run=dry_run)
        if not dry_run:
            replay.flush_and_commit()
        return dict(replay.sent)


class _Replay:
    """Records on their way back. sent: topic -> how many."""

    def __init__(self, clients: KafkaClients, replayed: CommittedOffsets) -> None:
        self._producer = IdempotentProducer(clients, _COMPRESSION)
        self._replayed = replayed
        self._positions: dict[int, int] = {}
        self._pending = 0
        self._error: str | None = None
        self.sent: Counter[str] = Counter()

    def add(self, record: DeadLetterRecord, *, send: bool, dry_run: bool) -> None:
        self._positions[record.partition] = record.offset + 1
        if not send:
            return
        topic = record.source[0]
        self.sent[topic] += 1
        if dry_run:
            return
        headers = [(name, value) for name, value in record.headers if not name.startswith(PREFIX)]
        self._producer.produce(Record(topic, record.key, record.value, headers=headers), self._on_delivery)
        self._pending += 1
        if self._pending >= _REPLAY_BATCH:
            self.flush_and_commit()

    def flush_and_commit(self) -> None:
        """Wait for every delivery, then commit the progress."""
        left = self._producer.flush(_FLUSH_TIMEOUT_S)
        if self._error is not None or left:
            reason = self._error or "the broker does not acknowledge it"
            raise FatalError(f"A dead letter could not be replayed: {reason}.")
        self._replayed.commit(self._positions)
        self._pending = 0

    def _on_delivery(self, error: str | None) -> None:
        self._error = self._error or error


def _record(message: Message) -> DeadLetterRecord:
    headers = _headers(message)
    texts = {name.removeprefix(PREFIX): (value or b"").decode("utf-8", "replace") for name, value in headers}
    kind, timestamp_ms = message.timestamp()
    return DeadLetterRecord(
        partition=message_partition(message),
        offset=message_offset(message),
        reason=texts.get("reason", ""),
        error=texts.get("error", ""),
        source=(texts.get("topic", ""), _int(texts.get("partition")), _int(texts.get("offset"))),
        key=message.key(),
        value=message.value(),
        headers=headers,
        timestamp_ms=timestamp_ms if kind else None,
        length=_int(texts["truncated"]) if "truncated" in texts else None,
        sha256=texts.get("sha256", ""),
    )


def _headers(message: Message) -> tuple[tuple[str, bytes | None], ...]:
    return tuple(message.headers() or ())  # type: ignore[arg-type]


def _int(text: str | None) -> int:
    return int(text) if text is not None and text.lstrip("-").isdigit() else -1
