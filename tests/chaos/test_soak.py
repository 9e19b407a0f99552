"""The soak's verdict: what grows after the first minute is not flat, and what does not count each span is not exact."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.chaos.soak import Change, Result, Sample, changes, sample


def samples(resident_mb: Callable[[float], float], threads: Callable[[float], int] = lambda _: 20) -> list[Sample]:
    """Samples of ten minutes, one every two seconds."""
    return [Sample(at, resident_mb(at), threads(at), 50) for at in range(0, 601, 2)]


def result(found: list[Sample], counted: int = 1000) -> Result:
    return Result(600.0, 1000, counted, {"worker-0": found}, {})


@pytest.mark.parametrize(
    ("resident_mb", "flat"),
    [
        (lambda _: 150.0, True),
        (lambda at: 100.0 + min(at, 60.0), True),
        (lambda at: 150.0 + 6.0 * at / 600, True),
        (lambda at: 150.0 + 12.0 * at / 600, False),
        (lambda at: 200.0 - at / 10, True),
        # A peak is not growth, a leak behind a saw-tooth is.
        (lambda at: 500.0 if at in (62, 300, 590) else 150.0, True),
        (lambda at: 150.0 + at / 20 + at % 20, False),
    ],
)
def test_memory_is_flat_if_it_does_not_grow_after_the_first_minute(
    resident_mb: Callable[[float], float], flat: bool
) -> None:
    assert result(samples(resident_mb)).flat == flat


def test_threads_that_grow_are_not_flat() -> None:
    found = result(samples(lambda _: 150.0, lambda at: 20 + int(at) // 200))
    assert found.changes["worker-0"]["threads"] == Change(20, 22)
    assert not found.flat
    assert "NOT FLAT" in "\n".join(found.lines())


def test_a_soak_is_exact_only_if_each_span_is_counted_once() -> None:
    flat = samples(lambda _: 150.0)
    assert [result(flat, counted).exact for counted in (999, 1000, 1001)] == [False, True, False]
    assert not Result(600.0, 1000, 1000, {"worker-0": flat}, {"tokentrace_cost_total": (1, 2)}).exact


def test_samples_that_end_with_the_first_minute_have_no_verdict() -> None:
    with pytest.raises(ValueError, match="too few"):
        changes(samples(lambda _: 150.0)[:31])


def test_a_sample_sees_memory_threads_and_descriptors() -> None:
    before = sample(os.getpid(), 0.0)
    with open(os.devnull):
        opened = sample(os.getpid(), 1.0)
    assert before.resident_mb > 10
    assert before.threads >= 1
    assert opened.descriptors == before.descriptors + 1
