"""Text combinations: the texts of the attributes that dimensions are made from, numbered as they appear together.

Spans repeat few combinations. A decoder that recognises one by its bytes stores its number instead of each text, and
the texts are looked up once per combination, not once per span.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.arrays import PADDING, Ints
from tokentrace.model.spans import Strings

#: Number of a span whose texts are in their columns.
IN_COLUMNS: Final = 0
#: Most forms of combinations that decoders remember. A full table is begun again.
MOST_FORMS: Final = 30_000


class TextCombinations:
    """Numbers the combinations of the texts of `sources`, from 1 on.

    texts: number -> the text of each source. remembered: what decoders keep for as long, by their own keys.
    forms: forms of combinations that they know, such as the bytes of one in a writer's schema.
    """

    def __init__(self, sources: Sequence[str], hash_bits: int = 64) -> None:
        """hash_bits exists to make collisions in tests."""
        self.sources = tuple(sources)
        self.hash_bits = hash_bits
        self.texts: list[tuple[bytes, ...]] = [()]
        self.remembered: dict[object, Any] = {}
        self.forms = 0
        self._numbers: dict[tuple[bytes, ...], int] = {}

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def full(self) -> bool:
        """Return whether there are too many: the next batch has to begin with new ones."""
        return self.forms >= MOST_FORMS

    def number(self, texts: tuple[bytes, ...]) -> int:
        """Return the number of a combination, a new one where it is new."""
        number = self._numbers.get(texts)
        if number is None:
            number = self._numbers[texts] = len(self.texts)
            self.texts.append(texts)
        return number

    def column(self, source: str, numbers: Sequence[int]) -> tuple[NDArray[np.uint8], Strings]:
        """Return the texts that these combinations have of a source, in a buffer of their own."""
        place = self.sources.index(source)
        data = [self.texts[number][place] for number in numbers]
        length = np.fromiter(map(len, data), np.int64, len(data))
        buffer = np.frombuffer(b"".join(data) + bytes(PADDING), np.uint8)
        return buffer, Strings(np.cumsum(length) - length, length)


@dataclass(frozen=True, slots=True)
class KnownTexts:
    """The combinations of m spans. number: int64[m], IN_COLUMNS for a span whose texts are in their columns."""

    number: Ints
    combinations: TextCombinations

    def take(self, rows: Ints) -> KnownTexts:
        return KnownTexts(self.number.take(rows), self.combinations)
