"""Counted positions: how far any replica has counted each input partition.

A partition moves between replicas, and a replica that is gone may have counted it further than its next owner. So the
highest offset over the records of all replicas counts, in all partitions of the state topic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from tokentrace.kafka.reader import TopicReader
from tokentrace.state.records import decode_positions, parse_key
from tokentrace.state.schemas import record_schemas

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
        self._positions: dict[str, Mapping[int, int]] = {}

    def refresh(self) -> dict[int, int]:
        """Return input partition -> the highest offset up to which any replica has counted it by now.

        Raises FatalError if the state topic cannot be read.
        """
        starts = self._next or dict.fromkeys(range(self._reader.partition_count()), 0)
        ends = self._reader.end_offsets(list(starts))
        written: dict[str, bytes | None] = {}
        for message in self._reader.read_to_end(starts):
            key = message.key()
            if not key or _SEPARATOR in key:
                continue
            parsed = parse_key(key)
            if parsed is not None and parsed[1] is None:
                record_schemas().learn(message.headers())
                written[parsed[0]] = message.value()
        for replica, value in written.items():
            self._positions.pop(replica, None)
            if value is not None:
                self._positions[replica] = decode_positions(value, self._source_topic)
        # What was written behind `ends` meanwhile is read again.
        self._next = ends
        return highest(self._positions.values())


def highest(positions: Iterable[Mapping[int, int]]) -> dict[int, int]:
    """Return partition -> the highest of its offsets."""
    result: dict[int, int] = {}
    for offsets in positions:
        for partition, offset in offsets.items():
            result[partition] = max(offset, result.get(partition, 0))
    return result
