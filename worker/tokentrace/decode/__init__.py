"""Decoding: turns a batch of message values into a SpanBatch and a list of rejects.

Messages are framed together and grouped by writer schema. Each group runs through that schema's decoder: columnar if
the schema has a columnar form, else fastavro. An unreadable schema rejects each of its messages. A schema that the
registry has not returned yet stops the batch before any of it is decoded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tokentrace.decode.columnar.decoder import ColumnarDecoder
from tokentrace.decode.fastavro_decoder import FastavroDecoder
from tokentrace.decode.framing import Framed, Framing, OtlpFraming, SchemaKey, frame, single_span_framing
from tokentrace.decode.otlp.options import DEFAULT_OPTIONS, OtlpOptions
from tokentrace.decode.otlp.recognize import looks_like_otlp
from tokentrace.decode.resolve import Resolution, resolve, resolve_branches
from tokentrace.decode.schema_decoder import SchemaDecoder as SchemaDecoder
from tokentrace.decode.schema_decoder import UnreadableSchema
from tokentrace.decode.schemas.store import WriterSchemas
from tokentrace.decode.union import OtherEvents, UnionDecoder
from tokentrace.errors import SchemaError, SchemaUnavailable
from tokentrace.model.arrays import first_rows
from tokentrace.model.dimensions import ATTRIBUTE
from tokentrace.model.messages import Reject
from tokentrace.model.span_join import joined
from tokentrace.model.spans import SpanBatch, SpanColumns
from tokentrace.model.text_combinations import KnownTexts, TextCombinations
from tokentrace.model.varint import encode_long

if TYPE_CHECKING:
    from tokentrace.decode.otlp.decoder import OtlpDecoder, SpanCounts

DecodePath = Literal["columnar", "fastavro"]

#: Most cached decoders: a fleet has tens of writer schemas, but a broken publisher may name any number.
MAX_DECODERS: Final = 1000


#: Framings of OTLP -> whether it is in JSON.
_OTLP: Final[Mapping[str, bool]] = {"otlp_proto": False, "otlp_json": True}


@dataclass(frozen=True, slots=True)
class Decoded:
    """The decoded spans, and the rejects of the messages, or spans of them, that have none, in row order.

    counts: of the spans in each message, None where each is one.
    """

    spans: SpanBatch
    rejects: list[Reject]
    counts: SpanCounts | None = None


class SpanDecoder:
    """Decodes batches whose messages may differ in framing and writer schema."""

    def __init__(
        self,
        schemas: WriterSchemas,
        framing: Framing | OtlpFraming = "auto",
        *,
        columnar: bool = True,
        identity: bool = True,
        texts: tuple[str, ...] = (),
        max_decoders: int = MAX_DECODERS,
        otlp: OtlpOptions = DEFAULT_OPTIONS,
    ) -> None:
        """Create a decoder.

        columnar: False decodes every schema with fastavro, for comparison. identity: True reads trace and span ids.
        texts: sources of dimensions to read. otlp: how spans of OpenTelemetry are read.
        """
        self._otlp_options = otlp
        self._identity = identity
        self._texts = texts
        self._schemas = schemas
        self._as_json = _OTLP.get(framing)
        self._framing: Framing = single_span_framing(framing)
        self._columnar = columnar
        self._max_decoders = max_decoders
        self._combinations = TextCombinations([text for text in texts if text.startswith(ATTRIBUTE)])
        self._decoders: OrderedDict[SchemaKey, SchemaDecoder] = OrderedDict()
        self._paths: dict[tuple[str, str], int] = {}
        if self._as_json is not None:
            _ = self._otlp

    @property
    def paths(self) -> Mapping[tuple[str, str], int]:
        """Map (schema key, "columnar" or "fastavro") to 1 for every schema with a cached decoder."""
        return self._paths

    def decode(
        self, values: Sequence[bytes | None], headers: Mapping[str, Sequence[bytes | str | None]] | None = None
    ) -> Decoded:
        """Decode n message values. Raises SchemaUnavailable, with its rows, if a writer schema cannot be had now.

        headers: see `RawBatch.schema_headers`.
        """
        if self._as_json is not None:
            batch = self._otlp.decode(values, as_json=self._as_json)
            return Decoded(batch.spans, batch.rejects, batch.counts)
        framed = frame(values, self._framing, headers or {})
        decoders = self._decoders_of(framed)
        columns = SpanColumns(len(values), framed.buffer, self._texts, self._known(len(values)))
        rejects = list(framed.rejects)
        for decoder, rows in zip(decoders, _rows_by_key(framed.key, len(framed.keys)), strict=True):
            rejects += decoder.decode_into(columns, rows, framed.start[rows], framed.end[rows])
        keep = np.ones(len(values), np.bool_)
        if rejects:
            rejects.sort(key=lambda reject: reject.row)
            keep[[reject.row for reject in rejects]] = False
        decoded = Decoded(columns.select(keep), rejects)
        return self._with_otlp(values, decoded) if rejects and self._framing == "auto" else decoded

    def _known(self, n: int) -> KnownTexts | None:
        """Return the combinations of the texts of n messages, to be found."""
        if not self._combinations.sources:
            return None
        if self._combinations.full:
            self._combinations = TextCombinations(self._combinations.sources)
        return KnownTexts(np.zeros(n, np.int64), self._combinations)

    def _with_otlp(self, values: Sequence[bytes | None], decoded: Decoded) -> Decoded:
        """Decode the messages that are of OTLP, which no other framing has taken."""
        rows = [
            reject.row
            for reject in decoded.rejects
            if reject.reason == "unknown_framing" and looks_like_otlp(values[reject.row] or b"")
        ]
        if not rows:
            return decoded
        batch = self._otlp.decode(values, rows)
        taken = set(rows)
        rejects = [reject for reject in decoded.rejects if reject.row not in taken] + batch.rejects
        one_each = np.ones(len(values), np.int64)
        one_each[rows] = batch.counts.found[rows]
        return Decoded(joined(decoded.spans, batch.spans), rejects, batch.counts._replace(found=one_each))

    @cached_property
    def _otlp(self) -> OtlpDecoder:
        """The decoder of OTLP, imported with the first message that is of it, or where the framing says so."""
        from tokentrace.decode.otlp.decoder import OtlpDecoder

        return OtlpDecoder(self._otlp_options, self._texts)

    def _decoders_of(self, framed: Framed) -> list[SchemaDecoder]:
        missing = [index for index, key in enumerate(framed.keys) if key not in self._decoders]
        failure = None
        if missing:
            # In the order of the messages, so that those at the front wait for a few look-ups only.
            first = first_rows(framed.key, len(framed.keys))
            missing.sort(key=first.__getitem__)
            failure = self._schemas.fetch(framed.keys[index] for index in missing)
        decoders: list[SchemaDecoder] = []
        unavailable: dict[int, SchemaUnavailable] = {}
        for index, key in enumerate(framed.keys):
            try:
                decoders.append(self._decoder(key))
            except SchemaUnavailable as error:
                unavailable[index] = error
        if unavailable:
            why = failure or next(iter(unavailable.values()))
            rows = np.flatnonzero(np.isin(framed.key, list(unavailable)))
            raise SchemaUnavailable(str(why), rows=rows, pending=why.pending)
        return decoders

    def _decoder(self, key: SchemaKey) -> SchemaDecoder:
        decoder = self._decoders.get(key)
        if decoder is not None:
            self._decoders.move_to_end(key)
            return decoder
        try:
            schema = self._schemas.get(key)
        except SchemaError as error:
            # Not cached, because the schema may be registered later.
            return UnreadableSchema(error.reason, str(error))
        try:
            path, decoder = self._compile(schema)
        except SchemaError as error:
            decoder = UnreadableSchema(error.reason, str(error))
        else:
            self._paths[str(key), path] = 1
        self._decoders[key] = decoder
        if len(self._decoders) > self._max_decoders:
            oldest, _ = self._decoders.popitem(last=False)
            for path in get_args(DecodePath):
                self._paths.pop((str(oldest), path), None)
        return decoder

    def _compile(self, schema: Any) -> tuple[DecodePath, SchemaDecoder]:
        branches = resolve_branches(schema, self._identity, self._texts)
        if branches is None:
            return self._compile_record(schema, resolve(schema, self._identity, self._texts))
        path: DecodePath = "columnar"
        decoders: list[SchemaDecoder] = []
        for index, branch in enumerate(branches):
            if isinstance(branch, str):
                decoders.append(OtherEvents(branch))
            elif isinstance(branch, SchemaError):
                decoders.append(UnreadableSchema(branch.reason, str(branch)))
            else:
                taken, decoder = self._compile_record(schema, branch, encode_long(index))
                decoders.append(decoder)
                path = "fastavro" if taken == "fastavro" else path
        return path, UnionDecoder(decoders)

    def _compile_record(
        self, schema: Any, resolution: Resolution, index: bytes = b""
    ) -> tuple[DecodePath, SchemaDecoder]:
        fallback = FastavroDecoder(schema, resolution, index)
        columnar = ColumnarDecoder.compile(schema, resolution, fallback) if self._columnar else None
        return ("fastavro", fallback) if columnar is None else ("columnar", columnar)


def _rows_by_key(key: NDArray[np.int32], keys: int) -> list[NDArray[np.int64]]:
    """Return the rows of each key, ascending. key: int32[n], -1 for a message without a key."""
    if keys == 1:
        return [np.flatnonzero(key == 0)]
    order = np.argsort(key, kind="stable")
    return np.split(order, np.searchsorted(key[order], np.arange(keys)))[1:]
