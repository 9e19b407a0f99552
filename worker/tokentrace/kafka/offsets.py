"""Offsets: where a group member starts to read. Explicit, never by `auto.offset.reset` (see docs/decisions/002)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Final, Literal

from confluent_kafka import Consumer, KafkaException, TopicPartition

from tokentrace.errors import FatalError
from tokentrace.kafka.errors import FENCED, REFUSED, error_of

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_S: Final = 10.0
#: Pause between two requests whose answer may differ.
RETRY_S: Final = 0.1


class StartOffsets:
    """The offsets of one topic from which the group of `consumer` reads its partitions."""

    def __init__(self, consumer: Consumer, topic: str, start: Literal["earliest", "latest"]) -> None:
        """start: where a partition without a committed offset begins."""
        self._consumer = consumer
        self._topic = topic
        self._start = start

    def committed(self, partitions: Iterable[int]) -> dict[int, int | None]:
        """Return partition -> committed offset, None if there is none; retries until the offsets are stable.

        They are not while another member's transaction is open on them. Raises FatalError if Kafka refuses them.
        """
        wanted = list(partitions)
        while True:
            try:
                found = self._consumer.committed(
                    [TopicPartition(self._topic, partition) for partition in wanted], timeout=REQUEST_TIMEOUT_S
                )
                error = next((result.error for result in found if result.error is not None), None)
            except KafkaException as failure:
                error = error_of(failure)
            if error is None:
                return {result.partition: result.offset if result.offset >= 0 else None for result in found}
            if error.fatal() or error.code() in FENCED | REFUSED:
                raise FatalError(f"Kafka refuses this worker's offsets: {error.str()}.")
            log.info("The group's offsets are not stable yet (%s); retrying.", error.str())
            time.sleep(RETRY_S)

    def first(self, partition: int) -> int:
        """Return where a partition begins that was never committed."""
        low, high = self.watermarks(partition)
        return low if self._start == "earliest" else high

    def watermarks(self, partition: int) -> tuple[int, int]:
        """Return the first offset of the partition and its end; retries until it has a leader."""
        while True:
            try:
                low, high = self._consumer.get_watermark_offsets(
                    TopicPartition(self._topic, partition), timeout=REQUEST_TIMEOUT_S
                )
                return int(low), int(high)
            except KafkaException as failure:
                log.info("Partition %d has no leader yet (%s); retrying.", partition, error_of(failure).str())
                time.sleep(RETRY_S)
