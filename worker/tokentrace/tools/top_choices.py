"""Choices of the user of `top`: the rows, their order, the filter, and the keys that change them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Final

from tokentrace.tools.top_rows import Figures

#: Rates of a row that are kept for its trend.
TREND_LENGTH: Final = 12

#: Sort -> the figure by which the rows descend; name ascends.
SORTS: Final = {
    "cost": "cost_usd",
    "spans": "spans",
    "spans/s": "spans_per_s",
    "errors": "error_ratio",
    "p95": "p95_ms",
    "name": "",
}


@dataclass(slots=True)
class View:
    """The user's choices. first: number of the first row that is shown. entering: whether a filter is being typed."""

    by: str = "model"
    sort: str = "cost"
    reverse: bool = False
    filter: str = ""
    first: int = 0
    paused: bool = False
    entering: bool = False
    done: bool = False
    #: Row -> its latest rates of spans.
    trends: dict[tuple[str, ...], deque[float]] = field(default_factory=dict)

    def press(self, key: str, labels: Sequence[str], page: int = 10) -> None:
        """Take a key. labels: those by which rows can be made. page: rows of a page."""
        if self.entering:
            self._type(key)
            return
        if key == "b":
            names = list(labels) or ["model"]
            self.by = names[(names.index(self.by) + 1) % len(names)] if self.by in names else names[0]
            self.first = 0
            self.trends.clear()
        elif key == "s":
            sorts = list(SORTS)
            self.sort = sorts[(sorts.index(self.sort) + 1) % len(sorts)]
        elif key == "r":
            self.reverse = not self.reverse
        elif key == "/":
            self.entering, self.filter, self.first = True, "", 0
        elif key in (" ", "p"):
            self.paused = not self.paused
        elif key in ("q", "ctrl-c"):
            self.done = True
        else:
            steps = {"j": 1, "down": 1, "k": -1, "up": -1, "page down": page, "page up": -page}
            self.first = max(self.first + steps.get(key, 0), 0)

    def _type(self, key: str) -> None:
        if key in ("enter", "escape"):
            self.entering = False
            self.filter = "" if key == "escape" else self.filter
        elif key == "backspace":
            self.filter = self.filter[:-1]
        elif len(key) == 1:
            self.filter += key

    def note(self, rows: Mapping[tuple[str, ...], Figures]) -> None:
        """Add the current rates to the trends."""
        for name, figures in rows.items():
            if figures.spans_per_s is not None:
                self.trends.setdefault(name, deque(maxlen=TREND_LENGTH)).append(figures.spans_per_s)

    def keeps(self, name: tuple[str, ...]) -> bool:
        """Return whether the filter, a part of the name or a glob, keeps a row."""
        wanted = self.filter.lower()
        return not wanted or any(wanted in part.lower() or fnmatch(part.lower(), wanted) for part in name)


def sorted_rows(rows: Mapping[tuple[str, ...], Figures], view: View) -> list[tuple[tuple[str, ...], Figures]]:
    """Return the rows that the filter keeps, in the order of the view; those without the figure come last."""
    kept = sorted((row for row in rows.items() if view.keeps(row[0])), key=lambda row: row[0], reverse=view.reverse)
    if key := SORTS[view.sort]:
        sign = 1 if view.reverse else -1
        kept.sort(key=lambda row: (getattr(row[1], key) is None, sign * (getattr(row[1], key) or 0.0)))
    return kept
