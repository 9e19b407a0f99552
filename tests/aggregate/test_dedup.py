"""Repeated spans: counted once, as a plain recount has it, over batches, commits, aborts and changes of owner."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness import LAYOUT, NOW_S, Harness, cells_of, raw_batch, span_batch
from tests.spanfactory import message, span
from tokentrace.aggregate.dedup import BULK_IDS, CHUNK_IDS, DedupChanges, Deduplicator
from tokentrace.aggregate.delta import Delta
from tokentrace.aggregate.id_table import IdTable
from tokentrace.aggregate.span_keys import LONGEST_ID_BYTES, span_keys
from tokentrace.state.dedup_records import _parse_key, decode_dedup_chunk, dedup_key, encode_dedup_chunk

WINDOW_S = 600


def sent(trace: str, span_id: str, **more: Any) -> bytes:
    return message(span(trace_id=trace, span_id=span_id, cost_usd=1.0, **more))


def seen(max_ids: int = 1_000_000, window_s: float = WINDOW_S, clock_s: float = 2.0 * NOW_S) -> Deduplicator:
    """clock_s: the worker's clock, which stands still; far ahead, so that the messages' own timestamps count."""
    return Deduplicator(window_s, max_ids, lambda: clock_s)


def counted(rig: Harness) -> int:
    return sum(row["spans"] for row in cells_of(rig.ledger.snapshot).values())


def audit(rig: Harness, partition: int = 0) -> tuple[int, ...]:
    return rig.ledger.snapshot.partitions[partition][:4]


def test_a_repeated_span_is_counted_once_within_a_batch_and_after_it() -> None:
    rig = Harness(deduplicator=seen())
    rig.count([sent("t", "a"), sent("t", "b"), sent("t", "a"), b"junk"])
    rig.count([sent("t", "b"), sent("t", "c")], offset=4)
    rig.commit()
    rig.count([sent("t", "c"), sent("t", "d")], offset=6)
    rig.commit()
    assert counted(rig) == 4
    assert audit(rig) == (8, 4, 1, 3)


def test_without_it_every_span_counts() -> None:
    rig = Harness()
    rig.count([sent("t", "a")] * 3)
    rig.commit()
    assert audit(rig) == (3, 3, 0, 0)


def test_the_first_in_the_order_of_offsets_is_the_one_that_counts() -> None:
    rig = Harness(deduplicator=seen())
    rig.count([sent("t", "a", model=f"m{index}") for index in range(50)])
    rig.commit()
    assert [cell[0] for cell in cells_of(rig.ledger.snapshot)] == ["m0"]


def test_a_span_is_the_same_only_with_its_trace_and_its_partition() -> None:
    rig = Harness(deduplicator=seen())
    rig.count([sent("t", "a"), sent("u", "a"), sent("ta", ""), sent("", "ta"), sent("", "a")])
    rig.count([sent("t", "a")], partition=1)
    rig.commit()
    assert counted(rig) == 6
    assert audit(rig, 1) == (1, 1, 0, 0)


def test_a_span_without_a_span_id_is_counted_always() -> None:
    rig = Harness(deduplicator=seen())
    rig.count([sent("t", "")] * 2 + [sent("t", "a")] * 2)
    rig.commit()
    assert audit(rig) == (4, 3, 0, 1)


def test_dedup_accepts_a_corrected_copy_of_a_rejected_span_and_counts_parts_once() -> None:
    rig = Harness(deduplicator=seen())
    odd = sent("t", "b", reasoning_tokens=9_000)
    rig.count([sent("t", "a", model=""), sent("t", "a"), odd, odd])
    snapshot = rig.commit()
    assert audit(rig) == (4, 2, 1, 1)
    assert snapshot.rejected == {"model_missing": 1, "reasoning_tokens_invalid": 1}


def test_a_repetition_creates_no_group() -> None:
    rig = Harness(deduplicator=seen())
    rig.count([sent("t", "a"), sent("t", "a", model="other")])
    assert rig.commit().groups_count == 1


@pytest.mark.parametrize(("later_s", "counts"), [(WINDOW_S, 1), (WINDOW_S + 1, 2)])
def test_a_span_is_remembered_for_the_window(later_s: int, counts: int) -> None:
    rig = Harness(deduplicator=seen())
    rig.count([sent("t", "a")])
    rig.commit()
    rig.clock.now_s += later_s
    rig.count([sent("t", "a")] * 2, offset=1)
    rig.commit()
    assert counted(rig) == counts
    rig.clock.now_s += WINDOW_S
    rig.count([sent("t", "a")], offset=3)
    rig.commit()
    assert counted(rig) == 2, "the second count is remembered again"


def test_dedup_window_evicts_old_ids_with_the_commit() -> None:
    memory = seen()
    rig = Harness(deduplicator=memory)
    for minute in range(30):
        rig.count([sent("t", f"{minute}-{index}") for index in range(BULK_IDS)], offset=BULK_IDS * minute)
        rig.commit()
        rig.clock.now_s += 60
    remembered = memory.stats()[0]
    assert remembered == (11 * BULK_IDS, WINDOW_S, 0)


def test_beyond_the_limit_the_oldest_are_forgotten_and_counted() -> None:
    memory = seen(max_ids=25)
    rig = Harness(deduplicator=memory)
    for step in range(5):
        rig.count([sent("t", f"{step}-{index}") for index in range(10)], offset=10 * step)
        rig.commit()
    assert memory.stats()[0] == (20, 0, 30)
    memory._rebuild({}, 0)
    rig.count([sent("t", "4-0"), sent("t", "0-0")], offset=50)
    assert rig.delta.duplicates == {0: 1}


def test_a_commit_of_more_than_the_limit_is_not_written_at_all() -> None:
    memory = seen(max_ids=5)
    rig = Harness(deduplicator=memory)
    rig.count([sent("t", str(index)) for index in range(10)])
    assert memory.preview(rig.delta) == DedupChanges([], [], {0: 10})


def stamped(rig: Harness, *spans: tuple[str, float], offset: int = 0) -> None:
    """Count one batch of spans, given as (span id, seconds by which its stamp is ahead of NOW_S)."""
    batch = raw_batch([sent("t", span_id) for span_id, _ in spans], offset=offset)
    times_ms = np.array([int((NOW_S + ahead_s) * 1000) for _, ahead_s in spans], np.int64)
    edges = {0: (int(times_ms[0]), int(times_ms[-1]))}
    rig.engine.count(replace(batch, times_ms=edges, timestamps_ms=lambda rows: times_ms[rows]), rig.delta)


def restarted(rig: Harness, clock_s: float) -> Harness:
    """Return a new owner, which knows what the records of the old one hold and nothing else."""
    chunks = [
        decode_dedup_chunk(*chunk[:3], encode_dedup_chunk(chunk)) for chunk in rig.deduplicator._partitions[0].chunks
    ]
    other = Harness(deduplicator=seen(clock_s=clock_s))
    other.deduplicator.load([0], {0: chunks}, other.delta)
    return other


@pytest.mark.parametrize("ahead_s", [WINDOW_S + 1, 1800, 3300, 86_400, 10**9])
@pytest.mark.parametrize("behind_s", [0, 2 * 86_400], ids=["live", "backlog"])
def test_one_message_stamped_ahead_alone_in_its_commit_evicts_nothing(ahead_s: int, behind_s: int) -> None:
    """Live, a stamp ahead of the worker's clock counts as now. In a backlog, one stamp is not the partition's time."""
    clock_s = NOW_S + behind_s
    rig = Harness(deduplicator=seen(clock_s=clock_s))
    stamped(rig, ("a", 0), ("b", 0))
    rig.commit()
    stamped(rig, ("ahead", ahead_s), offset=2)
    rig.commit()
    for owner in (rig, restarted(rig, clock_s)):
        stamped(owner, ("a", 1), ("b", 1), ("ahead", ahead_s + 1), offset=3)
        assert (owner.delta.counted, owner.delta.duplicates) == ({}, {0: 3})


def test_a_stamp_ahead_at_the_end_of_a_large_commit_evicts_nothing() -> None:
    """The record of a commit has its latest stamp only, which is not the time of the commit's other spans."""
    clock_s = NOW_S + 2 * 86_400
    rig = Harness(deduplicator=seen(clock_s=clock_s))
    stamped(rig, ("a", 0), ("b", 0))
    rig.commit()
    stamped(rig, *((str(number), 1) for number in range(BULK_IDS)), ("ahead", 3600), offset=2)
    rig.commit()
    offset = BULK_IDS + 3
    for owner in (rig, restarted(rig, clock_s)):
        stamped(owner, ("c", 2), offset=offset)
        owner.commit()
        for last in (owner, restarted(owner, clock_s)):
            stamped(last, ("a", 3), ("b", 3), ("c", 3), ("0", 3), offset=offset + 1)
            assert last.delta.duplicates == {0: 4}


