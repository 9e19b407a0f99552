"""Hashing: the constants and the last step of the 64-bit hashes of groups and of span ids.

The two open-addressing tables stay apart, since their loops differ where the time goes: `GroupIndex` compares whole
labels word by word, adds rarely and returns at once when every first probe hits; `IdTable` compares one word, adds most
of a batch and restamps what is expired.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

#: Odd multipliers of a 64-bit hash: the golden ratio, and one of the finaliser of SplitMix64.
GOLDEN_RATIO: Final = np.uint64(0x9E3779B97F4A7C15)
SPLITMIX: Final = np.uint64(0xBF58476D1CE4E5B9)
#: A free slot of a table whose keys are never 0.
NO_KEY: Final = np.uint64(0)


def finish(hashes: NDArray[np.uint64]) -> None:
    """Mix the high bits into the low ones, by which tables are indexed, in place."""
    hashes *= SPLITMIX
    hashes ^= hashes >> np.uint64(29)
