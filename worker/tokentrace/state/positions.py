"""Counted positions: how far any replica has counted each input partition.

A partition moves between replicas, and a replica that is gone may have counted it further than its next owner. So the
highest position over the records of all replicas counts, in all partitions of the state topic.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Final

from tokentrace.errors import UnreadableRecord
from tokentrace.kafka.reader import Message, TopicReader
from tokentrace.state.checksums import require_intact
from tokentrace.state.keys import parse_key
from tokentrace.state.log_generations import LogPosition, decode_generations
from tokentrace.state.records import decode_positions
from tokentrace.state.schemas import record_schemas
from tokentrace.state.unreadable import RecordPlace, remedy

log = logging.getLogger(__name__)

#: Separates the elements of a key. A quote inside an element is escaped, so the key of a replica has none.
_SEPARATOR: Final = b'","'


class CountedPositions:
    """The positions of all replicas in one state topic. The first look reads the topic whole, later ones what is new.

    Only the replicas' own records are decoded, and of several the last: cells are passed over by their key.
    """

    def __init__(self, reader: TopicReader, source_topic: str) -> None:
        """reader: of the state topic. source_topic: what the workers consume."""
        self._reader = reader
        self._source_topic = source_topic
        self._next: dict[int, int] = {}
        self._positions: dict[str, Mapping[int, LogPosition]] = {}
        #: Records that were reported.
        self._unreadable: set[RecordPlace] = set()

    def refresh(self) -> dict[int, LogPosition]:
        """Return input partition -> the highest position up to which any replica has counted it by now.

        Raises FatalError if the state topic cannot be read.
        """
        starts = self._next or dict.fromkeys(range(self._reader.partition_count()), 0)
        ends = self._reader.end_offsets(list(starts))
        written: dict[str, Message] = {}
        for message in self._reader.read_to_end(starts):
            key = message.key()
            if not key or _SEPARATOR in key:
                continue
            parsed = parse_key(key)
            if parsed is not None and parsed[1] is None:
                record_schemas().learn(message.headers())
                written[parsed[0]] = message
        for replica, message in written.items():
            self._update(replica, message)
        # What was written behind `ends` meanwhile is read again.
        self._next = ends
        return highest(self._positions.values())

    def _update(self, replica: str, message: Message) -> None:
        """Take the positions from a replica's record. One that cannot be read changes nothing."""
        value = message.value()
        if value is None:
            self._positions.pop(replica, None)
            return
        headers = message.headers()
        try:
            require_intact(message.key(), value, headers)
            offsets = decode_positions(value, self._source_topic)
            generations = decode_generations(headers, self._source_topic)
            self._positions[replica] = log_positions(offsets, generations)
        except UnreadableRecord as error:
            place = RecordPlace.of(message)
            if place not in self._unreadable:
                self._unreadable.add(place)
                log.error(
                    "%s cannot be read: %s This replica counts on, but does not compare offsets with what %r has "
                    "counted. %s", place, error, replica, remedy(replica),
                )  # fmt: skip


def log_positions(offsets: Mapping[int, int], generations: Mapping[int, int]) -> dict[int, LogPosition]:
    """Return partition -> position, of offsets by partition in logs of these generations."""
    return {partition: LogPosition(generations.get(partition, 0), offset) for partition, offset in offsets.items()}


def highest(positions: Iterable[Mapping[int, LogPosition]]) -> dict[int, LogPosition]:
    """Return partition -> the highest of its positions."""
    result: dict[int, LogPosition] = {}
    for by_partition in positions:
        for partition, position in by_partition.items():
            result[partition] = max(position, result.get(partition, LogPosition(0, 0)))
    return result
