"""Snapshot: the committed totals at one moment, immutable; all that exposition reads.

The ledger makes one at every commit. A scrape renders the snapshot that it finds, without a lock: the worker
never writes to an array that a snapshot holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.measures import Layout

#: The label value of everything beyond `metrics.max_groups`.
OVERFLOW = "__overflow__"
#: What `tokentrace state show` calls the labels of groups that expired. No series has it.
EXPIRED = "__expired__"


class Group(NamedTuple):
    """The label values of one group."""

    model: str
    provider: str
    caller: str


class ExpiredKey(NamedTuple):
    """Groups that expired, of one model, provider and status code; None: of all."""

    model: str | None
    provider: str | None
    status: int


class ExpiredTotals(NamedTuple):
    """What they have counted. values: int64[layout.width]. created_s: Unix time of the first of it."""

    values: NDArray[np.int64]
    created_s: float


class PartitionAudit(NamedTuple):
    """Records of one input partition, committed: polled = counted + rejected + duplicates, exactly."""

    polled: int
    counted: int
    rejected: int
    duplicates: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Committed totals of r folded rows and k cells over g groups; the folded rows come first.

    epoch: changes when cell or group numbers are assigned anew; caches keyed on cells must then be dropped.
    groups: at least g groups; the list only grows within an epoch, so an index once read stays right.
    cell_group: int32[k], index into groups. cell_status: uint8[k], index into spans.STATUSES.
    folded: what the r rows are of. They change with the epoch alone.
    values: int64[r + k, layout.width].
    created_s: float64[r + k], Unix time at which the row was first counted.
    rejected: reason -> messages or parts. rejected_created_s: reason -> Unix time of its first.
    quality_sum: int64[r + k], millionths; quality_count: int64[r + k]: scores inside the quality window.
    partitions: partition -> audit.
    overflowed_spans: spans that were folded into the overflow group.
    """

    epoch: int
    layout: Layout
    groups: Sequence[Group]
    cell_group: NDArray[np.int32]
    cell_status: NDArray[np.uint8]
    values: NDArray[np.int64]
    created_s: NDArray[np.float64]
    rejected: Mapping[str, int]
    rejected_created_s: Mapping[str, float]
    quality_sum: NDArray[np.int64]
    quality_count: NDArray[np.int64]
    partitions: Mapping[int, PartitionAudit]
    groups_count: int
    groups_limit: int
    overflowed_spans: int
    committed_at_s: float
    folded: Sequence[ExpiredKey] = ()


OVERFLOW_GROUP: Final = 0
