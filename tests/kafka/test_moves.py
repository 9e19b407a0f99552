"""Moves: a log that was cut at either end is continued where its first uncounted record is, and never counted again."""

from __future__ import annotations

from typing import Any

import pytest

from tokentrace.kafka.moves import LogBounds, Move, Truncation, move_of, truncation_of


@pytest.mark.parametrize(
    ("position", "bounds", "known", "move"),
    [
        (5, (12, 40), {"counted": 5}, Move(12, "removed", 7)),
        (3000, (0, 2000), {"counted": 3000}, Move(2000, "truncated", 1000)),
        (3000, (0, 0), {"counted": 3000}, Move(0, "truncated", 3000)),
        (3000, (0, 2000), {"counted": 0}, Move(2000, "truncated", 1000)),
        # Records that were written since then have offsets of lost ones, and are read.
        (3000, (0, 2500), {"counted": 3000, "truncated_at": 2000}, Move(2000, "truncated", 1000)),
        (3000, (0, 9000), {"counted": 3000, "truncated_at": 2000}, Move(2000, "truncated", 1000)),
        (3000, (2100, 9000), {"counted": 3000, "truncated_at": 2000}, Move(2100, "truncated", 900)),
        (3000, (0, 500), {"counted": 3000, "recreated": True}, Move(0, "recreated", 3000)),
        (4000, (0, 3400), {"counted": 3000}, Move(3000, "ahead", 0)),
        (3000, (0, 9000), {"counted": 3000}, None),
        (3000, (0, 3000), {"counted": 3000, "truncated_at": 3000}, None),
    ],
)
def test_a_reader_continues_at_the_first_record_that_is_not_counted(
    position: int, bounds: tuple[int, int], known: dict[str, Any], move: Move | None
) -> None:
    assert move_of(position, LogBounds(*bounds), **known) == move


def test_the_end_of_a_log_that_was_cut_off_is_in_the_error() -> None:
    error = (
        "Partition log truncation detected at offset 3000 (leader epoch 2): broker end offset is 2000 (offset leader "
        "epoch 0). Reset to INVALID.: Local: Partition log truncation detected (broker 1)"
    )
    assert truncation_of(error) == Truncation(3000, 2000)
    assert truncation_of(error.replace("2000", "-1")) is None
    assert truncation_of("fetch failed due to requested offset not available: Offset out of range") is None
