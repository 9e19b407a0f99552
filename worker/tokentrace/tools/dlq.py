"""Dead letters: reading them, and the messages that references refer to. `tools.replay` sends them back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from tokentrace.commit.dead_letters import PREFIX
from tokentrace.decode.otlp.parts import one_span
from tokentrace.decode.otlp.wire import Malformed
from tokentrace.errors import UsageError
from tokentrace.kafka.batch import message_offset, message_partition
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.reader import Message, OffsetReader, TopicReader
from tokentrace.model.messages import WHOLE_MESSAGE


@dataclass(frozen=True, slots=True)
class DeadLetterRecord:
    """One record of the dead-letter topic. source: topic, partition and offset of the message as it was consumed.

    group: the consumer group whose worker wrote it, empty for one that release 0.1.0 wrote.
    part: which of the message's spans the letter has, from 0; WHOLE_MESSAGE for all of it.
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
    group: str = ""
    length: int | None = None
    sha256: str = ""
    part: int = WHOLE_MESSAGE


class DeadLetters:
    """The dead-letter topic of one consumer group."""

    def __init__(self, clients: KafkaClients, topic: str, group_id: str) -> None:
        """group_id: librdkafka requires one and ACLs apply to it."""
        self.topic = topic
        self._clients = clients
        self._group_id = group_id
        self._reader = TopicReader(clients, topic, group_id)
        self._originals: dict[str, OffsetReader] = {}

    def close(self) -> None:
        """Free the connections."""
        for reader in self._originals.values():
            reader.close()

    def original(self, reference: DeadLetterRecord) -> DeadLetterRecord | None:
        """Return a reference as the whole message that it refers to, None if its topic does not retain it any more.

        Raises FatalError if the topic cannot be read.
        """
        topic, partition, offset = reference.source
        reader = self._originals.get(topic)
        if reader is None:
            reader = self._originals[topic] = OffsetReader(self._clients, topic, self._group_id)
        message = reader.read(partition, offset)
        if message is None:
            return None
        value = message.value() or b""
        try:
            value = value if reference.part == WHOLE_MESSAGE else one_span(value, reference.part)
        except (Malformed, LookupError):
            return None
        # Another hash is of a topic that was recreated.
        if len(value) != reference.length or hashlib.sha256(value).hexdigest() != reference.sha256:
            return None
        return replace(reference, key=message.key(), value=value, headers=_headers(message))

    def partitions(self) -> range:
        """Return the topic's partitions. Raises UsageError if the topic does not exist or no broker answers."""
        if not self._reader.exists():
            servers = self._clients.bootstrap_servers
            raise UsageError(
                f"Topic {self.topic!r} does not exist at {servers}; a worker creates it when it starts. "
                "Check kafka.dead_letter_topic."
            )
        return range(self._reader.partition_count())

    def read(self, starts: Mapping[int, int] | None = None) -> Iterator[DeadLetterRecord]:
        """Give every record that is there now, each partition in its order.

        starts: partition -> first offset; None: all. Raises as `partitions`.
        """
        if starts is None:
            starts = dict.fromkeys(self.partitions(), 0)
        return map(_record, self._reader.read_to_end(starts))


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
        group=texts.get("group", ""),
        length=_int(texts["truncated"]) if "truncated" in texts else None,
        sha256=texts.get("sha256", ""),
        part=_int(texts.get("span")),
    )


def _headers(message: Message) -> tuple[tuple[str, bytes | None], ...]:
    return tuple(message.headers() or ())  # type: ignore[arg-type]


def _int(text: str | None) -> int:
    return int(text) if text is not None and text.lstrip("-").isdigit() else -1
