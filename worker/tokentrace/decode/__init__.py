"""Decode: a batch of message values becomes a SpanBatch and a list of rejects.

Messages are framed together, grouped by writer schema, and each group runs through that schema's decoder: columnar
where the schema has a column form, fastavro where it has none.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import SchemaError
from ..framing import Framing, SchemaKey, frame
from ..messages import Reject
from ..schemas import WriterSchemas
from ..spans import SpanBatch, SpanColumns
from .reference import ReferenceDecoder
from .resolve import resolve

#: Decoders kept; a fleet has tens of writer schemas, and a broken publisher may name any number.
MAX_DECODERS: Final = 1000


class SchemaDecoder(Protocol):
    """Decodes the messages of one writer schema."""

    def decode_into(
        self, columns: SpanColumns, rows: NDArray[np.int64], start: NDArray[np.int64], end: NDArray[np.int64]
    ) -> list[Reject]: ...


@dataclass(frozen=True, slots=True)
class Decoded:
    """The spans that decoded, and why the other messages did not; rejects are in row order."""

    spans: SpanBatch
    rejects: list[Reject]


class SpanDecoder:
    """Decodes batches in which every message may have its own framing and writer schema."""

    def __init__(self, schemas: WriterSchemas, framing: Framing = "auto") -> None:
        self._schemas = schemas
        self._framing: Framing = framing
        self._decoders: OrderedDict[SchemaKey, SchemaDecoder] = OrderedDict()
        self._paths: dict[tuple[str, str], int] = {}

    @property
    def paths(self) -> Mapping[tuple[str, str], int]:
        """(schema key, "columnar" or "fastavro") -> 1 for every schema met."""
        return self._paths

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Decode n message values. Raises SchemaUnavailable when a writer schema cannot be fetched now."""
        framed = frame(values, self._framing)
        columns = SpanColumns(len(values), framed.buffer)
        rejects = framed.rejects
        for index, key in enumerate(framed.keys):
            rows = np.flatnonzero(framed.key == index)
            try:
                decoder = self._decoder(key)
            except SchemaError as error:
                rejects.extend(Reject(row, error.reason, str(error)) for row in rows.tolist())
                continue
            rejects.extend(decoder.decode_into(columns, rows, framed.start[rows], framed.end[rows]))
        keep = np.ones(len(values), np.bool_)
        if rejects:
            rejects.sort(key=lambda reject: reject.row)
            keep[[reject.row for reject in rejects]] = False
        return Decoded(columns.select(keep), rejects)

    def _decoder(self, key: SchemaKey) -> SchemaDecoder:
        decoder = self._decoders.get(key)
        if decoder is not None:
            self._decoders.move_to_end(key)
            return decoder
        schema = self._schemas.get(key)
        decoder = ReferenceDecoder(schema, resolve(schema))
        self._paths[str(key), "fastavro"] = 1
        self._decoders[key] = decoder
        if len(self._decoders) > MAX_DECODERS:
            old, _ = self._decoders.popitem(last=False)
            for path in ("columnar", "fastavro"):
                self._paths.pop((str(old), path), None)
        return decoder
