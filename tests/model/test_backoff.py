"""Growing pauses between tries."""

from __future__ import annotations

import random

import pytest

from tokentrace.model.backoff import Backoff


def test_backoff_doubles_up_to_the_longest_pause() -> None:
    backoff = Backoff(0.5, 3.0)
    assert [backoff.next() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_backoff_begins_again_after_a_success() -> None:
    backoff = Backoff(1.0, 8.0)
    assert [backoff.next(), backoff.next(), backoff.pause_s] == [1.0, 2.0, 4.0]
    backoff.reset()
    assert [backoff.pause_s, backoff.next()] == [1.0, 1.0]


@pytest.mark.parametrize("jitter", [0.5, 1.0])
def test_backoff_jitter_shortens_a_pause_and_not_those_after_it(jitter: float) -> None:
    backoff = Backoff(1.0, 64.0, jitter=jitter, rng=random.Random(1))
    shares = [backoff.next() / longest_s for longest_s in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)]
    assert all(1.0 - jitter <= share <= 1.0 for share in shares)
    assert len(set(shares)) == len(shares)
