"""Measure: repeats become a median with its spread; rows become a table.

Runs that are compared take turns, so that a machine that others use as well is slow or fast for both. A ratio is the
median of the turns' ratios, not the ratio of medians.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure over its repeats."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    def over(self, other: Measure) -> Measure:
        """The ratio, turn by turn."""
        return Measure(
            tuple(numerator / denominator for numerator, denominator in zip(self.values, other.values, strict=True))
        )

    def text(self, unit: str = "", scale: float = 1.0, digits: int = 3) -> str:
        """Median and, in brackets, the lowest and the highest repeat."""
        median, low, high = (_short(value / scale, digits) for value in (self.median, self.low, self.high))
        spread = f" [{low}..{high}]" if len(self.values) > 1 else ""
        return f"{median}{unit}{spread}"


def _short(value: float, digits: int) -> str:
    """So many significant digits, without an exponent."""
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f"{value:.{max(digits - whole, 0)}f}"


def in_turns(repeats: int, *runs: Callable[[], float]) -> list[Measure]:
    """Every run once a turn; one Measure for each."""
    turns = [[run() for run in runs] for _ in range(repeats)]
    return [Measure(values) for values in zip(*turns, strict=True)]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. ratio: to what `against` names."""

    case: str
    measured: str
    ratio: str = ""
    against: str = ""
    target: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """Result of one benchmark: rows for the eye, and its part of the JSON object."""

    title: str
    rows: Sequence[Row]
    results: dict[str, dict[str, Any]] = field(default_factory=dict)


def table(figures: Sequence[Figure]) -> str:
    """Markdown, aligned, so that it reads in a terminal as well."""
    head = ("", "case", "measured", "ratio", "to", "target")
    lines = [
        (figure.title if index == 0 else "", row.case, row.measured, row.ratio, row.against, row.target)
        for figure in figures
        for index, row in enumerate(figure.rows)
    ]
    widths = [max(len(line[column]) for line in (head, *lines)) for column in range(len(head))]
    cut = tuple("-" * width for width in widths)
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in (head, cut, *lines)
    )


def rate_of(action: Callable[[], object], count: int) -> Callable[[], float]:
    """Return what runs the action, and returns how many of `count` it does a second."""

    def run() -> float:
        began = time.perf_counter()
        action()
        return count / (time.perf_counter() - began)

    return run
