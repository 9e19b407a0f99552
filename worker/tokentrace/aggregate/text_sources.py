"""Text sources: where the texts of a batch's dimensions are, one column for each source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from tokentrace.aggregate.combinations import Texts
from tokentrace.model.arrays import PADDING
from tokentrace.model.dimensions import FIELD, HEADER, KEY
from tokentrace.model.messages import RawBatch
from tokentrace.model.snapshot import BASE_LABELS
from tokentrace.model.spans import SpanBatch, Strings

_LABELS: Final = {FIELD + label: label for label in BASE_LABELS}


class TextSources:
    """Finds the texts of the sources of all dimensions."""

    def __init__(self, sources: Sequence[str]) -> None:
        self._sources = sources

    def of(self, spans: SpanBatch, buffer: NDArray[np.uint8], batch: RawBatch) -> list[Texts]:
        """Return the texts of m spans, a column a dimension.

        spans: as they were decoded, of this batch. buffer: begins with that of the spans.
        """
        found: dict[str, Texts] = {}
        for source in self._sources:
            if source in found:
                continue
            if source in _LABELS:
                found[source] = Texts(buffer, getattr(spans, _LABELS[source]))
            elif source == KEY:
                found[source] = _joined(batch.all_keys(), spans.row)
            elif source.startswith(HEADER):
                found[source] = _joined(batch.all_headers(source.removeprefix(HEADER)), spans.row)
            else:
                found[source] = Texts(buffer, spans.texts[source])
        return [found[source] for source in self._sources]


def _joined(values: Sequence[bytes | str | None], rows: NDArray[np.int64]) -> Texts:
    """Return the values of the messages at rows (int64[m]) as texts. Runs no Python code per message of bytes."""
    if set(map(type, values)) <= {bytes}:
        data = cast("Sequence[bytes]", values)
    else:
        data = [value.encode() if isinstance(value, str) else value or b"" for value in values]
    length = np.fromiter(map(len, data), np.int64, len(data))
    offset = np.cumsum(length) - length
    buffer = np.frombuffer(b"".join(data) + bytes(PADDING), np.uint8)
    return Texts(buffer, Strings(offset[rows], length[rows]))
