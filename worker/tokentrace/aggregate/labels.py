"""Labels: the strings that name a group, as 64-bit words over a whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.arrays import PADDING
from tokentrace.model.snapshot import BASE_LABELS, Group
from tokentrace.model.spans import Strings, string_words


class Step(NamedTuple):
    """Word `number` of part `part`. rows: int64[s], the spans that have it, None for all. words: uint64[s].

    The parts are the labels and, where there are any, the packed codes of the dimensions.
    """

    part: int
    number: int
    rows: NDArray[np.int64] | None
    words: NDArray[np.uint64]


class Labels(Protocol):
    """The label strings of m spans, valid UTF-8, in a buffer that has PADDING bytes after them."""

    @property
    def buffer(self) -> NDArray[np.uint8]: ...
    @property
    def model(self) -> Strings: ...
    @property
    def provider(self) -> Strings: ...
    @property
    def caller(self) -> Strings: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class LabelColumns:
    """Labels without a batch around them."""

    buffer: NDArray[np.uint8]
    model: Strings
    provider: Strings
    caller: Strings

    def __len__(self) -> int:
        return len(self.model.length)

    @classmethod
    def taken(cls, spans: Labels, rows: NDArray[np.int64]) -> LabelColumns:
        """Return the labels of some spans."""
        return cls(spans.buffer, spans.model.take(rows), spans.provider.take(rows), spans.caller.take(rows))


class LabelWords(NamedTuple):
    """The labels of m spans as 64-bit words, zero-padded. header: uint64[m], the lengths in one word."""

    header: NDArray[np.uint64]
    steps: list[Step]


def label_words(spans: Labels, codes: Sequence[NDArray[np.uint64]] = ()) -> LabelWords:
    """Split the labels of a batch into words; a step lists its spans only if some have no such word.

    codes: packed codes of the dimensions, uint64[m] each.
    """
    header = np.zeros(len(spans), np.uint64)
    steps: list[Step] = []
    for part, strings in enumerate((spans.model, spans.provider, spans.caller)):
        header <<= np.uint64(21)
        header |= strings.length.view(np.uint64)
        for number, (rows, words) in enumerate(string_words(spans.buffer, strings)):
            steps.append(Step(part, number, rows, words))
    steps += [Step(len(BASE_LABELS), number, None, words) for number, words in enumerate(codes)]
    return LabelWords(header, steps)


def text_words(buffer: NDArray[np.uint8], strings: Strings) -> LabelWords:
    """Split the strings of one column into words, as rows of one part."""
    words = enumerate(string_words(buffer, strings))
    return LabelWords(strings.length.view(np.uint64), [Step(0, number, rows, found) for number, (rows, found) in words])


def among(step: Step, spans: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Return the positions in `spans` (of `count` in all) that have the step's word, and these words."""
    if step.rows is None:
        return np.arange(len(spans)), step.words.take(spans)
    where = np.full(count, -1, np.int64)
    where[step.rows] = np.arange(len(step.rows))
    local = where.take(spans)
    here = np.flatnonzero(local >= 0)
    return here, step.words.take(local[here])


def words_of(group: Group) -> tuple[int, list[list[int]]]:
    """Return the header and each label's words of one group, as `label_words` does; its dimensions are left out."""
    data = [part.encode() for part in group.base]
    model, provider, caller = map(len, data)
    words = [[int.from_bytes(part[start : start + 8], "little") for start in range(0, len(part), 8)] for part in data]
    return model << 42 | provider << 21 | caller, words


def labels_of(groups: Sequence[Group]) -> LabelColumns:
    """Return the labels of these groups as columns, without their dimensions."""
    parts = [part.encode() for group in groups for part in group.base]
    lengths = np.array([len(part) for part in parts], np.int64)
    offsets = np.cumsum(lengths) - lengths
    buffer = np.frombuffer(b"".join(parts) + bytes(PADDING), np.uint8)
    return LabelColumns(buffer, *(Strings(offsets[part::3], lengths[part::3]) for part in range(3)))


def group_of(spans: Labels, index: int) -> Group:
    """Decode the labels of one span, without dimensions."""
    model, provider, caller = (_text(spans, strings, index) for strings in (spans.model, spans.provider, spans.caller))
    return Group(model, provider, caller)


def _text(spans: Labels, strings: Strings, index: int) -> str:
    start = int(strings.offset[index])
    return spans.buffer[start : start + int(strings.length[index])].tobytes().decode()
