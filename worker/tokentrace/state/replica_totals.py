"""Replica totals: what one replica has counted since its first commit, and sums of several by their labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from tokentrace.model.snapshot import EXPIRED, Gap, GapKey, Group, PartitionAudit
from tokentrace.state.inputs import Input


@dataclass(frozen=True, slots=True)
class ReplicaTotals:
    """Totals of one replica since its first commit. sums: (group, status) -> sum by name, in the units of the state.

    audits: input partition -> its records. rejected: reason -> messages. gaps: records that were passed over or lost.
    inputs: input partition -> where it began, and its rejects by reason. generations: of the logs of the positions.
    """

    replica: str
    committed_at_s: float
    positions: Mapping[tuple[str, int], int]
    sums: Mapping[tuple[Group, str], Mapping[str, int]]
    audits: Mapping[int, PartitionAudit] = field(default_factory=dict)
    rejected: Mapping[str, int] = field(default_factory=dict)
    gaps: Mapping[GapKey, Gap] = field(default_factory=dict)
    inputs: Mapping[int, Input] = field(default_factory=dict)
    generations: Mapping[int, int] = field(default_factory=dict)


def summed(replicas: list[ReplicaTotals], *by: str) -> dict[tuple[str, ...], Counter[str]]:
    """Return the sums over replicas by some of replica, model, provider, caller, status and the dimensions."""
    result: dict[tuple[str, ...], Counter[str]] = {}
    for totals in replicas:
        for (group, status), sums in totals.sums.items():
            labels = {"replica": totals.replica, **group.labels(), "status": status}
            absent = EXPIRED if group.caller == EXPIRED else ""
            result.setdefault(tuple(labels.get(name, absent) for name in by), Counter()).update(sums)
    return result
