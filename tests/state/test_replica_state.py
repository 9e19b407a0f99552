"""The order of prepare, commit and apply: a proposal changes nothing, and is the only thing that apply publishes."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from tests.harness import Harness
from tests.spanfactory import message, span
from tokentrace.aggregate.dedup import Deduplicator

IDLE_S = 600.0


def counted(rig: Harness) -> int:
    return sum(audit.counted for audit in rig.state.snapshot.partitions.values())


def rig_with(*values: bytes, **settings: Any) -> Harness:
    rig = Harness(deduplicator=Deduplicator(3600.0, 1000), **settings)
    rig.count(values)
    return rig


def test_replica_state_prepare_changes_nothing() -> None:
    rig = rig_with(message(span()), b"junk")
    snapshot = rig.state.snapshot
    first, second = rig.state.prepare(), rig.state.prepare()
    assert first.positions == second.positions == {0: 2}
    assert first.totals.values.tolist() == second.totals.values.tolist()
    assert [len(chunk.keys) for chunk in second.dedup.kept] == [1]
    assert rig.state.snapshot is snapshot
    assert rig.state.dedup_stats() == {}
    assert rig.delta.positions == {0: 2}


def test_replica_state_apply_publishes_totals_and_ids_and_empties_the_delta() -> None:
    rig = rig_with(message(span()), b"junk")
    rig.state.apply(rig.state.prepare())
    assert counted(rig) == 1
    assert rig.state.dedup_stats()[0].ids == 1
    assert rig.state.position(0) == 2
    assert not rig.delta
    assert not rig.state.prepare()


def test_replica_state_discard_leaves_what_is_committed() -> None:
    rig = rig_with(message(span()))
    rig.state.apply(rig.state.prepare())
    rig.count([message(span(span_id="other"))], offset=1)
    rig.state.discard()
    assert not rig.state.prepare()
    assert (counted(rig), rig.state.position(0)) == (1, 1)


def test_replica_state_proposes_expiry_alone() -> None:
    rig = rig_with(message(span()), expire_after_s=IDLE_S, label_sets=[frozenset({"model"})])
    rig.state.apply(rig.state.prepare())
    rig.clock.now_s += 2 * IDLE_S
    proposal = rig.state.prepare()
    assert proposal
    assert proposal.positions == {}
    assert proposal.expiry.expired_cells.tolist() == [0]


def test_proposal_is_immutable() -> None:
    rig = rig_with(message(span()), b"junk")
    proposal = rig.state.prepare()
    with pytest.raises(FrozenInstanceError):
        proposal.clamped = 1  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        proposal.by_minute.values[0] = 0
    rig.count([message(span(span_id="other")), b"junk"], offset=2)
    assert proposal.positions == {0: 2}, "what is counted later is not in it"
    assert len(proposal.dead_letters) == 1
