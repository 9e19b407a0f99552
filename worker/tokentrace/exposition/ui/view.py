"""View: what a page asks for, and the figures that a window of the minutes comes to.

Sums are exact integers. The cost of a total is text, since a browser's numbers hold 53 bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.exposition.ui.minutes import Columns, Minutes
from tokentrace.model.arrays import Ints
from tokentrace.model.measures import SUMS, UNIT_OF
from tokentrace.model.quantiles import quantile
from tokentrace.model.snapshot import Group
from tokentrace.model.spans import REPAIRS, STATUSES
from tokentrace.model.wide import joined

#: Windows in minutes, and the quantiles of durations.
WINDOWS: Final = (15, 60, 360, 1440)
QUANTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
#: Points of a chart at most; a longer window has several minutes a point.
MOST_POINTS: Final = 180
#: Rows of the table; the others are one row together. Lines of the chart that splits the cost.
MOST_ROWS: Final = 50
MOST_LINES: Final = 6
MOST_FILTERS: Final = 8

_ERROR, _TIMEOUT = STATUSES.index("error"), STATUSES.index("timeout")
#: Sum -> unit, of those with a column of their own.
_UNITS: Final = {name: unit.name for name, unit in UNIT_OF.items() if name in SUMS}
_SCALES: Final = {name: UNIT_OF[name].scale for name in _UNITS}


@dataclass(frozen=True, slots=True)
class View:
    """minutes: length of the window. by: the label of the table's rows. where: (label, value) of every span in it."""

    minutes: int = 60
    by: str = "model"
    where: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, query: Sequence[tuple[str, str]], labels: Sequence[str]) -> View:
        """Read a query: `window`, `by` and any number of `where.<label>`. Raises ValueError with what is wrong."""
        known = {"window": "60", "by": "model"}
        where: dict[str, str] = {}
        for name, value in query:
            if name in known:
                known[name] = value
            elif name.startswith("where.") and name.removeprefix("where.") in labels:
                where[name.removeprefix("where.")] = value
            else:
                raise ValueError(f"unknown parameter {name!r}; use window, by, and where.<label>")
        if known["window"] not in map(str, WINDOWS):
            raise ValueError(f"window: use one of {', '.join(map(str, WINDOWS))}, in minutes")
        if known["by"] not in labels:
            raise ValueError(f"by: use one of {', '.join(labels)}")
        if len(where) > MOST_FILTERS:
            raise ValueError(f"where: use at most {MOST_FILTERS}")
        return cls(int(known["window"]), known["by"], tuple(sorted(where.items())))

    @property
    def step(self) -> int:
        """Minutes of a point."""
        return -(-self.minutes // MOST_POINTS)


@dataclass(slots=True)
class _Sums:
    """Sums of k things. values: int64[k, width]. errors, timeouts: int64[k]."""

    values: Ints
    errors: Ints
    timeouts: Ints

    @classmethod
    def zeros(cls, count: int, width: int) -> _Sums:
        return cls(np.zeros((count, width), np.int64), np.zeros(count, np.int64), np.zeros(count, np.int64))

    def folded(self, places: Ints, count: int) -> _Sums:
        """Add things up: those with the same place become one of `count`."""
        sums = _Sums.zeros(count, self.values.shape[1])
        np.add.at(sums.values, places, self.values)
        np.add.at(sums.errors, places, self.errors)
        np.add.at(sums.timeouts, places, self.timeouts)
        return sums

    def select(self, rows: Ints) -> _Sums:
        return _Sums(self.values[rows], self.errors[rows], self.timeouts[rows])


def summarize(minutes: Minutes, view: View, now_minute: int) -> dict[str, Any]:
    """Return the figures of a view as a JSON object: by point of time, in total, and by value of the label."""
    columns, step = minutes.columns, view.step
    last = now_minute // step
    first = last - view.minutes // step + 1
    # Whoever reads the next record may number more groups meanwhile.
    known = tuple(minutes.groups)
    selected = _selected(known, view.where)
    points = _Sums.zeros(last - first + 1, columns.width)
    by_key = np.zeros((len(known) * len(STATUSES), columns.width), np.int64)
    costs: list[tuple[int, Ints, NDArray[np.float64]]] = []
    for minute in minutes.between(first * step, now_minute):
        keys, values = minute.keys, minute.values
        if view.where:
            rows = selected[keys // len(STATUSES)]
            keys, values = keys[rows], values[rows]
        point = minute.minute // step - first
        points.values[point] += values.sum(axis=0)
        # A key is in a minute once.
        by_key[keys] += values
        statuses, spans = keys % len(STATUSES), values[:, columns.spans]
        points.errors[point] += spans[statuses == _ERROR].sum()
        points.timeouts[point] += spans[statuses == _TIMEOUT].sum()
        costs.append((point, keys // len(STATUSES), _cost(columns, values).astype(np.float64)))
    by_group = _by_group(columns, by_key)
    names, value_of = _values_of(known, view.by)
    by_value = by_group.folded(value_of, len(names))
    order = _by_cost(columns, by_value)
    return {
        "first": first * step * 60,
        "step": step,
        "points": _points(columns, points),
        "total": next(_figures(columns, by_group.folded(np.zeros(len(known), np.int64), 1))),
        "rows": _rows(columns, by_value, names, order),
        "lines": _lines(costs, value_of, names, order[:MOST_LINES], len(points.errors)),
    }


def _by_group(columns: Columns, by_key: Ints) -> _Sums:
    by_status = by_key.reshape(-1, len(STATUSES), columns.width)
    spans = by_status[:, :, columns.spans]
    return _Sums(by_status.sum(axis=1), spans[:, _ERROR], spans[:, _TIMEOUT])


def _selected(groups: Sequence[Group], where: Sequence[tuple[str, str]]) -> NDArray[np.bool_]:
    return np.array([all(group.label(name) == value for name, value in where) for group in groups], np.bool_)


def _values_of(groups: Sequence[Group], label: str) -> tuple[list[str], Ints]:
    """Return (the values of a label, int64[groups]: the place of each group's value among them)."""
    places: dict[str, int] = {}
    value_of = np.array([places.setdefault(group.label(label), len(places)) for group in groups], np.int64)
    return list(places), value_of


def _cost(columns: Columns, values: Ints) -> Any:
    """int64[k], or Python's integers, in nano-USD."""
    return joined(values[:, columns.cost], values[:, columns.cost_high])


def _by_cost(columns: Columns, sums: _Sums) -> list[int]:
    """Return the rows that have spans, those that cost most first."""
    costs, spans = _cost(columns, sums.values).tolist(), sums.values[:, columns.spans].tolist()
    return sorted((row for row in range(len(spans)) if spans[row]), key=lambda row: (-costs[row], -spans[row], row))


def _rows(columns: Columns, sums: _Sums, names: Sequence[str], order: Sequence[int]) -> list[dict[str, Any]]:
    shown, others = list(order[:MOST_ROWS]), list(order[MOST_ROWS:])
    rows: list[dict[str, Any]] = [
        {"value": names[row], **figures}
        for row, figures in zip(shown, _figures(columns, sums.select(np.array(shown, np.int64))), strict=True)
    ]
    if others:
        rest = sums.select(np.array(others, np.int64)).folded(np.zeros(len(others), np.int64), 1)
        rows.append({"value": None, "others": len(others), **next(_figures(columns, rest))})
    return rows


def _figures(columns: Columns, sums: _Sums) -> Iterator[dict[str, Any]]:
    """Give the figures of each row; None where there is nothing to compute one of."""
    values, costs = sums.values, _cost(columns, sums.values).tolist()
    durations = {name: _quantiles(columns, values, name) for name in Columns.DURATIONS}
    for row, numbers in enumerate(values.tolist()):
        units = {_UNITS[name]: numbers[SUMS.index(name)] / _SCALES[name] for name in _UNITS}
        scores = numbers[columns.score_count]
        yield {
            "spans": numbers[columns.spans],
            "errors": int(sums.errors[row]),
            "timeouts": int(sums.timeouts[row]),
            "cost_nano_usd": str(costs[row]),
            "units": {name: quantity for name, quantity in units.items() if quantity},
            "quality": numbers[columns.score_sum] / scores / 1e6 if scores else None,
            "scores": scores,
            "unpriced": numbers[SUMS.index("unpriced")],
            "repaired": {name.removeprefix("repaired_"): numbers[SUMS.index(name)] for name in REPAIRS},
            "clamped": numbers[SUMS.index("clamped_times")],
            **{name: {key: found[key][row] for key in found} for name, found in durations.items()},
        }


def _points(columns: Columns, sums: _Sums) -> dict[str, Any]:
    """Return the series: a list for each, of one number a point."""
    values = sums.values
    with np.errstate(invalid="ignore", divide="ignore"):
        quality = values[:, columns.score_sum] / values[:, columns.score_count] / 1e6
    return {
        "spans": values[:, columns.spans].tolist(),
        "errors": sums.errors.tolist(),
        "timeouts": sums.timeouts.tolist(),
        "cost_usd": (_cost(columns, values).astype(np.float64) / 1e9).tolist(),
        "quality": _or_none(quality),
        "units": {
            unit: (values[:, SUMS.index(name)] / _SCALES[name]).tolist()
            for name, unit in _UNITS.items()
            if values[:, SUMS.index(name)].any()
        },
        **{name: _quantiles(columns, values, name) for name in Columns.DURATIONS},
    }


def _lines(
    costs: Sequence[tuple[int, Ints, NDArray[np.float64]]],
    value_of: Ints,
    names: Sequence[str],
    shown: Sequence[int],
    points: int,
) -> list[dict[str, Any]]:
    """Return the cost in USD of the values that cost most, by point."""
    line_of = np.full(len(names), len(shown), np.int64)
    line_of[list(shown)] = range(len(shown))
    lines = np.zeros((len(shown) + 1, points))
    for point, groups, cost in costs:
        lines[:, point] += np.bincount(line_of[value_of[groups]], weights=cost, minlength=len(shown) + 1)
    return [{"value": names[row], "cost_usd": (lines[place] / 1e9).tolist()} for place, row in enumerate(shown)]


def _quantiles(columns: Columns, values: Ints, name: str) -> Mapping[str, list[float | None]]:
    buckets, bounds = values[:, columns.buckets[name]], columns.bounds[name]
    return {key: _or_none(quantile(q, buckets, bounds)) for key, q in QUANTILES.items()}


def _or_none(numbers: NDArray[np.float64]) -> list[float | None]:
    """JSON has no NaN."""
    return [None if np.isnan(number) else float(number) for number in numbers]
