"""Memory of groups: what a worker keeps of them, beside what it takes before the first span.

A cell's row of integers is held several times while a commit touches it: the committed totals, the next ones, the
delta, its sums by cell, and what is encoded. A group has its names, and rows in the tables that find it. A scrape's
text is held in parts and as a whole. The factors are fitted to the highest resident size of 20 measured cases, of 3,000
to 30,000 groups, 34 and 86 columns, none to 8 dimensions, names of 6 and 60 letters, and scrapes of 0.1 to 25 MB: all
are within 21 %. Measured with every group in every commit, 2026-11.
"""

from __future__ import annotations

from typing import Final

from tokentrace.aggregate.groups import GroupIndex
from tokentrace.model.measures import Layout

#: Copies of a cell's row at most.
_ROWS: Final = 5.3
_GROUP_BYTES: Final = 1000
#: A dimension of a group, and a byte of any of its names.
_DIMENSION_BYTES: Final = 350
_NAME_BYTES: Final = 5.5
#: Copies of a scrape's text.
_TEXTS: Final = 2.7


def group_memory_bytes(index: GroupIndex, layout: Layout, scrape_bytes: int) -> int:
    """Return the memory of an index's groups, their totals and commits, and a scrape of so many bytes."""
    groups = index.groups[1:]
    names = [[*group.base, *(value for _, value in group.dimensions)] for group in groups]
    row_bytes = 8 * layout.width
    return round(
        _ROWS * row_bytes * len(index.cell_group)
        + _GROUP_BYTES * len(groups)
        + _DIMENSION_BYTES * sum(len(group.dimensions) for group in groups)
        + _NAME_BYTES * sum(len(name.encode()) for parts in names for name in parts)
        + _TEXTS * scrape_bytes
    )
