"""Input proof: what became of each offset of the input, partition by partition, over all replicas.

The numbers of a partition are written with every commit, each at the place where it is counted: records, spans,
rejects, rejects by reason, gaps. So they are added up here again, and a sum that does not come out is a fault.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokentrace.model import reasons
from tokentrace.model.snapshot import PartitionAudit
from tokentrace.state.inputs import NOTHING_KNOWN
from tokentrace.state.log_generations import LogPosition
from tokentrace.state.replica_totals import ReplicaTotals


@dataclass(frozen=True, slots=True)
class InputAudit:
    """Records of an input partition with offsets from `first_offset` up to before `offset`.

    records: those that were read. spans: in them; a record that cannot be read is one.
    rejected: spans by each replica's own sum. rejects: the same by reason. unexplained: rejected ones that an earlier
    release counted, which has no reasons by partition; all are before the offset `explained_from`.
    passed_over, lost: records that were never read. truncated: records that were read and that the log has lost since;
    new ones have taken their offsets.
    """

    partition: int
    first_offset: int
    offset: int
    records: int
    spans: int
    counted: int
    rejected: int
    rejects: Mapping[str, int]
    unexplained: int
    explained_from: int
    duplicates: int
    ignored: int
    passed_over: int
    lost: int
    truncated: int

    @property
    def without_record(self) -> int:
        """Offsets that hold no record of any kind, such as markers of transactions."""
        return self.offset - self.first_offset + self.truncated - self.records - self.passed_over - self.lost

    def faults(self) -> Iterator[str]:
        """Return a sentence for each sum that does not come out."""
        explained = sum(self.rejects.values()) + self.unexplained
        accounted = self.counted + self.duplicates + self.ignored + explained
        if explained != self.rejected:
            yield f"Input partition {self.partition}: {explained:,} rejects by reason, but {self.rejected:,} in all."
        if accounted != self.spans:
            yield f"Input partition {self.partition}: {accounted:,} spans accounted for, but {self.spans:,} were read."
        if self.without_record < 0:
            yield (
                f"Input partition {self.partition}: {-self.without_record:,} more records than offsets; some were "
                "counted again."
            )

    def lines(self) -> Iterator[str]:
        """Return the audit as lines of text."""
        yield (
            f"  {self.partition}: from offset {self.first_offset:,} to {self.offset:,}: {self.records:,} records, "
            f"{self.passed_over:,} passed over, {self.lost:,} lost, {self.without_record:,} offsets without a record"
            + (f"; the log has lost {self.truncated:,} since" if self.truncated else "")
        )
        rejects = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.rejects.items()))
        if self.unexplained:
            unknown = f"{self.unexplained:,} for a reason that is unknown before offset {self.explained_from:,}"
            rejects = f"{rejects}, {unknown}" if rejects else unknown
        yield (
            f"     {self.spans:,} spans = {self.counted:,} counted + {self.duplicates:,} duplicates + {self.ignored:,} "
            f"ignored + {self.rejected:,} rejected{f' ({rejects})' if rejects else ''}"
        )

    def as_json(self) -> dict[str, Any]:
        """Return the audit as a JSON object."""
        fields = {name: getattr(self, name) for name in type(self).__slots__}
        return fields | {"rejects": dict(self.rejects), "without_record": self.without_record}


def audit_inputs(replicas: Sequence[ReplicaTotals]) -> list[InputAudit]:
    """Return the audit of each partition that any replica has counted, over all of them."""
    return [
        _audit(partition, [totals for totals in replicas if partition in totals.audits])
        for partition in sorted({partition for totals in replicas for partition in totals.audits})
    ]


def _audit(partition: int, replicas: Sequence[ReplicaTotals]) -> InputAudit:
    audits: list[PartitionAudit] = [totals.audits[partition] for totals in replicas]
    inputs = [totals.inputs.get(partition, NOTHING_KNOWN) for totals in replicas]
    rejects: Counter[str] = Counter()
    for one in inputs:
        rejects.update(one.rejects)

    def records_of(kind: str) -> int:
        return sum(gap.records for totals in replicas for key, gap in totals.gaps.items() if key == (kind, partition))

    return InputAudit(
        partition=partition,
        first_offset=min(one.first for one in inputs).offset,
        offset=max(position for totals in replicas for position in _positions(totals, partition)).offset,
        records=sum(audit.polled for audit in audits),
        spans=sum(audit.spans for audit in audits),
        counted=sum(audit.counted for audit in audits),
        rejected=sum(audit.rejected for audit in audits),
        rejects=rejects,
        unexplained=sum(one.unexplained for one in inputs),
        explained_from=max(one.explained_from for one in inputs),
        duplicates=sum(audit.duplicates for audit in audits),
        ignored=sum(audit.ignored for audit in audits),
        passed_over=records_of("skipped"),
        lost=records_of("lost"),
        truncated=records_of("truncated"),
    )


def _positions(totals: ReplicaTotals, partition: int) -> Iterator[LogPosition]:
    for (_, number), offset in totals.positions.items():
        if number == partition:
            yield LogPosition(totals.generations.get(partition, 0), offset)


def faults_of(inputs: Sequence[InputAudit], replicas: Sequence[ReplicaTotals]) -> list[str]:
    """Return a sentence for each sum that does not come out: within a partition, and over all of them.

    What replicas have counted of another topic, before `kafka.topic` was changed, is in their totals alone.
    """
    found = [fault for one in inputs for fault in one.faults()]
    counted, spans = sum(one.counted for one in inputs), sum(_spans(totals) for totals in replicas)
    if counted > spans:
        found.append(f"The input partitions have {counted:,} counted spans, but the state has {spans:,}.")
    by_reason: Counter[str] = Counter()
    totals_by_reason: Counter[str] = Counter()
    for one in inputs:
        by_reason.update(one.rejects)
    for totals in replicas:
        totals_by_reason.update(totals.rejected)
    for reason, count in sorted(by_reason.items()):
        known = totals_by_reason[reason]
        if count > known:
            found.append(f"The input partitions have {count:,} rejects for {reason}, but the state has {known:,}.")
    rejected = sum(one.rejected for one in inputs)
    whole = sum(count for reason, count in totals_by_reason.items() if reason not in reasons.PART)
    if rejected > whole:
        found.append(f"The input partitions have {rejected:,} rejects, but the state has {whole:,}.")
    return found


def _spans(totals: ReplicaTotals) -> int:
    return sum(sums.get("spans", 0) for sums in totals.sums.values())
