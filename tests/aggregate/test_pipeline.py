"""The engine: a batch of messages becomes exact integers, whatever its order, cut and company."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

import numpy as np
import pytest
from genai_prices import Usage, calc_price
from hypothesis import given
from hypothesis import strategies as st

from tests.decode.helpers import record_schema, string, write, zigzag
from tests.decode.test_framing import confluent
from tests.harness import NOW_S, Harness, cells_of, raw_batch, samples, span_batch
from tests.oracle import USAGE, recount
from tests.spanfactory import NOW_US, message, random_span, single_object_header, span, unit_span
from tokentrace.aggregate.delta import Delta
from tokentrace.aggregate.pipeline import AHEAD_US, EARLIEST_US, StageTimer, event_times
from tokentrace.decode.schemas.files import fingerprint_of
from tokentrace.decode.schemas.store import WriterSchemas
from tokentrace.errors import SchemaUnavailable
from tokentrace.model import reasons
from tokentrace.model.measures import Layout
from tokentrace.model.messages import OTHER_GROUP_VALUE, DeadLetter, RawBatch
from tokentrace.model.snapshot import OVERFLOW_GROUP, PartitionAudit, Snapshot

Record = dict[str, Any]

#: Publication time of the messages of these tests.
PUBLISHED_US = NOW_US + 300_000_000


@cache
def seeded(seed: int) -> tuple[Record, bytes]:
    """A random span and its message."""
    record = random_span(random.Random(seed))
    return record, message(record)


def records_of(seeds: Sequence[int]) -> list[Record]:
    return [seeded(seed)[0] for seed in seeds]


def values_of(seeds: Sequence[int]) -> list[bytes]:
    return [seeded(seed)[1] for seed in seeds]


def committed(*batches: Sequence[bytes | None], **rig: Any) -> Snapshot:
    """The snapshot after these batches, committed together."""
    engine = Harness(**rig)
    for batch in batches:
        engine.count(batch)
    return engine.commit()


# The laws.


def test_units_are_counted_and_priced_as_the_independent_recount_says() -> None:
    records = [unit_span(random.Random(seed)) for seed in range(3000)]
    expected = recount(records)
    assert samples(committed(list(map(message, records)))) == expected
    sources = {dict(labels)["source"] for name, labels in expected if name == "tokentrace_span_pricing_total"}
    reasons_ = {dict(labels)["reason"] for name, labels in expected if name == "tokentrace_spans_repaired_total"}
    units = {dict(labels)["unit"] for name, labels in expected if name == "tokentrace_usage_total"}
    assert sources == {"reported", "computed", "unpriced", "estimated"}
    assert reasons_ == {"prompt_excludes_cache", "whole_below_parts"}
    assert units == set(USAGE)


def test_units_are_counted_the_same_however_the_spans_are_batched() -> None:
    records = [unit_span(random.Random(seed)) for seed in range(60)] + [span(caller="late", usage={"page": 2})]
    values = list(map(message, records))
    together = samples(committed(values))
    assert samples(committed(values[:1], values[1:20], values[20:])) == together
    alone = Harness()
    for value in values:
        alone.count([value])
        alone.commit()
    assert samples(alone.state.snapshot) == together == recount(records)


SEEDS = st.lists(st.integers(0, 299), max_size=25)


def test_a_thousand_spans_are_counted_as_the_independent_recount_counts_them() -> None:
    seeds = range(1000)
    assert samples(committed(values_of(seeds))) == recount(records_of(seeds))


@given(SEEDS)
def test_totals_are_those_of_the_independent_recount(seeds: list[int]) -> None:
    assert samples(committed(values_of(seeds))) == recount(records_of(seeds))


@given(st.data(), SEEDS, st.sampled_from([0, 3, 64]))
def test_order_and_batching_and_commits_do_not_matter(data: st.DataObject, seeds: list[int], hash_bits: int) -> None:
    expected = cells_of(committed(values_of(seeds)))
    shuffled = data.draw(st.permutations(seeds))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(seeds)), max_size=6)))
    rig = Harness(hash_bits=hash_bits)
    for start, end in itertools.pairwise([0, *cuts, len(seeds)]):
        rig.count(values_of(shuffled[start:end]))
        if data.draw(st.booleans()):
            rig.commit()
    assert cells_of(rig.commit()) == expected


@given(SEEDS, SEEDS)
def test_a_replicas_counts_and_anothers_add_up_to_those_of_one(first: list[int], second: list[int]) -> None:
    one = samples(committed(values_of(first + second)))
    assert samples(committed(values_of(first))) + samples(committed(values_of(second))) == one + Counter()


@given(SEEDS, st.integers(1, 8))
def test_a_limit_of_groups_loses_nothing(seeds: list[int], max_groups: int) -> None:
    limited, whole = committed(values_of(seeds), max_groups=max_groups), committed(values_of(seeds))
    assert limited.values.sum(axis=0).tolist() == whole.values.sum(axis=0).tolist()
    folded = int(limited.values[limited.cell_group == OVERFLOW_GROUP, Layout.column("spans")].sum())
    assert (limited.overflowed_spans, limited.groups_count) == (folded, min(max_groups, whole.groups_count))
    kept = {cell: row for cell, row in cells_of(limited).items() if cell[0] != "__overflow__"}
    assert {cell: cells_of(whole)[cell] for cell in kept} == kept


@given(st.lists(SEEDS, max_size=3))
def test_each_event_minute_holds_the_spans_that_ended_in_it(batches: list[list[int]]) -> None:
    rig = Harness()
    for seeds in batches:
        rig.count(values_of(seeds))
    minutes, cells, values = (array.copy() for array in rig.delta.by_minute()[:3])
    snapshot = rig.commit()
    by_minute: dict[int, list[Record]] = {}
    for record in records_of([seed for seeds in batches for seed in seeds]):
        ended_us = record["ended_at"]
        moment_us = ended_us if ended_us <= NOW_S * 1e6 + AHEAD_US else int(NOW_S * 1e6)
        by_minute.setdefault(moment_us // 60_000_000, []).append(record)
    assert sorted(set(minutes.tolist())) == sorted(by_minute)
    for minute, records in by_minute.items():
        rows = np.zeros_like(snapshot.values)
        rows[cells[minutes == minute]] = values[minutes == minute]
        assert samples(replace(snapshot, values=rows)) == recount(records)
    totals = np.zeros_like(snapshot.values)
    np.add.at(totals, cells, values)
    assert totals.tolist() == snapshot.values.tolist()


JUNK: dict[str, bytes | None] = {
    "tombstone": None,
    "other_group": OTHER_GROUP_VALUE,
    "empty": b"",
    "unknown_framing": b"junk",
    "unknown_fingerprint": b"\xc3\x01" + bytes(8) + b"x",
    "unknown_schema_id": confluent(99, b"x"),
    "malformed": message(span())[:-1],
    "model_missing": message(span(model="")),
    "cost_invalid": message(span(cost_usd=-1.0)),
}
MESSAGE = st.tuples(st.integers(0, 20) | st.sampled_from(list(JUNK)), st.integers(0, 3))


@given(st.lists(st.lists(MESSAGE, max_size=8), max_size=4))
def test_every_polled_message_is_counted_or_rejected_and_none_is_both(batches: list[list[tuple[Any, int]]]) -> None:
    rig = Harness()
    dead_letters: list[Any] = []
    everything = [span for batch in batches for span in batch]
    for batch in batches:
        values = [JUNK[what] if isinstance(what, str) else seeded(what)[1] for what, _ in batch]
        raw = raw_batch(values, [partition for _, partition in batch])
        rig.engine.count(raw, rig.delta)
        dead_letters += [
            (raw.envelope(row), what)
            for row, (what, _) in enumerate(batch)
            if isinstance(what, str) and what not in reasons.NOT_KEPT
        ]
    found = [(letter.envelope, letter.reason) for letter in rig.delta.dead_letters]
    assert sorted(found, key=repr) == sorted(dead_letters, key=repr)
    assert rig.delta.reasons == Counter(what for what, _ in everything if isinstance(what, str))
    snapshot = rig.commit()
    polled = Counter(partition for _, partition in everything)
    counted = Counter(partition for what, partition in everything if not isinstance(what, str))
    assert snapshot.partitions == {
        partition: PartitionAudit(count, counted[partition], count - counted[partition])
        for partition, count in polled.items()
    }
    assert samples(snapshot) == recount(records_of([what for what, _ in everything if not isinstance(what, str)]))


# Rejects.

MAP = {"type": "map", "values": ["null", "double", "string"]}
BARE = record_schema("Bare", model="string", total_tokens="long")
LABELS = record_schema("Labels", model="bytes", prompt_tokens="long")
UNION = record_schema("Union", model="string", prompt_tokens=["long", "string"])
STATUS = record_schema("Status", model="string", prompt_tokens="long", status="string")
NAMELESS = record_schema("Nameless", model="string")
UNUSABLE = record_schema("Unusable", model="string", prompt_tokens="string")
EVENTS: list[Any] = ["null", BARE]
SCHEMAS = {fingerprint_of(schema): schema for schema in (BARE, LABELS, UNION, STATUS, NAMELESS, UNUSABLE, EVENTS)}


def by(schema: Any, record: Record) -> bytes:
    return single_object_header(schema) + write(schema, record)


#: A message of each reason, with as little wrong as there can be.
WHOLE: dict[str, bytes | None] = {
    **JUNK,
    "other_event": single_object_header(EVENTS) + zigzag(0),
    "schema_unusable": by(UNUSABLE, {"model": "m", "prompt_tokens": "x"}),
    "invalid_utf8": by(LABELS, {"model": b"\xff", "prompt_tokens": 1}),
    "type_mismatch": single_object_header(UNION) + string("m") + zigzag(1) + string("12"),
    "unknown_status": by(STATUS, {"model": "m", "prompt_tokens": 1, "status": "weird"}),
    "label_too_long": message(span(caller="c" * 1025)),
    "no_token_count": by(NAMELESS, {"model": "m"}),
    "negative_tokens": message(span(prompt_tokens=-1)),
    "tokens_out_of_range": message(span(total_tokens=10**9 + 1)),
    "cost_out_of_range": message(span(cost_usd=1e6 + 1)),
    "latency_invalid": message(span(latency_ms=float("nan"))),
    "latency_out_of_range": message(span(ttft_ms=1.1e9)),
}
PART: dict[str, bytes] = {
    "eval_score_invalid": message(span(attributes={"eval.score": "good"})),
    "reasoning_tokens_invalid": message(span(reasoning_tokens=21)),
}


def test_every_reason_of_the_contract_is_reached() -> None:
    # Messages in JSON alone can have an unknown field: tests/decode/test_json_spans.py.
    assert (set(WHOLE) | {"unknown_field"}, set(PART)) == (set(reasons.WHOLE), set(reasons.PART))


@pytest.mark.parametrize(("reason", "value"), WHOLE.items(), ids=WHOLE)
def test_a_message_that_cannot_be_counted_is_rejected_by_its_reason_and_its_neighbours_are_counted(
    reason: str, value: bytes | None
) -> None:
    rig = Harness(schemas=WriterSchemas(SCHEMAS))
    batch = raw_batch([*values_of([1, 2]), value, *values_of([3])], partition=2, offset=50)
    rig.engine.count(batch, rig.delta)
    assert rig.delta.reasons == {reason: 1}
    letters = rig.delta.dead_letters
    if reason in reasons.NOT_KEPT:
        assert letters == []
    else:
        assert letters == [DeadLetter(batch.envelope(2), reason, letters[0].error)]
        assert letters[0].envelope.offset == 52
        assert letters[0].error.endswith(".")
    snapshot = rig.commit()
    assert snapshot.partitions == {2: PartitionAudit(4, 3, 1)}
    assert snapshot.rejected == {reason: 1}
    assert rig.ledger.totals.positions == {2: 54}
    assert samples(snapshot) == recount(records_of([1, 2, 3]))


@pytest.mark.parametrize(("reason", "value"), PART.items(), ids=PART)
def test_a_span_without_a_part_is_counted_and_the_part_is_counted_by_its_reason(reason: str, value: bytes) -> None:
    rig = Harness(schemas=WriterSchemas(SCHEMAS))
    rig.count([value, *values_of([1])])
    assert (rig.delta.reasons, rig.delta.dead_letters) == ({reason: 1}, [])
    snapshot = rig.commit()
    assert (snapshot.partitions, snapshot.rejected) == ({0: PartitionAudit(2, 2, 0)}, {reason: 1})
    assert samples(snapshot) == recount([span()]) + recount(records_of([1]))


def test_a_batch_of_rejects_alone_moves_the_positions() -> None:
    rig = Harness()
    rig.count([None, b""], partition=[3, 1], offset=7)
    assert cells_of(rig.commit()) == {}
    assert rig.ledger.totals.positions == {3: 8, 1: 8}


def test_a_batch_without_messages_counts_nothing() -> None:
    rig = Harness()
    rig.count([])
    assert not rig.delta
    assert rig.commit().partitions == {}


# A registry that does not answer.


class _Unreachable(WriterSchemas):
    """Does not answer for ids until it is told to."""

    answers = False

    def get(self, key: Any) -> Any:
        if key.kind == "id" and not self.answers:
            raise SchemaUnavailable("no answer")
        return super().get(key) if key.kind != "id" else BARE


def state(delta: Delta) -> Any:
    rows = [array.tolist() for array in delta.by_minute()[:3]]
    tallies = [delta.positions, delta.polled, delta.counted, delta.rejected, delta.reasons]
    return rows, [dict(tally) for tally in tallies], list(delta.dead_letters)


def test_a_batch_whose_schema_cannot_be_had_now_is_counted_later_and_whole() -> None:
    schemas = _Unreachable()
    rig = Harness(schemas=schemas)
    rig.count(values_of([1]))
    before = state(rig.delta)
    batch = [*values_of([2]), b"junk", confluent(5, write(BARE, {"model": "m", "total_tokens": 1}))]
    with pytest.raises(SchemaUnavailable):
        rig.count(batch, offset=1)
    assert state(rig.delta) == before
    schemas.answers = True
    rig.count(batch, offset=1)
    assert rig.commit().partitions == {0: PartitionAudit(4, 3, 1)}


# Moments and time.


@pytest.mark.parametrize(
    ("started_us", "ended_us", "moment_us", "clamped"),
    [
        (NOW_US, NOW_US + 7, NOW_US + 7, 0),
        (NOW_US, 0, NOW_US, 0),
        (NOW_US, None, NOW_US, 0),
        (NOW_US, -5, NOW_US, 0),
        (None, NOW_US, NOW_US, 0),
        (0, 0, PUBLISHED_US, 1),
        (None, None, PUBLISHED_US, 1),
        (-7, -5, PUBLISHED_US, 1),
        (1, PUBLISHED_US // 1000, PUBLISHED_US, 1),
        (1, EARLIEST_US - 1, PUBLISHED_US, 1),
        (1, EARLIEST_US, EARLIEST_US, 0),
        (1, PUBLISHED_US + AHEAD_US, PUBLISHED_US + AHEAD_US, 0),
        (1, PUBLISHED_US + AHEAD_US + 1, PUBLISHED_US, 1),
        (1, 2**63 - 1, PUBLISHED_US, 1),
    ],
)
def test_a_span_belongs_to_the_moment_in_which_it_ended_where_that_can_be_true(
    started_us: int | None, ended_us: int | None, moment_us: int, clamped: int
) -> None:
    spans = span_batch(span(started_at=started_us, ended_at=ended_us))
    times_us, count = event_times(spans, raw_batch([b""], now_s=PUBLISHED_US / 1e6), PUBLISHED_US / 1e6 + 3600)
    assert (times_us.tolist(), count.sum()) == ([moment_us], clamped)


def test_each_span_is_compared_with_its_own_message() -> None:
    """A backlog's batch spans hours; and a message from the future counts as little as a span from the future."""
    hour_us = 3600 * 1_000_000
    published = [PUBLISHED_US, PUBLISHED_US + hour_us, PUBLISHED_US + 9 * hour_us]
    batch = RawBatch(
        [b""] * 3, np.zeros(3, np.int32), {0: 3}, raw_batch([b""]).envelope,
        {0: (published[0] // 1000, published[2] // 1000)}, lambda rows: np.array(published)[rows] // 1000,
    )  # fmt: skip
    ends = [PUBLISHED_US + hour_us, PUBLISHED_US + hour_us, PUBLISHED_US + 9 * hour_us]
    now_us = PUBLISHED_US + 2 * hour_us
    times_us, clamped = event_times(span_batch(*(span(ended_at=end) for end in ends)), batch, now_us / 1e6)
    assert times_us.tolist() == [PUBLISHED_US, PUBLISHED_US + hour_us, now_us]
    assert clamped.tolist() == [True, False, True]


def test_a_batch_tells_how_far_event_time_has_come_by_partition() -> None:
    rig = Harness()
    ends = [NOW_US - 5, NOW_US - 9, NOW_US + 3600 * 1_000_000, NOW_US - 7]
    rig.count([message(span(ended_at=end)) for end in ends], partition=[0, 0, 3, 5])
    assert rig.delta.event_times_us == {0: NOW_US - 5, 3: int(NOW_S * 1e6), 5: NOW_US - 7}
    assert rig.delta.clamped == 1
    rig.delta.clear()
    assert (rig.delta.event_times_us, rig.delta.clamped) == ({}, 0)


def test_minutes_of_any_distance_may_share_a_batch() -> None:
    ends = [EARLIEST_US, NOW_US, NOW_US - 86_400_000_000, EARLIEST_US + 60_000_000]
    rig = Harness()
    rig.count([message(span(ended_at=ended)) for ended in ends])
    assert sorted(rig.delta.by_minute().minutes.tolist()) == sorted(ended // 60_000_000 for ended in ends)
    assert samples(rig.commit()) == recount([span(ended_at=ended) for ended in ends])


def test_each_stage_is_accounted_its_time() -> None:
    ticks = iter(range(100))
    seconds = {"decode": 0.0, "price": 0.0}
    timer = StageTimer(seconds, lambda: float(next(ticks)))
    timer.mark("decode")
    next(ticks)
    timer.start()
    timer.mark("price")
    next(ticks)
    timer.mark("decode")
    assert seconds == {"decode": 3.0, "price": 1.0}


def test_a_batch_takes_time_of_every_stage_of_the_engine_and_of_no_other() -> None:
    rig = Harness()
    rig.count(values_of(range(50)))
    used = {stage for stage, seconds in rig.seconds.items() if seconds > 0.0}
    assert used == {"decode", "validate", "deduplicate", "index", "price", "aggregate"}


@pytest.mark.parametrize(
    ("ended_us", "priced_us", "clamped"),
    [
        (NOW_US, NOW_US, 0),
        (NOW_US // 1000, NOW_US, 1),
        (1, NOW_US, 1),
        (NOW_US + 400 * 86_400_000_000, NOW_US, 1),
        (NOW_US - 300 * 86_400_000_000, NOW_US - 300 * 86_400_000_000, 0),
        (0, NOW_US, 0),
    ],
    ids=["true", "milliseconds", "1970", "next year", "an old backlog", "none"],
)
def test_price_list_is_that_of_the_time_at_which_a_span_counts(ended_us: int, priced_us: int, clamped: int) -> None:
    """Each of these models has prices that depend on the time."""
    rig = Harness()
    dated = ["claude-opus-4-6", "gpt-5.6-sol", "deepseek-chat", "gemini-3.7-flash"]
    providers = ["anthropic", "openai", "deepseek", "google"]
    calls = [
        span(model=model, provider=provider, caller="c", prompt_tokens=300_000, started_at=ended_us, ended_at=ended_us)
        for model, provider in zip(dated, providers, strict=True)
    ]
    rig.clock.now_s = NOW_US / 1e6
    rig.count([message(call) for call in calls])
    snapshot = rig.commit()
    expected = []
    for model, provider in zip(dated, providers, strict=True):
        charged = calc_price(
            Usage(input_tokens=300_000, output_tokens=20), model, provider_id=provider,
            genai_request_timestamp=datetime.fromtimestamp(priced_us / 1e6, UTC),
        )  # fmt: skip
        expected.append(round(charged.total_price * 10**9))
    assert snapshot.values[:, Layout.column("cost_nano_usd")].tolist() == expected
    assert snapshot.values[:, Layout.column("clamped_times")].tolist() == [clamped] * 4