def test_spans_between_stamps_ahead_are_found_by_their_own_time() -> None:
    """The edges of the batch are of a clock that is ahead; the repeats in the batch are not."""
    rig = Harness(deduplicator=seen(clock_s=NOW_S + 7200))
    stamped(rig, ("a", 0), ("b", 0))
    rig.commit()
    stamped(rig, ("x", 3600), ("a", 1), ("y", 3600), ("b", 1), ("z", 3600), offset=2)
    assert (rig.delta.counted, rig.delta.duplicates) == ({0: 3}, {0: 2})


def test_a_stamp_ahead_inside_a_batch_is_found_again_in_the_batch() -> None:
    rig = Harness(deduplicator=seen(clock_s=NOW_S + 7200))
    stamped(rig, ("a", 0), ("x", 3600), ("x", 3600), ("b", 0))
    assert (rig.delta.counted, rig.delta.duplicates) == ({0: 3}, {0: 1})


def test_a_partition_whose_spans_agree_moves_on_at_once() -> None:
    rig = Harness(deduplicator=seen(clock_s=NOW_S + 7200))
    stamped(rig, ("a", 0), ("b", 0))
    rig.commit()
    stamped(rig, *((str(number), WINDOW_S + 1) for number in range(3)), offset=2)
    changes = rig.deduplicator.preview(rig.delta)
    assert [len(chunk.keys) for chunk in changes.evicted] == [2]
    assert changes.evicted_early == {}


