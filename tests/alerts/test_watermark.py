"""The event-time watermark, from commits."""

from __future__ import annotations

from tokentrace.alerts.watermark import GRACE_US, IDLE_AFTER_US, MINUTE_US, PAUSE_US, Watermark

T = 1_790_000_040_000_000
S = 1_000_000


def test_watermark_is_the_minimum_over_partitions() -> None:
    mark = Watermark()
    mark.observe(T, 2, {0: T, 1: T - 600 * S})
    assert mark.time_us() == T - 600 * S
    mark.observe(T + S, 2, {1: T + 5 * S})
    assert mark.time_us() == T


def test_watermark_waits_for_partitions_that_have_not_reported() -> None:
    mark = Watermark()
    assert (mark.time_us(), mark.minute()) == (None, None)
    mark.observe(T, 2, {0: T})
    assert mark.time_us() is None
    mark.observe(T, 2, {1: T})
    assert mark.time_us() == T


def test_watermark_never_decreases() -> None:
    mark = Watermark()
    mark.observe(T, 1, {0: T})
    mark.observe(T + S, 1, {0: T - 900 * S})
    assert mark.time_us() == T


def test_watermark_completes_a_minute_a_grace_after_its_end() -> None:
    mark = Watermark()
    end = T // MINUTE_US * MINUTE_US
    mark.observe(T, 1, {0: end + GRACE_US - 1})
    assert mark.minute() == end // MINUTE_US - 2
    mark.observe(T, 1, {0: end + GRACE_US})
    assert mark.minute() == end // MINUTE_US - 1


def test_watermark_excludes_idle_partitions() -> None:
    mark = Watermark()
    mark.observe(T, 2, {0: T, 1: T})
    seconds = 0
    while not mark.idle_partitions():
        seconds += 10
        mark.observe(T + seconds * S, 2, {0: T + seconds * S})
        assert mark.time_us() == T or mark.idle_partitions()
        assert seconds < 10_000
    assert seconds == IDLE_AFTER_US // S + 10
    assert mark.time_us() == T + seconds * S
    mark.observe(T + seconds * S, 2, {1: T + S})
    assert mark.time_us() == T + S


def test_watermark_has_no_idle_partition_after_a_pause_of_the_fleet() -> None:
    """After two hours without any worker, the first commit must not leave the others' backlogs behind."""
    mark = Watermark(3, {0: T, 1: T, 2: T}, T)
    later = T + 7200 * S
    mark.observe(later, 3, {0: T + 60 * S})
    assert mark.idle_partitions() == []
    assert mark.time_us() == T
    assert PAUSE_US < IDLE_AFTER_US
