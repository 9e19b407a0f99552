"""Snapshot: the committed totals at one moment, immutable. Exposition reads nothing else of the totals.

The ledger publishes one at every commit. Scrapes share no lock with the worker, which never writes to an array that a
snapshot holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.measures import Layout
from tokentrace.model.wide import NOTHING_CARRIED, Carried, CarriedRows

#: The label value of everything beyond `metrics.max_groups`, and of a dimension's values beyond its limit.
OVERFLOW: Final = "__overflow__"
#: Index of its group.
OVERFLOW_GROUP: Final = 0
#: Labels that every group has.
BASE_LABELS: Final = ("model", "provider", "caller")
#: Label value of expired groups in `tokentrace state show`. No series has it.
EXPIRED: Final = "__expired__"


class Group(NamedTuple):
    """The label values of one group. dimensions: (name, value) of those that have a value, sorted by name."""

    model: str
    provider: str
    caller: str
    dimensions: tuple[tuple[str, str], ...] = ()

    def label(self, name: str) -> str:
        """Return the value of a label, empty for a dimension without one."""
        if name in BASE_LABELS:
            value: str = getattr(self, name)
            return value
        return next((value for dimension, value in self.dimensions if dimension == name), "")

    @property
    def base(self) -> tuple[str, str, str]:
        """The model, provider and caller."""
        return self[:3]

    def labels(self) -> dict[str, str]:
        """Return label -> value; dimensions without a value are left out."""
        return {"model": self.model, "provider": self.provider, "caller": self.caller, **dict(self.dimensions)}


class ExpiredKey(NamedTuple):
    """Expired groups of one model, provider and status code. model, provider: None for all of them."""

    model: str | None
    provider: str | None
    status: int


class ExpiredTotals(NamedTuple):
    """Totals of expired groups. values: int64[layout.width], with what they carry. created_s: of their first span."""

    values: NDArray[np.int64]
    created_s: float
    carried: Carried = NOTHING_CARRIED


class DimensionUse(NamedTuple):
    """Use of a dimension: its values with series of their own, the most of these, and the spans beyond that."""

    values: int
    limit: int
    overflowed_spans: int


class PartitionAudit(NamedTuple):
    """Committed records and spans of an input partition: spans = counted + rejected + duplicates + ignored, exactly.

    polled: records. surplus: spans in them beyond one each; a record that cannot be read is one.
    """

    polled: int
    counted: int
    rejected: int
    duplicates: int = 0
    ignored: int = 0
    surplus: int = 0

    @property
    def spans(self) -> int:
        """Spans in the polled records."""
        return self.polled + self.surplus


class Gap(NamedTuple):
    """Records of an input partition that were passed over or lost. since_s: Unix time of the first."""

    records: int
    since_s: float


#: (kind, input partition). kind: "lost", "truncated" or "skipped"; see `families.GAP_FAMILIES`.
GapKey = tuple[str, int]


class LabelSet(NamedTuple):
    """The labels of a family. labels: sorted. revision: how often they were changed.

    since_s: Unix time of the last change, 0 where there was none.
    """

    labels: tuple[str, ...]
    revision: int = 0
    since_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Committed totals of r expired rows and k cells over g groups; the expired rows come first.

    epoch: changes when cells or groups are renumbered; caches keyed on their numbers must then be dropped.
    groups: at least g groups; the list only grows within an epoch, so an index stays valid.
    cell_group: int32[k], index into groups. cell_status: uint8[k], index into spans.STATUSES.
    expired: the keys of the r expired rows, which change only with the epoch.
    values: int64[r + k, layout.width]. carried: row -> what exceeds it, see `model.wide`.
    created_s: float64[r + k], Unix time at which the row was first counted.
    rejected: reason -> messages or parts of spans. rejected_created_s: reason -> Unix time of the first.
    quality_sum: int64[r + k], millionths; quality_count: int64[r + k]: scores inside the quality window.
    partitions: partition -> audit.
    overflowed_spans: spans that were counted in the overflow group.
    newest_s: Unix time at which the newest series began. shown_until_s: series that began until then may be shown.
    appeared: row -> field of the layout -> Unix time at which it began, where that is later than both the row's first
    count and shown_until_s.
    label_sets: family without `tokentrace_` -> the labels that it is exposed with, where totals were restored.
    gaps: (kind, partition) -> records that are missing in the log or in the totals.
    dimensions: configured dimension -> its use. dimension_groups: groups that have any, dimension_groups_limit: most of
    these.
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
    expired: Sequence[ExpiredKey] = ()
    carried: CarriedRows = field(default_factory=dict)
    newest_s: float = 0.0
    appeared: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    shown_until_s: float = math.inf
    label_sets: Mapping[str, LabelSet] = field(default_factory=dict)
    gaps: Mapping[GapKey, Gap] = field(default_factory=dict)
    dimensions: Mapping[str, DimensionUse] = field(default_factory=dict)
    dimension_groups: int = 0
    dimension_groups_limit: int = 0
