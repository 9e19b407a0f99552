"""Union decoder: decodes the messages of a writer schema whose top level is a union, such as several types of events.

The index of its branch begins a datum. The branches that are spans run through decoders of their own, all messages of a
branch at once. What holds another branch is not a span, and is rejected as another event.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokentrace.decode.datum_check import OUT_OF_RANGE, malformed
from tokentrace.decode.schema_decoder import SchemaDecoder
from tokentrace.model import reasons
from tokentrace.model.messages import Reject
from tokentrace.model.spans import SpanColumns
from tokentrace.model.varint import decode_long


@dataclass(frozen=True, slots=True)
class OtherEvents:
    """Decoder of a branch that is not a span: rejects every message. name: of the branch."""

    name: str

    def decode_into(
        self, columns: SpanColumns, rows: NDArray[np.int64], start: NDArray[np.int64], end: NDArray[np.int64]
    ) -> list[Reject]:
        """Return a reject for each row."""
        why = f"{reasons.WHOLE[reasons.OTHER_EVENT].rstrip('.')} ({self.name})."
        return [Reject(row, reasons.OTHER_EVENT, why) for row in rows.tolist()]


@dataclass(frozen=True, slots=True)
class UnionDecoder:
    """Decodes the messages of one writer schema. branches: the decoder of each branch's datums."""

    branches: Sequence[SchemaDecoder]

    def decode_into(
        self, columns: SpanColumns, rows: NDArray[np.int64], start: NDArray[np.int64], end: NDArray[np.int64]
    ) -> list[Reject]:
        """Decode messages into `columns` at `rows`, as `SchemaDecoder.decode_into`."""
        branch, width = _branches(columns.buffer, start, end)
        branch[branch >= len(self.branches)] = -1
        rejects = [malformed(row, OUT_OF_RANGE) for row in rows[branch < 0].tolist()]
        for index in np.unique(branch[branch >= 0]).tolist():
            here = branch == index
            rejects += self.branches[index].decode_into(columns, rows[here], start[here] + width[here], end[here])
        rejects.sort(key=lambda reject: reject.row)
        return rejects


def _branches(
    buffer: NDArray[np.uint8], start: NDArray[np.int64], end: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (int64[k], the branch of each datum, -1 where the index is negative or not a number; its bytes)."""
    # The buffer ends in padding, so that even the first byte of an empty datum can be loaded.
    byte = buffer[start].astype(np.int64)
    branch, width = np.where(byte & 1, -1, byte >> 1), np.ones(len(start), np.int64)
    branch[start == end] = -1
    # Only unions of more than 64 branches need more bytes than one.
    for row in np.flatnonzero((byte >= 0x80) & (start < end)).tolist():
        try:
            index, width[row] = decode_long(buffer[start[row] : min(start[row] + 10, end[row])].tobytes(), 0)
        except ValueError:
            index = -1
        branch[row] = index if index >= 0 else -1
    return branch, width
