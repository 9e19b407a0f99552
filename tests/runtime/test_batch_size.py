"""Batch size: bounded in messages, in bytes and in spans, whatever messages are like."""

from __future__ import annotations

from tokentrace.runtime.batch_size import FIRST, GROWTH, BatchSize


def test_size_grows_by_steps_to_the_most_messages() -> None:
    size = BatchSize(10_000, 1 << 20)
    seen = [size.messages]
    for _ in range(6):
        size.observe(size.messages, 100 * size.messages)
        size.observe_spans(size.messages, size.messages)
        seen.append(size.messages)
    assert seen == [FIRST * GROWTH**turn for turn in range(5)] + [10_000, 10_000]


def test_size_is_bounded_in_bytes_and_in_spans() -> None:
    size = BatchSize(10_000, 1 << 20)
    for _ in range(9):
        size.observe(100, 100 * 2048)
    assert size.messages == 512
    size.observe_spans(100, 100 * 500)
    size.observe(100, 100 * 2048)
    assert size.messages == 20
    # A message with more spans than fit is a batch by itself.
    size.observe_spans(1, 1_000_000)
    size.observe(1, 2048)
    assert size.messages == 1


def test_size_recovers_when_messages_hold_fewer_spans() -> None:
    size = BatchSize(10_000, 1 << 30)
    size.observe_spans(10, 10_000)
    size.observe(10, 1000)
    assert size.messages == 10
    for _ in range(30):
        size.observe_spans(10, 10)
        size.observe(10, 1000)
    assert size.messages == 10_000
