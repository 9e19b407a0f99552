"""The input: each offset, record and span of a partition over all replicas, and every sum that is off."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from tokentrace.ledger.input_proof import InputAudit, audit_inputs, faults_of
from tokentrace.model.snapshot import Gap, Group, PartitionAudit
from tokentrace.state.inputs import Input
from tokentrace.state.log_generations import LogPosition
from tokentrace.state.replica_totals import ReplicaTotals

GROUP = Group("m", "p", "c")
#: The first to read the partition, from offset 20 on. Release 0.1.0 ran there until offset 50.
FIRST = ReplicaTotals(
    "first", 1.0, {("spans", 3): 90}, {(GROUP, "ok"): Counter(spans=51)},
    {3: PartitionAudit(60, 51, 8, 1)}, {"malformed": 5, "tombstone": 3, "eval_score_invalid": 9},
    {("lost", 3): Gap(4, 0.0)}, {3: Input(LogPosition(0, 20), {"malformed": 4, "tombstone": 1}, 3, 50)},
)  # fmt: skip
#: It went on behind the end that the log had left, and ignored two of the spans of its first message.
SECOND = ReplicaTotals(
    "second", 2.0, {("spans", 3): 75}, {(GROUP, "ok"): Counter(spans=5)},
    {3: PartitionAudit(7, 5, 2, 0, ignored=2, surplus=2)}, {"malformed": 2},
    {("truncated", 3): Gap(30, 0.0), ("skipped", 3): Gap(7, 0.0)}, {3: Input(LogPosition(0, 90), {"malformed": 2})},
    {3: 1},
)  # fmt: skip


def test_a_partition_is_summed_over_all_replicas_that_have_counted_it() -> None:
    (audit,) = audit_inputs([FIRST, SECOND])
    assert audit == InputAudit(
        partition=3, first_offset=20, offset=75, records=67, spans=69, counted=56, rejected=10,
        rejects={"malformed": 6, "tombstone": 1}, unexplained=3, explained_from=50, duplicates=1, ignored=2,
        passed_over=7, lost=4, truncated=30,
    )  # fmt: skip
    assert audit.without_record == (75 - 20) + 30 - 67 - 7 - 4
    assert faults_of([audit], [FIRST, SECOND]) == []
    assert list(audit.lines()) == [
        "  3: from offset 20 to 75: 67 records, 7 passed over, 4 lost, 7 offsets without a record; the log has lost 30 "
        "since",
        "     69 spans = 56 counted + 1 duplicates + 2 ignored + 10 rejected (6 malformed, 1 tombstone, 3 for a reason "
        "that is unknown before offset 50)",
    ]
    assert audit.as_json()["without_record"] == 7


def test_a_partition_without_rejects_and_one_of_an_earlier_release_say_so() -> None:
    (none,) = audit_inputs([replace(SECOND, audits={3: PartitionAudit(5, 5, 0)}, inputs={})])
    assert next(reversed([*none.lines()])).endswith("+ 0 rejected")
    (unknown,) = audit_inputs([replace(FIRST, inputs={3: Input(unexplained=8, explained_from=90)})])
    assert next(reversed([*unknown.lines()])).endswith("8 rejected (8 for a reason that is unknown before offset 90)")
    assert faults_of([unknown], [FIRST]) == []


@pytest.mark.parametrize(
    ("audit", "rejects", "found"),
    [
        (PartitionAudit(60, 51, 8, 1), {"malformed": 5, "tombstone": 1}, ["9 rejects by reason, but 8", "61 spans"]),
        (PartitionAudit(60, 52, 8, 1), {"malformed": 4, "tombstone": 1}, ["61 spans accounted for", "52 c"]),
        (PartitionAudit(61, 51, 8, 1), {"malformed": 4, "tombstone": 1}, ["60 spans accounted for, but 61"]),
        (PartitionAudit(67, 58, 8, 1), {"malformed": 4, "tombstone": 1}, ["1 more records than", "58 counted spans"]),
        (PartitionAudit(61, 51, 9, 1), {"malformed": 6}, ["6 rejects for malformed, but the", "9 rejects, but"]),
    ],
)  # fmt: skip
def test_every_sum_that_is_off_is_named(audit: PartitionAudit, rejects: dict[str, int], found: list[str]) -> None:
    totals = replace(FIRST, audits={3: audit}, inputs={3: FIRST.inputs[3]._replace(rejects=rejects)})
    faults = faults_of(audit_inputs([totals]), [totals])
    assert len(faults) == len(found)
    for fault, words in zip(faults, found, strict=True):
        assert words in fault
