"""Span audit: what the audit needs of messages with many spans outlives the process."""

from __future__ import annotations

from typing import Any

import pytest

from tests.aggregate.test_otlp import CALL
from tests.harness import LAYOUT, Harness
from tests.kafka.fakes import ScriptedClients, ScriptedProducer
from tests.otlpfactory import OtherSpan, traces
from tests.spanfactory import message, span
from tests.state.test_appearance import Life
from tests.state.test_tally import OWN
from tests.state.test_wide_totals import topic
from tokentrace.errors import UnreadableRecord
from tokentrace.model.snapshot import PartitionAudit
from tokentrace.state import StateReader
from tokentrace.state.span_audit import SPAN_AUDIT_HEADER, span_audit_headers, with_span_audit

__all__ = ["topic"]

MANY = traces([("a", [OtherSpan(CALL), OtherSpan(CALL), OtherSpan({"a": 1})])]).SerializeToString()


def test_header_gives_back_what_it_was_written_from() -> None:
    audits = {
        0: PartitionAudit(4, 3, 1),
        3: PartitionAudit(2, 3, 0, 1, ignored=7, surplus=9),
        10: PartitionAudit(5, 0, 0, surplus=-5),
    }
    stored = {partition: audit._replace(ignored=0, surplus=0) for partition, audit in audits.items()}
    headers = span_audit_headers("spans", audits)
    assert with_span_audit(headers, "spans", stored) == audits
    assert with_span_audit(headers, "other", stored) == stored
    assert span_audit_headers("spans", {0: audits[0]}) == []
    assert with_span_audit([], "spans", stored) == stored


def test_audit_is_added_up_over_restarts(topic: Any) -> None:
    for life in range(1, 4):
        process = Life(topic)
        process.counted([MANY, message(span()), b"junk"])
        process.write()
        audit = process.state.snapshot.partitions[0]
        assert audit == PartitionAudit(3 * life, 3 * life, life, 0, ignored=life, surplus=2 * life)
        assert audit.spans == audit.counted + audit.rejected + audit.ignored


@pytest.mark.parametrize("value", [b"{", b"[]", b'{"topic": "spans"}', b'{"topic": "spans", "spans": {"0": [1]}}'])
def test_damaged_header_is_said(topic: Any, value: bytes) -> None:
    life = Life(topic)
    life.counted([message(span())])
    life.write()
    topic.headers[OWN] = [*topic.headers[OWN], (SPAN_AUDIT_HEADER, value)]
    reader = StateReader(ScriptedClients(producer=ScriptedProducer), "the.state", "g")
    with pytest.raises(UnreadableRecord, match=f"The header {SPAN_AUDIT_HEADER}"):
        reader.restore("a", LAYOUT, Harness().groups, "spans")
