"""Log tail: reads a topic's one partition from an offset on and for ever, outside any group, and skips nothing.

A position that the log does not have is an error here, where other readers would silently go on at another offset.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from tokentrace.errors import FatalError
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.errors import REFUSED, error_of
from tokentrace.kafka.reader import TopicReader
from tokentrace.kafka.single_partition import PartitionRecord
from tokentrace.kafka.waiting import Wait

log = logging.getLogger(__name__)

#: Time for an answer about the log's bounds, over all tries, and of one try.
_BOUNDS_TIMEOUT_S: Final = 60.0
_SETTINGS: Final[dict[str, Any]] = {"fetch.queue.backoff.ms": 10, "queued.max.messages.kbytes": 32_768}


class OutOfLog(FatalError):
    """The log has no record at the position: retention removed it, or the topic was recreated."""


class LogTail:
    """Reads partition 0. Used by one thread; every method raises StopRequested."""

    def __init__(self, clients: KafkaClients, topic: str, group_id: str) -> None:
        """group_id: librdkafka requires one and ACLs apply to it."""
        self.topic = topic
        self._clients = clients
        self._reader = TopicReader(clients, topic, group_id)
        self._consumer = clients.consumer(group_id=group_id, settings=_SETTINGS)

    def exists(self) -> bool:
        """Return whether the topic exists. Raises UsageError if it may not be described, or no broker answers."""
        return self._reader.exists()

    def topic_id(self) -> str:
        """Return the id that tells the topic from another one of its name, empty if it may not be described."""
        return self._reader.topic_id()

    def bounds(self) -> tuple[int, int]:
        """Return (offset of the first record, offset behind the last one). Raises FatalError without an answer."""
        wait = Wait(self._clients.stop, _BOUNDS_TIMEOUT_S)
        while True:
            try:
                bounds = self._consumer.get_watermark_offsets(
                    TopicPartition(self.topic, 0), timeout=wait.request_timeout_s
                )
                return int(bounds[0]), int(bounds[1])
            except KafkaException as failure:
                error = error_of(failure)
                if error.code() in REFUSED or not wait.pause("Kafka does not answer yet (%s)", error.str()):
                    reason = error.str()
                    raise FatalError(f"The offsets of topic {self.topic!r} cannot be read: {reason}.") from failure

    def known_end(self) -> int:
        """Return the offset behind the last record, as the last fetch saw it; below 0 before the first fetch."""
        return int(self._consumer.get_watermark_offsets(TopicPartition(self.topic, 0), cached=True)[1])

    def seek(self, offset: int) -> None:
        """Continue at this offset."""
        self._consumer.assign([TopicPartition(self.topic, 0, offset)])

    def poll(self, max_records: int, timeout_s: float) -> list[PartitionRecord]:
        """Return the next records; one with the value None is the partition's end, its offset behind every record.

        Raises OutOfLog, FatalError where Kafka refuses to read.
        """
        self._clients.stop.check()
        records: list[PartitionRecord] = []
        for message in self._consumer.consume(max_records, timeout_s):
            error, offset = message.error(), message.offset() or 0
            if error is None:
                written_s = message.timestamp()[1] / 1e3
                value = message.value() or b""
                records.append(PartitionRecord(offset, value, message.headers(), message.key(), written_s))
            elif error.code() == KafkaError._PARTITION_EOF:
                records.append(PartitionRecord(offset, None))
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                raise OutOfLog(f"Topic {self.topic!r} does not have the offset that comes next ({error.str()}).")
            elif error.code() in REFUSED or error.fatal():
                raise FatalError(f"Topic {self.topic!r} cannot be read: {error.str()}.")
            else:
                log.info("Kafka error while reading topic %s: %s", self.topic, error.str())
        return records

    def close(self) -> None:
        """Free the connections."""
        self._consumer.close()
