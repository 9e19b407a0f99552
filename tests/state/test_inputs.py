"""Inputs: where a partition began and its rejects by reason outlive the process, and an earlier release's are told."""

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
from tokentrace.state.inputs import INPUTS_HEADER, Input, decode_inputs, input_headers
from tokentrace.state.log_generations import LogPosition
from tokentrace.state.totals import Totals

__all__ = ["topic"]

NEGATIVE = {**CALL, "gen_ai.usage.input_tokens": -1}
#: Two calls, of which one is rejected alone.
HALF = traces([("a", [OtherSpan(CALL), OtherSpan(NEGATIVE)])]).SerializeToString()


def restored() -> Totals:
    reader = StateReader(ScriptedClients(producer=ScriptedProducer), "the.state", "g")
    found = reader.restore("a", LAYOUT, Harness().groups, "spans")
    assert found is not None
    return found


def without_header(topic: Any) -> None:
    """Leave the replica's record as release 0.1.0 writes it."""
    topic.headers[OWN] = [header for header in topic.headers[OWN] if header[0] != INPUTS_HEADER]


def test_header_gives_back_what_it_was_written_from() -> None:
    inputs = {
        0: Input(),
        3: Input(LogPosition(0, 70), {"malformed": 2, "tombstone": 1}),
        10: Input(LogPosition(1, 0), {"malformed": 5}, unexplained=4, explained_from=90),
    }
    audits = dict.fromkeys(inputs, PartitionAudit(20, 10, 9))
    positions = dict.fromkeys(inputs, 100)
    headers = input_headers("spans", inputs)
    assert decode_inputs(headers, "spans", audits, positions) == inputs
    assert decode_inputs(headers, "other", audits, positions) == dict.fromkeys(inputs, Input())
    assert input_headers("spans", {0: Input(), 1: Input()}) == []


def test_rejects_by_reason_are_added_up_over_restarts(topic: Any) -> None:
    for life in range(1, 4):
        process = Life(topic)
        process.delta.begins[0] = 0, 7
        process.counted([HALF, message(span()), b"junk", None])
        process.write()
        found = restored()
        assert found.inputs == {
            0: Input(LogPosition(0, 7), {"unknown_framing": life, "negative_tokens": life, "tombstone": life})
        }
        assert found.partitions[0].rejected == sum(found.inputs[0].rejects.values())


def test_rejects_of_an_earlier_release_have_no_reason_before_the_upgrade(topic: Any) -> None:
    """Over a roll-back too: what was known before is not known any more, and no number is lost."""
    rejected = 0
    for upgrade in range(1, 3):
        process = Life(topic)
        process.counted([message(span()), b"junk", b"junk"])
        process.write()
        without_header(topic)
        rejected = restored().partitions[0].rejected
        again = Life(topic)
        again.counted([b"junk", None])
        again.write()
        found = restored().inputs[0]
        assert found == Input(
            rejects={"unknown_framing": 1, "tombstone": 1}, unexplained=rejected, explained_from=5 * upgrade - 2
        )
    assert rejected == 6


def test_a_partition_begins_where_it_was_first_assigned_though_nothing_was_counted_then(topic: Any) -> None:
    process = Life(topic)
    process.delta.begins[0] = 1, 40
    process.delta.positions[3] = 5
    process.write()
    process.counted([message(span())])
    process.write()
    process.delta.begins[0] = 1, 60
    process.counted([message(span())])
    process.write()
    assert restored().inputs == {0: Input(LogPosition(1, 40)), 3: Input()}


DAMAGED = [
    b"{",
    b"[]",
    b'{"first": {}}',
    b'{"topic": "spans", "rejects": [1]}',
    b'{"topic": "spans", "first": {"0": 1}}',
]


@pytest.mark.parametrize("value", DAMAGED)
def test_damaged_header_is_said(topic: Any, value: bytes) -> None:
    life = Life(topic)
    life.counted([message(span())])
    life.write()
    topic.headers[OWN] = [*topic.headers[OWN], (INPUTS_HEADER, value)]
    with pytest.raises(UnreadableRecord, match=f"The header {INPUTS_HEADER}"):
        restored()