def test_an_id_in_two_chunks_is_remembered_from_the_later_one() -> None:
    """It was counted, and counted again when its window was over, before the first chunk was evicted."""
    clock_s = NOW_S + 7200
    rig = Harness(deduplicator=seen(clock_s=clock_s))
    stamped(rig, *((str(number), 0) for number in range(100)))
    rig.commit()
    stamped(rig, ("0", WINDOW_S + 1), offset=100)
    assert rig.delta.counted == {0: 1}
    rig.commit()
    for owner in (rig, restarted(rig, clock_s)):
        stamped(owner, ("0", 2 * WINDOW_S), offset=101)
        assert owner.delta.duplicates == {0: 1}


@given(st.data())
def test_clocks_of_a_few_publishers_change_nothing_for_the_others(data: st.DataObject) -> None:
    """However spans of right clocks and of clocks up to a day ahead are cut into batches, commits and owners.

    Each batch has fewer spans of a clock ahead than spans of a right one that are new, so the partition's time is
    that of the right clocks, whose repeats come within the window.
    """
    clock_s = NOW_S + 2 * 86_400
    owner, position, seconds = Harness(deduplicator=seen(clock_s=clock_s)), 0, 0
    known: list[str] = []
    actions = st.sampled_from(["batch", "batch", "commit", "restart"])
    for action in data.draw(st.lists(actions, min_size=4, max_size=20)):
        if action == "batch":
            fresh = [f"{position}-{number}" for number in range(data.draw(st.integers(1, 4)))]
            repeats = data.draw(st.lists(st.sampled_from(known), max_size=3)) if known else []
            ahead = data.draw(st.lists(st.integers(WINDOW_S, 86_400), max_size=len(fresh) - 1))
            batch = [(span_id, float(seconds)) for span_id in (*fresh, *repeats)]
            batch += [(f"ahead-{position}-{number}", float(ahead_s)) for number, ahead_s in enumerate(ahead)]
            before = owner.delta.counted[0]
            stamped(owner, *data.draw(st.permutations(batch)), offset=position)
            assert owner.delta.counted[0] - before == len(fresh) + len(ahead)
            known += fresh
            position += len(batch)
            seconds += 25
        elif owner.delta:
            owner.commit()
            if action == "restart":
                owner = restarted(owner, clock_s)


