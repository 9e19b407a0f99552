"""Programs: the steps of a compiled schema in order, run on all cursors or on some of them."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tokentrace.decode.columnar.cursors import Cursors


class Step(Protocol):
    """One operation on all cursors."""

    def run(self, cursors: Cursors) -> None:
        """Move the cursors past a value."""
        ...


Program = tuple[Step, ...]


def run(program: Program, cursors: Cursors) -> None:
    """Run the steps of a program in order."""
    for step in program:
        step.run(cursors)


def run_some(program: Program, cursors: Cursors, chosen: NDArray[np.bool_]) -> None:
    """Run a program on some of the cursors. chosen: bool[k]."""
    rows = np.flatnonzero(chosen)
    if len(rows):
        part = cursors.select(rows)
        run(program, part)
        cursors.pos[rows] = part.pos
