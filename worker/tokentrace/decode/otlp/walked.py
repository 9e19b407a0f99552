"""Walked calls: what the walker has read, by the rows of the batch, with what resources say of their spans."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.decode.otlp.columnar.walker import Walked
from tokentrace.decode.otlp.message import Place, attributes_of
from tokentrace.decode.otlp.wire import Malformed
from tokentrace.decode.texts import key_of, text_of
from tokentrace.model.spans import MODIFIERS, OPTIONAL_FIELDS, SpanColumns, Strings

#: Most resources that are remembered between batches, and their longest encoding: services are few.
_MOST: Final = 10_000
_LONGEST: Final = 4096


class WalkedCalls:
    """The calls that the walker has read in some messages of a batch.

    rows, ordinals: int64[c], message of each call in the batch, and its place in it.
    malformed: row -> why its message is rejected whole.
    """

    def __init__(
        self, walked: Walked, rows: Sequence[int], values: Sequence[bytes], cache: dict[bytes, dict[str, Any]]
    ) -> None:
        """rows: of the walked messages in the batch. cache: resources that were read before, by their encoding."""
        self._walked = walked
        self._row_of = np.array(rows, np.int64)
        self._cache = cache
        self._starts = np.cumsum([0, *map(len, values)])
        self.malformed: dict[int, str] = {}
        self._resources: dict[int, dict[str, Any]] = {}
        self._known: dict[int, dict[tuple[int, int], dict[str, Any]]] = {}
        self._read_resources()
        self._chosen = np.arange(len(walked.span))
        self._irregular = walked.irregular
        self._leave_bad_callers()

    @property
    def buffer(self) -> NDArray[np.uint8]:
        """Bytes that the strings of calls point into."""
        return self._walked.joined.buffer

    @property
    def rows(self) -> NDArray[np.int64]:
        return self._row_of[self._walked.found.message[self._spans]]

    @property
    def ordinals(self) -> NDArray[np.int64]:
        return self._walked.found.ordinal[self._spans]

    @property
    def _spans(self) -> NDArray[np.int64]:
        return self._walked.span[self._chosen]

    @property
    def irregular_rows(self) -> list[int]:
        """Rows of messages that the walker could not read."""
        rows: list[int] = self._row_of[self._walked.found.irregular].tolist()
        return rows

    def counts(self) -> Iterator[tuple[int, int]]:
        """Yield (row, spans) of the messages that the walker could read."""
        found = self._walked.found
        counts = np.bincount(found.message, minlength=len(self._row_of))
        regular = np.flatnonzero(~found.irregular)
        yield from zip(self._row_of[regular].tolist(), counts[regular].tolist(), strict=True)

    def irregular_spans(self) -> Iterator[tuple[int, int, Place]]:
        """Yield (row, ordinal, place) of the spans that the walker leaves, ascending."""
        found = self._walked.found
        for span in self._irregular.tolist():
            message = int(found.message[span])
            yield int(self._row_of[message]), int(found.ordinal[span]), found.place(span, int(self._starts[message]))

    def known(self, row: int) -> dict[tuple[int, int], dict[str, Any]]:
        """Return the resources of a message that were read, by their place, for the plain reader to add to."""
        return self._known.setdefault(row, {})

    def drop(self, rows: Collection[int]) -> None:
        """Leave out the calls of messages that are rejected whole."""
        if rows:
            self._chosen = self._chosen[~np.isin(self.rows, list(rows))]

    def store(self, columns: SpanColumns) -> None:
        """Put the calls into the first rows of the columns, which are empty."""
        walked, chosen = self._walked, self._chosen
        count = len(chosen)
        for name, numbers in walked.numbers.items():
            numbers = numbers.take(chosen)
            if name in OPTIONAL_FIELDS:
                if not numbers.present.any():
                    continue
                column = columns.optional(name)
            else:
                column = getattr(columns, name)
            column.present[:count] = numbers.present
            column.values[:count] = np.where(numbers.present, numbers.values, 0)
        for name, strings in walked.strings.items():
            if name not in MODIFIERS:
                self._put(getattr(columns, name), strings.take(chosen))
            elif (strings.length[chosen] > 0).any():
                self._put(columns.modifier(name), strings.take(chosen))
        for source, strings in walked.texts.items():
            self._put(columns.texts[source], strings.take(chosen))
        resource = walked.found.resource(self._spans)
        for name, has_own in walked.has_own.items():
            self._inherit(columns, name, np.flatnonzero(~has_own[chosen]), resource)

    @staticmethod
    def _put(column: Strings, strings: Strings) -> None:
        count = len(strings.offset)
        column.offset[:count], column.length[:count] = strings.offset, strings.length

    def _inherit(self, columns: SpanColumns, name: str, calls: NDArray[np.int64], resource: NDArray[np.int64]) -> None:
        """Give calls the text that their resource has. resource: int64[c], of all calls."""
        if not len(calls):
            return
        column = columns.caller if name == "caller" else columns.texts[name]
        # Calls, and so their resources, ascend.
        wanted = resource[calls]
        which = np.cumsum(np.concatenate([[0], wanted[1:] != wanted[:-1]]))
        numbers = wanted[np.searchsorted(which, np.arange(which[-1] + 1))]
        # Many resources are of the same service.
        places: dict[bytes, int] = {b"": 0}
        first = int(calls[0])
        texts = [self._text(number, name) for number in numbers.tolist()]
        for text in texts:
            if text not in places:
                columns.put_string(column, first, text)
                places[text] = int(column.offset[first])
        column.offset[calls] = np.array([places[text] for text in texts], np.int64)[which]
        column.length[calls] = np.array([len(text) for text in texts], np.int64)[which]

    def _text(self, resource: int, name: str) -> bytes:
        key = self._walked.caller if name == "caller" else key_of(name)
        return text_of(self._resources[resource].get(key or ""))

    def _read_resources(self) -> None:
        walked, found = self._walked, self._walked.found
        data = walked.joined.data
        if len(self._cache) > _MOST:
            self._cache.clear()
        for number in walked.resources.tolist():
            start, end = int(found.details_start[number]), int(found.details_end[number])
            encoded = data[start:end]
            attributes = self._cache.get(encoded)
            if attributes is None:
                try:
                    attributes = attributes_of(encoded, 0, len(encoded))
                except Malformed as error:
                    message = int(np.searchsorted(self._starts, start, side="right")) - 1
                    self.malformed.setdefault(int(self._row_of[message]), str(error))
                    attributes = {}
                else:
                    if len(encoded) <= _LONGEST:
                        self._cache[encoded] = attributes
            self._resources[number] = attributes

    def _leave_bad_callers(self) -> None:
        """Leave calls to the plain reader whose caller is not UTF-8, if it is that of their resource."""
        bad = [number for number in self._resources if not _is_utf8(self._text(number, "caller"))]
        if not bad or not len(self._walked.span):
            return
        walked = self._walked
        left = np.isin(walked.found.resource(walked.span), bad) & ~walked.has_own["caller"]
        self._chosen = np.flatnonzero(~left)
        self._irregular = np.sort(np.concatenate([self._irregular, walked.span[left]]))


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
