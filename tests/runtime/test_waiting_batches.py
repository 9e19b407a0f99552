"""Waiting batches: each message is counted once and in the order of its partition, whenever its schema arrives."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness import Clock, raw_batch
from tokentrace.errors import SchemaUnavailable
from tokentrace.model.messages import RawBatch
from tokentrace.runtime.waiting_batches import PENDING_RETRY_S, REPORT_INTERVAL_S, RETRY_FIRST_S, WaitingBatches


class Rig:
    """Messages are the ids of their schemas. known: ids that the registry has returned. down: it is unavailable."""

    def __init__(self, *known: bytes) -> None:
        self.known = set(known)
        self.down = False
        self.clock = Clock(0.0)
        #: Partition -> offsets of the counted messages; partition -> position after them.
        self.counted: dict[int, list[int]] = {}
        self.positions: dict[int, int] = {}
        self.tries = 0
        self.waiting = WaitingBatches(self._count, self.clock)

    def _count(self, batch: RawBatch) -> None:
        self.tries += 1
        rows = np.array([row for row, value in enumerate(batch.values) if value not in self.known], np.int64)
        if len(rows):
            raise SchemaUnavailable("The registry is down.", rows=rows, pending=not self.down)
        for row in range(len(batch)):
            envelope = batch.envelope(row)
            assert (envelope.partition, envelope.value) == (batch.partitions[row], batch.values[row])
            self.counted.setdefault(envelope.partition, []).append(envelope.offset)
        self.positions.update(batch.positions)

    def later(self, seconds: float = 60.0) -> Rig:
        self.clock.now_s += seconds
        self.waiting.retry()
        return self


def batch(values: str, partitions: list[int] | int = 0, offset: int = 0) -> RawBatch:
    return raw_batch([value.encode() for value in values], partitions, offset)


def test_messages_before_the_waiting_one_of_their_partition_are_counted_at_once() -> None:
    rig = Rig(b"a")
    rig.waiting.count(batch("aaxaaa", [0, 1, 0, 0, 1, 0]))
    assert rig.counted == {0: [0], 1: [0, 1]}
    assert rig.positions == {0: 1, 1: 2}, "the position is that of the first message that waits"
    assert rig.waiting.partitions == {0}
    rig.known.add(b"x")
    assert rig.later().counted == {0: [0, 1, 2, 3], 1: [0, 1]}
    assert rig.positions == {0: 4, 1: 2}
    assert rig.waiting.partitions == set()


def test_a_batch_moves_on_with_each_answer() -> None:
    rig = Rig(b"a")
    rig.waiting.count(batch("xayaza"))
    for known, counted in ((b"x", 2), (b"y", 4), (b"z", 6)):
        rig.known.add(known)
        rig.later()
        assert rig.counted == {0: list(range(counted))}


def test_waiting_for_thousands_of_answers_needs_no_deeper_stack() -> None:
    rig = Rig()
    values = [b"%d" % number for number in range(1500)]
    rig.waiting.count(raw_batch(values))
    for value in values:
        rig.known.add(value)
        rig.later()
    assert rig.counted == {0: list(range(1500))}


def test_batches_take_turns() -> None:
    """One batch per call, so that a turn of the loop waits for one set of look-ups."""
    rig = Rig()
    for partition in range(3):
        rig.waiting.count(batch("xx", partition))
    rig.known.add(b"x")
    assert [sorted(rig.later().counted) for _ in range(3)] == [[0], [0, 1], [0, 1, 2]]


def test_a_pending_schema_is_tried_again_soon_and_is_not_a_problem() -> None:
    rig = Rig()
    rig.waiting.count(batch("x"))
    assert (rig.waiting.problem, rig.tries) == ("", 1)
    assert rig.later(PENDING_RETRY_S / 2).tries == 1
    assert rig.later(PENDING_RETRY_S).tries == 2


def test_an_unavailable_registry_is_a_problem_until_it_answers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rig = Rig()
    rig.down = True
    rig.waiting.count(batch("xy", 3))
    assert rig.waiting.problem == "The registry is down."
    assert rig.later(RETRY_FIRST_S / 2).tries == 1
    assert rig.later(RETRY_FIRST_S).tries == 2
    rig.down = False
    assert rig.later().waiting.problem == "The registry is down.", "it has not answered yet"
    rig.known.add(b"x")
    assert rig.later().waiting.problem == ""
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        "The registry is down. Counting is paused for partitions [3]; trying again in 0.25 s.",
        "The registry is down. Counting is paused for partitions [3]; trying again in 0.5 s.",
        "Schemas are available again; resuming.",
    ]


def test_a_registry_that_answers_between_failures_is_tried_again_soon() -> None:
    rig = Rig(b"a")
    rig.down = True
    rig.waiting.count(batch("awxyz"))
    for known in (b"w", b"x", b"y"):
        for _ in range(3):
            rig.later()
        rig.known.add(known)
        tries = rig.later().tries
        assert rig.waiting.problem == "The registry is down."
        assert rig.later(RETRY_FIRST_S).tries == tries + 1
    assert rig.counted == {0: [0, 1, 2, 3]}


def test_a_long_wait_for_lookups_is_logged_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    rig.waiting.count(batch("x"))
    for _ in range(25):
        rig.later(REPORT_INTERVAL_S / 10)
    assert [record.getMessage().partition(" wait ")[0] for record in caplog.records] == ["Partitions [0]"] * 2


def test_cleared_batches_are_forgotten() -> None:
    rig = Rig()
    rig.down = True
    rig.waiting.count(batch("x"))
    rig.waiting.clear()
    assert (rig.waiting.partitions, rig.waiting.problem) == (set(), "")
    rig.known.add(b"x")
    assert rig.later().counted == {}


@given(st.data())
def test_every_message_is_counted_once_and_in_order(data: st.DataObject) -> None:
    rig = Rig(b"a")
    ends = dict.fromkeys(range(3), 0)
    for _ in range(data.draw(st.integers(1, 5))):
        readable = sorted(set(ends) - rig.waiting.partitions)
        if readable:
            partition = data.draw(st.sampled_from(readable))
            values = data.draw(st.text("abcd", min_size=1, max_size=6))
            rig.waiting.count(batch(values, partition, ends[partition]))
            ends[partition] += len(values)
        rig.down = data.draw(st.booleans())
        rig.known |= data.draw(st.sets(st.sampled_from([b"b", b"c", b"d"]), max_size=1))
        rig.later()
        for partition, offsets in rig.counted.items():
            assert offsets == list(range(rig.positions[partition]))
        behind = {partition for partition, end in ends.items() if rig.positions.get(partition, 0) < end}
        assert behind == rig.waiting.partitions
    rig.known |= {b"b", b"c", b"d"}
    while rig.waiting.partitions:
        rig.later()
    assert rig.positions == {partition: end for partition, end in ends.items() if end}
