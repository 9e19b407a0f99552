"""Steps for decimals of up to 16 bytes, see `decode.decimals`. What is longer or larger is left to the fallback."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.decode.columnar.cursors import Cursors
from tokentrace.decode.decimals import MOST_NANO_USD, NANO_DIGITS
from tokentrace.model.arrays import LOW_BYTES
from tokentrace.model.spans import Numbers

#: Most bytes: those of two words.
MAX_BYTES: Final = 16
#: Most digits behind those of a nano-dollar, so that a remainder may be doubled.
MAX_SHIFT: Final = 18


@dataclass(frozen=True, slots=True)
class DecimalAmount:
    """Reads a decimal. size: bytes of a fixed, None for bytes."""

    column: str
    scale: int
    size: int | None

    def run(self, cursors: Cursors) -> None:
        fixed = self.size is not None
        length = np.full(len(cursors), self.size, np.int64) if fixed else cursors.length().astype(np.int64)
        over = np.clip(length - 8, 0, 8)
        # The bytes before the last eight repeat the sign.
        mask = LOW_BYTES.take(over)
        high = cursors.words() & mask
        np.add(cursors.pos, over, out=cursors.pos)
        value = cursors.words().byteswap().view(np.int64) >> 8 * (8 - np.clip(length, 0, 8))
        np.add(cursors.pos, length - over, out=cursors.pos)
        bad = (length == 0) | (length > MAX_BYTES) | (high != np.where(value < 0, mask, 0))
        nano, large = self._nano_usd(value)
        bad |= large
        if bad.any():
            cursors.drop(bad)
        numbers: Numbers = cursors.chunk.outputs[self.column]
        cursors.write(numbers.values, nano / 10**NANO_DIGITS)
        cursors.write(numbers.present, True)

    def _nano_usd(self, value: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return (nano-dollars, bool[k]: those that are too large)."""
        if self.scale <= NANO_DIGITS:
            factor = 10 ** (NANO_DIGITS - self.scale)
            most = MOST_NANO_USD // factor
            return value * factor, (value > most) | (value < -most)
        divisor = 10 ** (self.scale - NANO_DIGITS)
        nano = value // divisor
        rest = 2 * (value - nano * divisor)
        nano += (rest > divisor) | ((rest == divisor) & (nano & 1 == 1))
        return nano, (nano > MOST_NANO_USD) | (nano < -MOST_NANO_USD)