def test_dedup_remembers_committed_ids_only() -> None:
    memory = seen()
    rig = Harness(deduplicator=memory)
    rig.count([sent("t", "a")])
    rig.commit()
    chunks = {0: list(memory._partitions[0].chunks)}
    rig.count([sent("t", "b")], offset=1)
    rig.delta.clear()
    memory.load([0], chunks, rig.delta)
    rig.count([sent("t", "a"), sent("t", "b")], offset=1)
    rig.commit()
    assert audit(rig) == (3, 2, 0, 1)


def test_without_durable_chunks_a_rewound_partition_keeps_what_was_committed() -> None:
    memory = seen()
    rig = Harness(deduplicator=memory)
    rig.count([sent("t", "a")])
    rig.commit()
    rig.count([sent("t", "b")], offset=1)
    rig.delta.clear()
    memory.load([0], {}, rig.delta)
    rig.count([sent("t", "a"), sent("t", "b")], offset=1)
    assert (rig.delta.counted, rig.delta.duplicates) == ({0: 1}, {0: 1})


def test_a_partition_that_went_and_came_back_has_what_its_owner_left() -> None:
    memory = seen()
    rig = Harness(deduplicator=memory)
    rig.count([sent("t", "a"), sent("t", "b")])
    rig.count([sent("t", "a")], partition=1)
    rig.commit()
    memory.revoke([0])
    assert list(memory.stats()) == [1]
    memory.load([0], {0: []}, rig.delta)
    rig.count([sent("t", "a")], offset=2)
    rig.count([sent("t", "a")], partition=1, offset=1)
    assert (rig.delta.counted, rig.delta.duplicates) == ({0: 1}, {1: 1})


def test_pending_spans_of_other_partitions_survive_an_assignment() -> None:
    memory = seen()
    rig = Harness(deduplicator=memory)
    rig.count([sent("t", "a")], partition=1)
    memory.load([0], {0: []}, rig.delta)
    rig.count([sent("t", "a")], partition=1, offset=1)
    assert rig.delta.duplicates == {1: 1}


def test_the_table_grows_and_forgets_nothing() -> None:
    memory = seen()
    rng = random.Random(3)
    ids = [f"{rng.getrandbits(64):016x}" for _ in range(30_000)]
    delta = Delta(LAYOUT)
    for first in range(0, len(ids), 5_000):
        part = span_batch(*({"trace_id": "t", "span_id": span_id} for span_id in ids[first : first + 5_000]))
        batch = raw_batch([b""] * 5_000, offset=first)
        delta.positions.update(batch.positions)
        assert memory.is_new(part, batch, delta).all()
    again = span_batch(*({"trace_id": "t", "span_id": span_id} for span_id in ids))
    assert not memory.is_new(again, raw_batch([b""] * len(ids)), delta).any()


def test_many_ids_are_several_chunks() -> None:
    memory = seen()
    delta = Delta(LAYOUT)
    count = CHUNK_IDS + 7
    part = span_batch(*({"span_id": str(index)} for index in range(count)))
    batch = raw_batch([b""] * count)
    delta.positions.update(batch.positions)
    memory.is_new(part, batch, delta)
    kept = memory.preview(delta).kept
    assert [(chunk.piece, len(chunk.keys)) for chunk in kept] == [(0, CHUNK_IDS), (1, 7)]
    for chunk in kept:
        name = _parse_key("spans", dedup_key("spans", chunk))
        assert name == (0, count, chunk.piece)
        back = decode_dedup_chunk(*name, encode_dedup_chunk(chunk))
        assert back[:4] == chunk[:4]
        assert (back.keys == chunk.keys).all()
        assert _parse_key("others", dedup_key("spans", chunk)) is None
    for other in (b'["spans"]', b'["spans","a",1,2]', b"no json", None):
        assert _parse_key("spans", other) is None


