"""Deduplication records: the ids of counted spans, kept by input partition for the partition's next owner.

They have a topic of their own, with a partition for each input partition: a new owner reads the ids of its partitions
only. A record (a chunk) holds the ids that one commit counted; a tombstone removes it when its window is over.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from tokentrace.aggregate.dedup import DedupChunk
from tokentrace.errors import UnreadableRecord
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.reader import Message, TopicReader
from tokentrace.state.checksums import require_intact
from tokentrace.state.headers import Headers
from tokentrace.state.schemas import decode_record, encode_record
from tokentrace.state.unreadable import RecordPlace


def dedup_key(topic: str, chunk: DedupChunk) -> bytes:
    """The key of a chunk's record: a JSON array."""
    return json.dumps([topic, chunk.partition, chunk.position, chunk.piece], separators=(",", ":")).encode()


def encode_dedup_chunk(chunk: DedupChunk) -> bytes:
    """Encode a chunk."""
    keys = chunk.keys.astype("<u8", copy=False).tobytes()
    return encode_record("seen-chunk", {"published_at": chunk.stamp_s * 1_000_000, "keys": keys})


def decode_dedup_chunk(partition: int, position: int, piece: int, value: bytes, headers: Headers = None) -> DedupChunk:
    """Decode a chunk from the parts of its key and its record. headers: of its message. Raises UnreadableRecord."""
    record = decode_record(value, "seen-chunk", headers)
    if len(record["keys"]) % 8:
        raise UnreadableRecord("A seen-chunk record is damaged (a part of an id is missing).")
    keys = np.frombuffer(record["keys"], "<u8").astype(np.uint64)
    return DedupChunk(partition, position, piece, record["published_at"] // 1_000_000, keys)


class DedupReader:
    """Reads the chunks of one consumer group."""

    def __init__(self, clients: KafkaClients, topic: str, group_id: str) -> None:
        self._reader = TopicReader(clients, topic, group_id)
        self._count = 0

    def partition(self, partition: int) -> int:
        """Return the partition that holds an input partition's chunks. Input partitions may be added later."""
        self._count = self._count or self._reader.partition_count()
        return partition % self._count

    def read(self, topic: str, partitions: Sequence[int]) -> dict[int, list[DedupChunk]]:
        """Read the committed chunks: input partition -> its chunks in the order of their commits.

        Waits until transactions that are open on them now have ended. Raises FatalError if they cannot be read.
        """
        found: dict[tuple[int, int, int], Message] = {}
        starts = dict.fromkeys(sorted({self.partition(partition) for partition in partitions}), 0)
        for message in self._reader.read_to_end(starts):
            name = _parse_key(topic, message.key())
            if name is None:
                continue
            if message.value() is None:
                found.pop(name, None)
            elif name[0] in partitions:
                found[name] = message
        chunks: dict[int, list[DedupChunk]] = {partition: [] for partition in partitions}
        for name in sorted(found):
            chunks[name[0]].append(self._decoded(name, found[name]))
        return chunks

    def _decoded(self, name: tuple[int, int, int], message: Message) -> DedupChunk:
        value, headers = message.value() or b"", message.headers()
        try:
            require_intact(message.key(), value, headers)
            return decode_dedup_chunk(*name, value, headers)
        except UnreadableRecord as error:
            raise UnreadableRecord(
                f"{RecordPlace.of(message)} cannot be read: {error} Stop the workers, then restore the topic from a "
                "copy, or delete it: a worker creates it when it starts, and counts later repeats of the spans that "
                "were in it."
            ) from error


def _parse_key(topic: str, key: bytes | None) -> tuple[int, int, int] | None:
    """Parse (partition, position, piece) of a chunk of this topic, None for any other key."""
    try:
        parts = json.loads(key or b"")
    except ValueError:
        return None
    if not (isinstance(parts, list) and len(parts) == 4 and parts[0] == topic):
        return None
    if not all(isinstance(part, int) for part in parts[1:]):
        return None
    return parts[1], parts[2], parts[3]
