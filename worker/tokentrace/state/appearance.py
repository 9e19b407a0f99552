"""Appearance: when each series of a replica began, and which of them a Prometheus may have seen above 0.

Prometheus counts increments between two values that it has seen. A series that a scrape has shown as 0 may be shown in
full from then on, but a restart must know of it: what was shown in full never begins at 0 again, and what was not
begins at 0. So the commit comes first: `shown_until` is committed, then series that began until then are shown in full.

A cell's series begin with the cell, but for those that are left out while they are 0. These may begin later, and their
beginnings are in a header of the cell's record until they are shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.measures import Layout
from tokentrace.model.wide import NOTHING_CARRIED, CarriedRows
from tokentrace.state.headers import Header, Headers, decode_header, header_items, read_header

if TYPE_CHECKING:
    from tokentrace.state.totals import Totals

#: Header of a replica's own record: microseconds of Unix time, as text. Without it, everything was shown.
SHOWN_HEADER: Final = "tokentrace.shown-until"
#: Header of a cell's record: JSON, field of the counts -> microseconds of Unix time.
APPEARED_HEADER: Final = "tokentrace.appeared"

#: Cell -> field of the counts -> Unix time of the commit in which it began, after the cell's own first commit.
Appeared = Mapping[int, Mapping[str, float]]


def presence(layout: Layout, values: NDArray[np.int64], carried: CarriedRows = NOTHING_CARRIED) -> NDArray[np.bool_]:
    """Return which of `layout.appearing` are not 0 in rows: int64[t, width or full] -> bool[t, a]."""
    found = np.zeros((len(values), len(layout.appearing)), np.bool_)
    for place, name in enumerate(layout.appearing):
        columns = layout.fields[name]
        if columns.start >= values.shape[1]:
            continue
        found[:, place] = values[:, columns].any(axis=1)
        for row, more in carried.items():
            if not more.keys().isdisjoint(range(columns.start, columns.stop)):
                found[row, place] = True
    return found


def find_appeared(
    layout: Layout, cells: NDArray[np.int64], new: NDArray[np.bool_], now_s: float
) -> dict[int, dict[str, float]]:
    """Return cell -> field -> `now_s`. cells: int64[t]. new: bool[t, a], what of `layout.appearing` began in each."""
    some = np.flatnonzero(new.any(axis=1))
    return {
        cell: {name: now_s for name, began in zip(layout.appearing, row, strict=True) if began}
        for cell, row in zip(cells[some].tolist(), new[some].tolist(), strict=True)
    }


def not_yet_shown(appeared: Appeared, shown_until_s: float) -> dict[int, dict[str, float]]:
    """Return those that began after `shown_until_s` (Unix time)."""
    later: dict[int, dict[str, float]] = {}
    for cell, fields in appeared.items():
        if kept := {name: at_s for name, at_s in fields.items() if at_s > shown_until_s}:
            later[cell] = kept
    return later


def newest_s(totals: Totals) -> float:
    """Return the Unix time at which the newest series of these totals began, 0 where there is none."""
    return max(
        float(totals.created_s.max(initial=0.0)),
        max(totals.rejected_created_s.values(), default=0.0),
        max((at_s for fields in totals.appeared.values() for at_s in fields.values()), default=0.0),
        max((gap.since_s for gap in totals.gaps.values()), default=0.0),
        max((label_set.since_s for label_set in totals.label_sets.values()), default=0.0),
    )


def shown_header(shown_until_s: float) -> Header:
    """Return the header for a replica's own record."""
    return SHOWN_HEADER, str(round(shown_until_s * 1e6)).encode()


def shown_until(headers: Headers) -> float | None:
    """Return the Unix time until which series may have been shown, None where the headers do not say.

    Raises UnreadableRecord for a header that is not one of these.
    """
    return read_header(headers, SHOWN_HEADER, lambda value: int(value) / 1e6)


def appeared_headers(fields: Mapping[str, float]) -> list[Header]:
    """Return the headers for a cell's record; none where all of its series began with it."""
    if not fields:
        return []
    times_us = {name: round(at_s * 1e6) for name, at_s in fields.items()}
    return [(APPEARED_HEADER, json.dumps(times_us, separators=(",", ":")).encode())]


def appeared_header(headers: Headers) -> bytes:
    """Return the value of a cell's header, empty where it has none."""
    found = next((value for key, value in header_items(headers) if key == APPEARED_HEADER), b"")
    return found if isinstance(found, bytes) else b""


def decode_appeared(value: bytes) -> dict[str, float]:
    """Return field -> Unix time from a cell's header. Raises UnreadableRecord if it is damaged."""
    return decode_header(APPEARED_HEADER, value, _decode) if value else {}


def _decode(value: bytes) -> dict[str, float]:
    return {str(name): int(at_us) / 1e6 for name, at_us in json.loads(value).items()}
