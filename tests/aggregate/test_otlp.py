"""Messages of many spans: the audit is exact for each partition, and a rejected span has a dead letter of its own."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.aggregate.test_dedup import seen
from tests.harness import Harness, cells_of
from tests.otlpfactory import OtherSpan, call, other, random_traces, traces
from tests.spanfactory import message, span
from tokentrace.aggregate.validate import Limits
from tokentrace.decode.otlp.parts import one_span
from tokentrace.model.messages import WHOLE_MESSAGE

CALL = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.usage.input_tokens": 7}
WRONG = {**CALL, "gen_ai.usage.input_tokens": "x"}
NEGATIVE = {**CALL, "gen_ai.usage.input_tokens": -1}
#: A resource that ends beyond its message.
BROKEN = b"\x0a\x02\x0a\x09"
#: At no rate does it cost less than the limit.
COSTLY = {**CALL, "gen_ai.request.model": "gpt-4", "gen_ai.system": "openai", "gen_ai.usage.input_tokens": 10**9}


def spans(rig: Harness) -> int:
    return sum(row["spans"] for row in cells_of(rig.ledger.snapshot).values())


@given(st.integers(0, 2**32))
def test_audit_of_every_partition_adds_up(seed: int) -> None:
    rng = random.Random(seed)
    rig = Harness()
    expected = {name: Counter[int]() for name in ("polled", "counted", "rejected", "ignored", "spans")}
    for _ in range(rng.randrange(1, 4)):
        values, partitions = [], []
        for _ in range(rng.randrange(1, 8)):
            partition = rng.randrange(3)
            kind = rng.randrange(5)
            if kind == 0:
                value, counts = b"junk", (0, 1, 0)
            elif kind == 1:
                value, counts = message(span()), (1, 0, 0)
            elif kind == 2:
                bad = traces([("a", [OtherSpan(WRONG), call(rng), OtherSpan(NEGATIVE), other(rng)])])
                value, counts = bad.SerializeToString(), (1, 2, 1)
            else:
                data, sent = random_traces(rng)
                calls = sum(one.call is not None for one in sent)
                value, counts = data.SerializeToString(), (calls, 0, len(sent) - calls)
            values.append(value)
            partitions.append(partition)
            expected["polled"][partition] += 1
            expected["spans"][partition] += sum(counts)
            for name, count in zip(("counted", "rejected", "ignored"), counts, strict=True):
                expected[name][partition] += count
        rig.count(values, partitions)
    snapshot = rig.commit()
    for partition, audit in snapshot.partitions.items():
        found = {name: getattr(audit, name) for name in expected}
        assert found == {name: counts[partition] for name, counts in expected.items()}
        assert audit.spans == audit.counted + audit.rejected + audit.duplicates + audit.ignored
    assert spans(rig) == expected["counted"].total()


def test_each_rejected_span_has_a_dead_letter_that_counts_as_it_alone() -> None:
    sent = [OtherSpan(CALL), OtherSpan(WRONG), OtherSpan(NEGATIVE), OtherSpan({"a": 1}), OtherSpan(COSTLY)]
    value = traces([("shop", sent)], per_scope=2).SerializeToString()
    rig = Harness(limits=Limits(cost_usd=100.0))
    rig.count([value, BROKEN])
    letters = rig.delta.dead_letters
    assert [(letter.envelope.offset, letter.part, letter.reason) for letter in letters] == [
        (0, 1, "type_mismatch"), (0, 2, "negative_tokens"), (0, 4, "cost_out_of_range"),
        (1, WHOLE_MESSAGE, "malformed"),
    ]  # fmt: skip
    assert [letter.envelope.value for letter in letters] == [
        *(one_span(value, ordinal) for ordinal in (1, 2, 4)), BROKEN,
    ]  # fmt: skip
    again = Harness(limits=Limits(cost_usd=100.0))
    again.count([letter.envelope.value for letter in letters])
    assert dict(again.delta.reasons) == dict(rig.delta.reasons)
    assert again.commit().partitions[0][:3] == (4, 0, 4)


def test_a_repeated_message_repeats_its_spans() -> None:
    rng = random.Random(5)
    data, sent = random_traces(rng, calls=0.7)
    calls = sum(one.call is not None for one in sent)
    assert calls > 2
    rig = Harness(deduplicator=seen())
    value = data.SerializeToString()
    rig.count([value, value])
    rig.count([value], offset=2)
    audit: Any = rig.commit().partitions[0]
    assert (audit.counted, audit.duplicates, audit.ignored) == (calls, 2 * calls, 3 * (len(sent) - calls))
    assert audit.spans == 3 * len(sent)
