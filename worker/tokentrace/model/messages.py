"""Messages as consumed: a batch of raw values, and the envelopes of those that become dead letters.

The source builds a `RawBatch`; framing and decoding read only its `values`. Kafka's message objects stay behind
`envelope`, which is called only for the few messages that become dead letters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Envelope:
    """One message exactly as it was consumed, for the dead-letter topic."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp_ms: int | None

    @property
    def size(self) -> int:
        """Bytes of the key and the value."""
        return len(self.key or b"") + len(self.value or b"")

    @property
    def origin(self) -> tuple[str, int, int]:
        """Topic, partition and offset."""
        return self.topic, self.partition, self.offset


#: Headers of records that name the writer schema of the value.
CONFLUENT_SCHEMA_ID: Final = "__value_schema_id"
APICURIO_CONTENT_ID: Final = "apicurio.value.contentId"
APICURIO_GLOBAL_ID: Final = "apicurio.value.globalId"
SCHEMA_HEADERS: Final = (CONFLUENT_SCHEMA_ID, APICURIO_CONTENT_ID, APICURIO_GLOBAL_ID)

#: Part of a message: none of its spans, but all of it.
WHOLE_MESSAGE: Final = -1


class _NoValue(bytes):
    """An empty value that is told from others by its identity."""


#: The value of a message that a replay has sent to another consumer group.
OTHER_GROUP_VALUE: Final = _NoValue()


@dataclass(frozen=True, slots=True)
class RawBatch:
    """n consumed messages.

    values: n message values, None for a tombstone, OTHER_GROUP_VALUE for what another group counts.
    partitions: int32[n].
    positions: partition -> offset of the next message to read, after this batch.
    envelope: row -> the complete message.
    times_ms: partition -> timestamps of its first and last message, Unix time.
    timestamps_ms: rows (int64[k]) -> int64[k], times of publication, Unix time. Costs a call per row: pass few.
    keys: returns n message keys. headers: name of a header -> n values of it, the last where a message repeats it.
    Both are for dimensions; None: they are taken from the envelopes, one by one.
    schema_headers: name of a header of SCHEMA_HEADERS that any message has -> n values of it.
    """

    values: Sequence[bytes | None]
    partitions: NDArray[np.int32]
    positions: Mapping[int, int]
    envelope: Callable[[int], Envelope]
    times_ms: Mapping[int, tuple[int, int]]
    timestamps_ms: Callable[[NDArray[np.int64]], NDArray[np.int64]]
    keys: Callable[[], Sequence[bytes | None]] | None = None
    headers: Callable[[str], Sequence[bytes | str | None]] | None = None
    schema_headers: Mapping[str, Sequence[bytes | str | None]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.values)

    def all_keys(self) -> Sequence[bytes | None]:
        """Return the key of each message."""
        if self.keys is not None:
            return self.keys()
        return [self.envelope(row).key for row in range(len(self))]

    def all_headers(self, name: str) -> Sequence[bytes | str | None]:
        """Return a header of each message, None where it has none of this name."""
        if self.headers is not None:
            return self.headers(name)
        return [dict(self.envelope(row).headers).get(name) for row in range(len(self))]

    @property
    def size(self) -> int:
        """Bytes of all values. Runs no Python code per message."""
        try:
            return sum(map(len, self.values))  # type: ignore[arg-type]
        except TypeError:
            # Tombstones are rare, and leaving them out takes as long as the sum.
            return sum(map(len, filter(None, self.values)))

    def select(self, rows: NDArray[np.int64]) -> RawBatch:
        """Return the messages at rows (int64[k], ascending) as a batch. Costs a few calls per partition."""
        partitions = self.partitions[rows]
        positions, times_ms = {}, {}
        chosen = rows.tolist()
        for partition in np.flatnonzero(np.bincount(partitions)).tolist():
            edges = rows[partitions == partition][[0, -1]]
            positions[partition] = self.envelope(int(edges[-1])).offset + 1
            first_ms, last_ms = self.timestamps_ms(edges).tolist()
            times_ms[partition] = (first_ms, last_ms)
        return RawBatch(
            values=[self.values[row] for row in chosen],
            partitions=partitions,
            positions=positions,
            envelope=lambda row: self.envelope(int(rows[row])),
            times_ms=times_ms,
            timestamps_ms=lambda these: self.timestamps_ms(rows[these]),
            keys=lambda: itemgetter(*chosen, chosen[0])(self.all_keys())[:-1],
            headers=lambda name: itemgetter(*chosen, chosen[0])(self.all_headers(name))[:-1],
            schema_headers={name: [column[row] for row in chosen] for name, column in self.schema_headers.items()},
        )


@dataclass(frozen=True, slots=True)
class Reject:
    """A message, or a span of one, that is not counted. row: in its batch. reason: a word of `reasons.WHOLE`.

    error: one sentence. part: which of the message's spans it is; WHOLE_MESSAGE for all of it.
    """

    row: int
    reason: str
    error: str
    part: int = WHOLE_MESSAGE


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message on its way to the dead-letter topic.

    part: which of the consumed message's spans is all that the envelope has; WHOLE_MESSAGE where it is as consumed.
    """

    envelope: Envelope
    reason: str
    error: str
    part: int = WHOLE_MESSAGE

    @property
    def origin(self) -> tuple[str, int, int, int]:
        """Topic, partition, offset and part."""
        return *self.envelope.origin, self.part
