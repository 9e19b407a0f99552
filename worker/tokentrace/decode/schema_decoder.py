"""The decoder of one writer schema, as `SpanDecoder` sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.messages import Reject
from tokentrace.model.spans import SpanColumns


class SchemaDecoder(Protocol):
    """Decodes the messages of one writer schema."""

    def decode_into(
        self, columns: SpanColumns, rows: NDArray[np.int64], start: NDArray[np.int64], end: NDArray[np.int64]
    ) -> list[Reject]:
        """Decode the datums at start:end (int64[k], in columns.buffer) into `rows` (int64[k]) of the columns.

        Returns the rejects, in row order.
        """
        ...


@dataclass(frozen=True, slots=True)
class UnreadableSchema:
    """Decoder of an unreadable schema: rejects every message for the schema's reason."""

    reason: str
    error: str

    def decode_into(
        self, columns: SpanColumns, rows: NDArray[np.int64], start: NDArray[np.int64], end: NDArray[np.int64]
    ) -> list[Reject]:
        """Return a reject for each row."""
        return [Reject(row, self.reason, self.error) for row in rows.tolist()]
