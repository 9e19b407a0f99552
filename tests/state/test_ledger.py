"""The ledger: committed + delta is the whole state, and what was once shown never changes."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.harness import LAYOUT, NOW_S, Clock, Harness, cells_of
from tests.spanfactory import message, span
from tokentrace.aggregate.delta import Delta
from tokentrace.aggregate.groups import GroupIndex
from tokentrace.model.measures import Layout
from tokentrace.model.snapshot import Group, PartitionAudit, Snapshot
from tokentrace.state.ledger import Ledger
from tokentrace.state.totals import Totals

SPANS = Layout.column("spans")


def frozen(value: Any) -> dict[str, Any]:
    """Every field of a snapshot or of totals as a plain value of its own; the list of groups only ever grows."""
    plain = {}
    for field in fields(value):
        part = getattr(value, field.name)
        if field.name == "groups":
            part = part[: value.groups_count + 1]
        plain[field.name] = part.tolist() if isinstance(part, np.ndarray) else repr(part)
    return plain


def one_of(model: str, **more: Any) -> bytes:
    return message(span(model=model, provider="", cost_usd=0.5, **more))


def row_of(model: str, spans: int, status: str = "ok") -> dict[Any, Any]:
    return {
        (model, "", "", status): {
            "spans": spans,
            "cost_nano_usd": spans * 500_000_000,
            "prompt_tokens": 100 * spans,
            "completion_tokens": 20 * spans,
            "priced_reported": spans,
            "histogram prompt_tokens": ([0, spans] + [0] * 13, 100 * spans),
            "histogram completion_tokens": ([spans] + [0] * 14, 20 * spans),
        }
    }


def test_ledger_has_nothing_committed_at_first() -> None:
    rig = Harness()
    snapshot = rig.ledger.snapshot
    assert cells_of(snapshot) == {}
    assert (snapshot.partitions, snapshot.rejected, snapshot.groups_count, snapshot.committed_at_s) == ({}, {}, 0, 0.0)


def test_ledger_shows_committed_counts_only() -> None:
    rig = Harness()
    rig.count([one_of("a"), None])
    rig.ledger.preview(rig.delta)
    assert frozen(rig.ledger.totals) == frozen(Totals.empty(LAYOUT))
    assert cells_of(rig.ledger.snapshot) == {}
    snapshot = rig.commit()
    assert cells_of(snapshot) == row_of("a", 1)
    assert snapshot.partitions == {0: PartitionAudit(2, 1, 1)}
    assert snapshot.rejected == {"tombstone": 1}
    assert rig.ledger.totals.positions == {0: 2}


def test_commits_add_up() -> None:
    rig = Harness()
    rig.count([one_of("a"), one_of("b")])
    rig.commit()
    rig.count([one_of("a"), one_of("a", status="error"), None], partition=[1, 0, 0], offset=2)
    snapshot = rig.commit()
    assert cells_of(snapshot) == row_of("a", 2) | row_of("b", 1) | row_of("a", 1, "error")
    assert snapshot.partitions == {0: PartitionAudit(4, 3, 1), 1: PartitionAudit(1, 1, 0)}
    assert rig.ledger.totals.positions == {0: 4, 1: 3}


def test_a_delta_that_is_dropped_changes_nothing() -> None:
    rig = Harness()
    rig.count([one_of("a")])
    before = rig.commit()
    then = frozen(before)
    rig.count([one_of("a"), one_of("new"), b"junk"], offset=1)
    rig.ledger.preview(rig.delta)
    rig.delta.clear()
    assert rig.ledger.snapshot is before
    assert frozen(before) == then
    rig.count([one_of("a"), one_of("new"), b"junk"], offset=1)
    snapshot = rig.commit()
    assert cells_of(snapshot) == row_of("a", 2) | row_of("new", 1)
    assert snapshot.partitions == {0: PartitionAudit(4, 3, 1)}


def test_a_series_is_as_old_as_its_first_commit() -> None:
    rig = Harness()
    rig.count([one_of("a"), b"junk"])
    rig.commit()
    rig.clock.now_s += 60
    rig.count([one_of("a"), one_of("b"), b"junk", None])
    snapshot = rig.commit()
    assert snapshot.created_s.tolist() == [NOW_S, NOW_S + 60]
    assert snapshot.rejected_created_s == {"unknown_framing": NOW_S, "tombstone": NOW_S + 60}
    assert snapshot.committed_at_s == NOW_S + 60


def test_a_cell_whose_first_delta_was_dropped_is_not_older_than_its_commit() -> None:
    rig = Harness()
    rig.count([one_of("dropped"), one_of("a")])
    rig.delta.clear()
    rig.count([one_of("a")])
    assert rig.commit().created_s.tolist() == [0.0, NOW_S]


def test_a_restored_ledger_goes_on_where_the_earlier_one_was() -> None:
    first = Harness()
    first.count([one_of("a"), one_of("b"), None])
    first.commit()
    second = Harness()
    for group, status in zip(first.groups.cell_group, first.groups.cell_status, strict=True):
        second.groups.adopt([first.groups.groups[group]], np.array([status], np.uint8))
    second.ledger.restore(first.ledger.totals)
    assert frozen(second.ledger.snapshot) == frozen(first.ledger.snapshot)
    for rig in (first, second):
        rig.count([one_of("b"), one_of("c")], offset=3)
        rig.commit()
    assert frozen(second.ledger.snapshot) == frozen(first.ledger.snapshot)
    assert cells_of(second.ledger.snapshot) == row_of("a", 1) | row_of("b", 2) | row_of("c", 1)


def test_the_demand_for_groups_is_shown() -> None:
    rig = Harness(max_groups=1)
    rig.count([one_of("a"), one_of("b"), one_of("a"), one_of("c")])
    snapshot = rig.commit()
    assert (snapshot.groups_count, snapshot.groups_limit, snapshot.overflowed_spans) == (1, 1, 2)


# The laws.

DELTA = st.tuples(
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6), st.integers(0, 2**40)), max_size=5),
    st.dictionaries(st.integers(0, 3), st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=3),
    st.dictionaries(st.sampled_from(["malformed", "tombstone", "empty"]), st.integers(1, 9), max_size=3),
)


@given(st.lists(DELTA, max_size=8))
def test_totals_are_the_sum_of_the_committed_deltas_and_of_no_other(deltas: list[Any]) -> None:
    groups = GroupIndex(10)
    for model in "abcdefg":
        groups.adopt([Group(model, "", "")], np.zeros(1, np.uint8))
    ledger = Ledger(layout=LAYOUT, groups=groups, quality_window_s=300.0, clock=Clock())
    cells: Counter[int] = Counter()
    audits: Counter[tuple[int, str]] = Counter()
    reasons: Counter[str] = Counter()
    positions: dict[int, int] = {}
    delta = Delta(LAYOUT)
    for number, (commits, additions, partitions, rejected) in enumerate(deltas):
        for minute, cell, value in additions:
            delta.add(minute, np.array([cell]), np.full((1, LAYOUT.width), value))
        for partition, (counted, refused) in partitions.items():
            delta.positions[partition] = number
            delta.counted[partition] += counted
            delta.rejected[partition] += refused
            delta.polled[partition] += counted + refused
        delta.reasons.update(rejected)
        after = ledger.preview(delta)
        if commits:
            ledger.apply(*after)
            for _, cell, value in additions:
                cells[cell] += value
            for partition, (counted, refused) in partitions.items():
                audits.update({(partition, "counted"): counted, (partition, "rejected"): refused})
                positions[partition] = number
            reasons.update(rejected)
        delta.clear()
    totals = ledger.totals
    assert Counter(dict(enumerate(totals.values[:, SPANS].tolist()))) == cells
    assert (totals.values == totals.values[:, :1]).all()
    assert totals.partitions == {
        partition: PartitionAudit(
            audits[partition, "counted"] + audits[partition, "rejected"],
            audits[partition, "counted"],
            audits[partition, "rejected"],
        )
        for partition in positions
    }
    assert (totals.rejected, totals.positions) == (dict(reasons), positions)
    assert all(audit.polled == audit.counted + audit.rejected for audit in totals.partitions.values())


STEP = st.tuples(st.sampled_from(["commit", "drop", "wait", "refresh"]), st.lists(st.integers(0, 9), max_size=6))


@given(st.lists(STEP, max_size=8))
def test_a_snapshot_never_changes_while_the_ledger_goes_on(steps: list[tuple[str, list[int]]]) -> None:
    rig = Harness(quality_window_s=60.0, max_groups=8)
    held: list[tuple[Snapshot, dict[str, Any]]] = []

    def hold() -> None:
        held.append((rig.ledger.snapshot, frozen(rig.ledger.snapshot)))

    hold()
    for action, models in steps:
        rig.count([one_of(f"model-{number}", attributes={"eval.score": number / 10}) for number in models] + [None])
        if action == "commit":
            rig.commit()
        elif action == "drop":
            rig.delta.clear()
        elif action == "wait":
            rig.clock.now_s += 45
        else:
            rig.ledger.refresh()
        hold()
    for snapshot, then in held:
        assert frozen(snapshot) == then


def test_an_old_totals_value_may_be_added_to_again() -> None:
    rig = Harness()
    rig.count([one_of("a")])
    rig.commit()
    old = rig.ledger.totals
    then = frozen(old)
    rig.count([one_of("a"), one_of("b")])
    first, _ = rig.ledger.preview(rig.delta)
    second, _ = rig.ledger.preview(rig.delta)
    assert frozen(first) == frozen(second)
    assert frozen(old) == then
    assert frozen(replace(first, committed_at_s=0.0)) != frozen(replace(old, committed_at_s=0.0))
