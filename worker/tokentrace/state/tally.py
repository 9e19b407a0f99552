"""Tally: how many records a replica's totals have and what these sum to, in a header of the replica's own record.

A record that was deleted from outside leaves no trace in those that remain, and neither does one that was replaced by
an older one. The tally is written with every commit, in its transaction, and compared when the totals are read back.
Expiry moves sums from cells to expired groups, so it changes the numbers of records, and no sum.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import numpy as np

from tokentrace.model.measures import Layout
from tokentrace.model.wide import LIMIT, joined, words
from tokentrace.state.headers import Header, Headers, read_header
from tokentrace.state.totals import NOTHING_EXPIRED, Expiry, Totals

#: Header of a replica's own record: JSON, the numbers of records, and sums as decimal text. Release 0.1.0 neither
#: writes nor reads it, so what that has written last is not compared.
TOTALS_HEADER: Final = "tokentrace.totals"
#: The sums that are compared: every span changes at least one of them.
COMPARED: Final = ("spans", "cost_nano_usd", "prompt_tokens", "completion_tokens")
_COLUMNS: Final = [Layout.column(name) for name in COMPARED]


class Tally(NamedTuple):
    """cells, expired: records of cells and of expired groups. sums: name -> sum over all of them."""

    cells: int
    expired: int
    sums: Mapping[str, int]

    @classmethod
    def of(cls, totals: Totals, expiry: Expiry = NOTHING_EXPIRED) -> Tally:
        """Return the tally of totals once `expiry` is committed with them."""
        # A cell that no commit has changed yet has no record.
        cells = np.count_nonzero(totals.created_s) - np.count_nonzero(totals.created_s[expiry.expired_cells])
        values, rows = totals.values[:, _COLUMNS], totals.expired.values()
        if rows:
            values = np.concatenate([values, np.stack([row.values[_COLUMNS] for row in rows])])
        low, high = words(values)
        sums = joined(low.sum(axis=0), high.sum(axis=0)).tolist()
        carried = [*totals.carried.values(), *(row.carried for row in rows)]
        for place, column in enumerate(_COLUMNS):
            sums[place] += LIMIT * sum(row.get(column, 0) for row in carried)
        expired = expiry.expired if expiry else totals.expired
        return cls(int(cells), len(expired), dict(zip(COMPARED, sums, strict=True)))

    def header(self) -> Header:
        """Return the header that holds this tally."""
        fields = self._asdict() | {"sums": {name: str(number) for name, number in self.sums.items()}}
        return TOTALS_HEADER, json.dumps(fields, separators=(",", ":")).encode()

    def differences(self, found: Tally) -> Iterator[tuple[str, int, int]]:
        """Give what differs in the records that were found: (name, number of this tally, number found).

        Sums that one of the two releases does not know are left out.
        """
        numbers = {"cells": found.cells, "expired groups": found.expired, **found.sums}
        for name, number in {"cells": self.cells, "expired groups": self.expired, **self.sums}.items():
            if numbers.get(name, number) != number:
                yield name, number, numbers[name]


def tally_of(headers: Headers) -> Tally | None:
    """Return the tally in the headers of a replica's own record, None where there is none.

    Raises UnreadableRecord for a header that does not hold one.
    """
    return read_header(headers, TOTALS_HEADER, _decode)


def _decode(value: bytes) -> Tally:
    found = json.loads(value)
    sums = {str(name): int(number) for name, number in found["sums"].items()}
    return Tally(int(found["cells"]), int(found["expired"]), sums)
