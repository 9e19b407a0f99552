"""A worker that dies at the worst moment counts nothing twice and loses nothing: once at each point.

`make chaos` does so twenty times.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.crashing import POINTS
from tests.chaos.kill_points import run
from tests.services.kafka import KafkaBroker

pytestmark = pytest.mark.long


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_crashes_at_every_point_leave_every_counter_exact(kafka: KafkaBroker, tmp_path: Path, protocol: str) -> None:
    outcome = run(kafka, tmp_path, list(POINTS), 1, protocol)
    assert outcome.crashes == len(POINTS)
    assert outcome.produced > 10_000
    assert outcome.scrapes > 10
    assert outcome.differences == {}
    assert outcome.steps_back == []
    assert outcome.above_truth == []
    assert outcome.unexpected == []
