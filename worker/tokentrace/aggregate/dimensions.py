"""Dimensions: the label values of a batch's texts, as codes, with no Python object a span.

A text is looked up in a table by its bytes. Python runs once per text that the table does not have: it applies the
dimension's rules to it, and finds the code of the value. Beyond the dimension's limit, new values have the code of
`__overflow__`. Which values have codes follows from the groups that are counted, so it is as durable as they are.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.aggregate.combinations import Combinations, Texts
from tokentrace.aggregate.labels import text_words
from tokentrace.aggregate.shorten import HASH_DIGITS, distinct, shortened
from tokentrace.aggregate.word_table import WordTable
from tokentrace.model.arrays import PADDING, grown
from tokentrace.model.dimensions import Dimension
from tokentrace.model.globs import pattern
from tokentrace.model.snapshot import OVERFLOW, Group
from tokentrace.model.spans import Strings
from tokentrace.model.text_combinations import IN_COLUMNS, KnownTexts, TextCombinations

#: Codes of the empty value, and of the values beyond the limit.
EMPTY_CODE: Final = 0
OVERFLOW_CODE: Final = 1
#: Bits of a code in a packed word, and codes of a word.
_CODE_BITS: Final = 21
_CODES_A_WORD: Final = 64 // _CODE_BITS
_CODE_MASK: Final = (1 << _CODE_BITS) - 1
#: A packed word that no codes have.
_UNKNOWN: Final = np.uint64(1 << 63)
#: Most texts that a table has: rules may give many texts one value. A full table is begun again.
_MOST_TEXTS: Final = 200_000
#: Texts of more bytes are read one by one, since a table compares them word by word.
_LONG_TEXT: Final = 256


class DimensionRules:
    """Makes the value of a dimension from a text."""

    def __init__(self, dimension: Dimension) -> None:
        self._dimension = dimension
        self._globs = [(pattern(glob), value) for glob, value in dimension.mapping]

    def value(self, text: bytes) -> str:
        """Return the value, no longer than the dimension allows. Bytes that are not UTF-8 are replaced."""
        dimension = self._dimension
        if not text:
            return dimension.default
        value = text.decode("utf-8", "replace")
        if dimension.hash_key:
            return hmac.new(dimension.hash_key, text, hashlib.sha256).hexdigest()[:HASH_DIGITS]
        lowered = value.lower()
        value = next((mapped for glob, mapped in self._globs if glob.match(lowered)), value)
        if dimension.values is not None and value not in dimension.values:
            value = dimension.other
        return shortened(value, dimension.max_length)


class DimensionValues:
    """The values of one dimension. values: code -> value. hash_bits exists to make collisions in tests."""

    def __init__(self, dimension: Dimension, hash_bits: int = 64) -> None:
        self.name = dimension.name
        self.limit = dimension.limit
        self._rules = DimensionRules(dimension)
        self._hash_bits = hash_bits
        self.clear()

    def clear(self) -> None:
        """Forget all values."""
        self.values = ["", OVERFLOW]
        self._codes = {value: code for code, value in enumerate(self.values)}
        self._clear_texts()

    def _clear_texts(self) -> None:
        self._table = WordTable(1, self._hash_bits)
        self._code_of: NDArray[np.int64] = np.zeros(64, np.int64)

    @property
    def count(self) -> int:
        """Return how many values have codes of their own."""
        return len(self.values) - 2

    def adopt(self, value: str) -> int:
        """Return the code of a value that is counted already, whatever the limit is."""
        code = self._codes.get(value)
        if code is None:
            code = self._codes[value] = len(self.values)
            self.values.append(value)
        return code

    def encode(self, texts: Texts) -> NDArray[np.int64]:
        """Return the code of each text, int64[m]."""
        buffer, strings = texts
        length = strings.length
        long: NDArray[np.int64] | None = None
        if len(length) and int(length.max()) > _LONG_TEXT:
            long = np.flatnonzero(length > _LONG_TEXT)
            strings = Strings(strings.offset, np.where(length > _LONG_TEXT, 0, length))
        words = text_words(buffer, strings)
        entry = self._table.find(self._table.hash(words), words)
        codes = self._code_of.take(entry, mode="clip")
        missing = np.flatnonzero(entry < 0)
        if len(missing):
            codes[missing] = self._encode_new(Texts(buffer, strings.take(missing)))
        if long is not None:
            codes[long] = [self._code(texts.text(row)) for row in long.tolist()]
        return codes

    def _encode_new(self, texts: Texts) -> NDArray[np.int64]:
        """Return the codes of texts that the table does not have. Those of the overflow stay out of it."""
        first, which = distinct(texts.buffer, texts.strings)
        found = [(text, self._code(text)) for text in map(texts.text, first.tolist())]
        kept = [(text, code) for text, code in found if code != OVERFLOW_CODE]
        if len(self._table) + len(kept) > max(_MOST_TEXTS, 2 * self.limit):
            self._clear_texts()
        for text, code in kept:
            self._remember(text, code)
        return np.array([code for _, code in found], np.int64)[which]

    def _code(self, text: bytes) -> int:
        value = self._rules.value(text)
        code = self._codes.get(value)
        if code is not None:
            return code
        return self.adopt(value) if self.count < self.limit else OVERFLOW_CODE

    def _remember(self, text: bytes, code: int) -> None:
        buffer = np.frombuffer(text + bytes(PADDING), np.uint8)
        words = text_words(buffer, Strings(np.zeros(1, np.int64), np.array([len(text)])))
        row = [[int(step.words[0]) for step in words.steps]]
        number = self._table.add(len(text), row, int(self._table.hash(words)[0]))
        self._code_of = grown(self._code_of, number + 1)
        self._code_of[number] = code


class Dimensions:
    """The dimensions of a group index: the configured ones, and one that stands for all that groups had before.

    A group that was counted with a dimension which is not configured any more keeps it. No span has it, so a code tells
    such groups from those of the spans. Codes are packed into words, uint64[m] each, for all dimensions of m spans.
    """

    def __init__(self, dimensions: Sequence[Dimension] = (), hash_bits: int = 64) -> None:
        self.configured = [DimensionValues(dimension, hash_bits) for dimension in dimensions]
        self.names = tuple(dimension.name for dimension in dimensions)
        self.sources = tuple(dimension.source for dimension in dimensions)
        self._former: dict[tuple[tuple[str, str], ...], int] = {}
        self._combinations = Combinations(
            len(dimensions), len(_packed([np.zeros(0, np.int64)] * len(dimensions))), hash_bits
        )
        self._forget_known()

    def _forget_known(self, combinations: TextCombinations | None = None) -> None:
        """Forget the codes of combinations that decoders know, and begin with these."""
        self._known = combinations
        #: Number of a combination -> its packed codes; the first word is _UNKNOWN where they are not known.
        self._known_codes = [np.full(64, _UNKNOWN) for _ in range(-(-len(self.names) // _CODES_A_WORD))]

    def __bool__(self) -> bool:
        """Return whether groups differ in more than model, provider and caller."""
        return bool(self.names) or bool(self._former)

    @property
    def former(self) -> bool:
        """Return whether any group has dimensions that are not configured."""
        return bool(self._former)

    def clear(self) -> None:
        """Forget all values."""
        for values in self.configured:
            values.clear()
        self._combinations.clear()
        self._forget_known()
        self._former = {(): EMPTY_CODE} if self._former else {}

    def expect(self, groups: Sequence[Group]) -> None:
        """Prepare for groups that were counted with dimensions which are not configured any more."""
        if any(name not in self.names for group in groups for name, _ in group.dimensions):
            self._former.setdefault((), EMPTY_CODE)

    def encode(self, texts: Sequence[Texts], spans: int, known: KnownTexts | None = None) -> list[NDArray[np.uint64]]:
        """Return the codes of the spans. texts: of each configured dimension. known: the spans that these leave out."""
        if not texts:
            return self._with_former([], np.zeros(spans, np.int64))
        packed = self._encode_texts(texts) if known is None else self._encode_known(texts, known)
        return self._with_former(packed, np.zeros(spans, np.int64)) if self._former else packed

    def _encode_known(self, texts: Sequence[Texts], known: KnownTexts) -> list[NDArray[np.uint64]]:
        """Return the codes of spans whose texts are in columns or have a number."""
        if known.combinations is not self._known:
            self._forget_known(known.combinations)
        size = len(known.combinations)
        if size > len(self._known_codes[0]):
            more = [np.full(2 * size, _UNKNOWN) for _ in self._known_codes]
            for column, larger in zip(self._known_codes, more, strict=True):
                larger[: len(column)] = column
            self._known_codes = more
        packed = [column.take(known.number) for column in self._known_codes]
        if len(packed[0]) and packed[0].max() == _UNKNOWN:
            missing = np.flatnonzero(packed[0] == _UNKNOWN)
            in_columns = known.number[missing] == IN_COLUMNS
            rows = missing[in_columns]
            if len(rows):
                for word, codes in zip(
                    packed, self._encode_texts([column.take(rows) for column in texts]), strict=True
                ):
                    word[rows] = codes
            rows = missing[~in_columns]
            if len(rows):
                numbers, which = np.unique(known.number[rows], return_inverse=True)
                for word, codes in zip(packed, self._encode_numbers(known.combinations, numbers), strict=True):
                    word[rows] = codes[which]
        return packed

    def _encode_numbers(self, combinations: TextCombinations, numbers: NDArray[np.int64]) -> list[NDArray[np.uint64]]:
        """Return the codes of combinations, and remember them."""
        chosen = numbers.tolist()
        packed = self._encode_texts([Texts(*combinations.column(source, chosen)) for source in self.sources])
        # A value beyond a limit has a code of its own once a group with it is adopted.
        keep = np.ones(len(numbers), np.bool_)
        for place in range(len(self.names)):
            shift = np.uint64(place % _CODES_A_WORD * _CODE_BITS)
            keep &= packed[place // _CODES_A_WORD] >> shift & np.uint64(_CODE_MASK) != OVERFLOW_CODE
        for column, codes in zip(self._known_codes, packed, strict=True):
            column[numbers[keep]] = codes[keep]
        return packed

    def _encode_texts(self, texts: Sequence[Texts]) -> list[NDArray[np.uint64]]:
        packed, missing, hashes = self._combinations.find(texts)
        if len(missing):
            part = [column.take(missing) for column in texts]
            codes = [values.encode(column) for values, column in zip(self.configured, part, strict=True)]
            found = _packed(codes)
            for word, column in zip(packed, found, strict=True):
                word[missing] = column
            # What is beyond a limit may be anything, and would fill the table.
            keep = np.logical_and.reduce([column != OVERFLOW_CODE for column in codes])
            self._combinations.add(part, hashes, found, keep)
        return packed

    def codes_of(self, groups: Sequence[Group]) -> list[NDArray[np.uint64]]:
        """Return the codes of groups that are counted already."""
        rows = [dict(group.dimensions) for group in groups]
        codes = [[values.adopt(row.pop(values.name, "")) for row in rows] for values in self.configured]
        former = [
            self._former.setdefault(tuple(sorted(row.items())), len(self._former)) for row in rows if self._former
        ]
        return self._with_former(_packed([np.array(column, np.int64) for column in codes]), np.array(former, np.int64))

    def overflowed(self, spans: int) -> list[NDArray[np.uint64]]:
        """Return the codes of spans with each configured dimension beyond its limit."""
        codes = [np.full(spans, OVERFLOW_CODE) for _ in self.configured]
        return self._with_former(_packed(codes), np.zeros(spans, np.int64))

    def _with_former(self, packed: list[NDArray[np.uint64]], codes: NDArray[np.int64]) -> list[NDArray[np.uint64]]:
        """codes: of the dimensions that are not configured, which have a word of their own where any group has them."""
        return [*packed, codes.view(np.uint64)] if self._former else packed

    def pairs(self, packed: Sequence[NDArray[np.uint64]], row: int) -> tuple[tuple[str, str], ...]:
        """Return the dimensions of a span's group."""
        found = []
        for at, values in enumerate(self.configured):
            code = int(packed[at // _CODES_A_WORD][row]) >> at % _CODES_A_WORD * _CODE_BITS
            found.append((values.name, values.values[code & _CODE_MASK]))
        return tuple(sorted((name, value) for name, value in found if value))


def _packed(codes: Sequence[NDArray[np.int64]]) -> list[NDArray[np.uint64]]:
    """Return the codes of all dimensions as words: int64[m] each -> uint64[m] each."""
    words = []
    for first in range(0, len(codes), _CODES_A_WORD):
        word = codes[first]
        for place, column in enumerate(codes[first + 1 : first + _CODES_A_WORD], start=1):
            word = word | column << place * _CODE_BITS
        words.append(word.view(np.uint64))
    return words