def test_keys_differ_wherever_ids_do() -> None:
    """Ids of every length, ids that end in zero bytes, and the same text cut elsewhere."""
    text = "abcdefgh" * 40
    ids = [("", text[:length]) for length in range(1, 300)]
    ids += [(text[:length], "x") for length in range(1, 300)]
    ids += [("a" + "\0" * zeros, "b") for zeros in range(1, 20)] + [("a", "b" + "\0" * zeros) for zeros in range(20)]
    ids += [(text[:cut], text[cut:64]) for cut in range(1, 63)]
    ids += [("t", text[:200] + last) for last in "xyz"] + [(text[:200] + last, "s") for last in "xyz"]
    ids = list(dict.fromkeys(ids))
    batch = span_batch(*({"trace_id": trace, "span_id": span_id} for trace, span_id in ids))
    keys = [span_keys(batch, np.full(len(ids), partition, np.int32)) for partition in range(3)]
    assert len(np.unique(np.concatenate(keys))) == 3 * len(ids)
    # A key is its span's own, whatever its neighbours in the batch are.
    for index in (0, 5, 299, 400, len(ids) - 1, LONGEST_ID_BYTES, LONGEST_ID_BYTES + 1):
        alone = span_batch({"trace_id": ids[index][0], "span_id": ids[index][1]})
        assert span_keys(alone, np.full(1, 2, np.int32))[0] == keys[2][index]


def test_counters_spread_over_the_table() -> None:
    """Ids that count up, as some tracers make them: no more equal low bits than chance gives."""
    batch = span_batch(
        *({"trace_id": f"trace-{index // 100}", "span_id": f"{index % 100:08d}"} for index in range(20_000))
    )
    keys = span_keys(batch, np.zeros(20_000, np.int32))
    assert len(np.unique(keys)) == 20_000
    buckets = np.bincount((keys & np.uint64(1023)).astype(np.int64), minlength=1024)
    assert 0 < buckets.min() < buckets.max() < 60


@given(st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=60), st.integers(0, 4))
def test_the_table_agrees_with_a_dict(entries: list[tuple[int, bool]], later: int) -> None:
    """Few slots and few keys, so that every way of colliding comes up; and two calls, the second some time later."""
    table, stamps = IdTable(16), {}
    for stamp, horizon in ((5, 2), (5 + later, 2 + later)):
        # Keys that share their slots: the low bits are equal.
        keys = np.array([(key << 4) | (8 if high else 3) for key, high in entries], np.uint64)
        fresh = table.add(keys, np.full(len(keys), stamp), np.full(len(keys), horizon))
        for key, new in zip(keys.tolist(), fresh.tolist(), strict=True):
            assert new == (stamps.get(key, -1) < horizon)
            if new:
                stamps[key] = stamp


@given(st.data())
def test_any_order_of_batches_commits_aborts_and_owners_counts_each_span_once(data: st.DataObject) -> None:
    """Against a plain set, with time standing still. Two owners, what is committed between them in a dict."""
    owners = [Harness(deduplicator=seen()) for _ in range(2)]
    durable: dict[tuple[int, int, int], bytes] = {}
    truth: set[tuple[int, str]] = set()
    tally: Counter[str] = Counter()
    position, owner = 0, owners[0]
    pending: list[tuple[int, str]] = []

    def stored() -> dict[int, list[Any]]:
        found: dict[int, list[Any]] = {0: [], 1: []}
        for name in sorted(durable):
            found[name[0]].append(decode_dedup_chunk(*name, durable[name]))
        return found

    for action in data.draw(st.lists(st.sampled_from(["batch", "batch", "commit", "abort", "move"]), max_size=25)):
        memory = owner.deduplicator
        if action == "batch":
            batch = data.draw(st.lists(st.tuples(st.integers(0, 1), st.sampled_from("abcdef")), min_size=1, max_size=8))
            owner.count([sent("t", span_id) for _, span_id in batch], [partition for partition, _ in batch], position)
            position += len(batch)
            pending += batch
        elif action == "commit":
            change = memory.preview(owner.delta)
            durable.update({chunk[:3]: encode_dedup_chunk(chunk) for chunk in change.kept})
            owner.commit()
            tally["polled"] += len(pending)
            truth.update(pending)
            pending = []
        else:
            owner.delta.clear()
            pending = []
            if action == "move":
                memory.revoke([0, 1])
                owner = owners[1 - owners.index(owner)]
            owner.deduplicator.load([0, 1], stored(), owner.delta)
    audits = [partition for rig in owners for partition in rig.ledger.snapshot.partitions.values()]
    assert sum(audit.counted for audit in audits) == len(truth)
    assert sum(audit.polled for audit in audits) == tally["polled"]
    assert all(audit.polled == audit.counted + audit.rejected + audit.duplicates for audit in audits)
