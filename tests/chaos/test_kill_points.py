"""A worker that dies at the worst moment counts nothing twice and loses nothing: three times at each point."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.crashing import POINTS
from tests.chaos.kill_points import run
from tests.services.kafka import KafkaBroker

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
@pytest.mark.parametrize("point", POINTS)
def test_a_crash_at_this_point_leaves_every_counter_exact(
    kafka: KafkaBroker, tmp_path: Path, point: str, protocol: str
) -> None:
    outcome = run(kafka, tmp_path, point, 3, protocol)
    assert outcome.crashes == 3
    assert outcome.produced > 1000
    assert outcome.scrapes > 10
    assert outcome.differences == {}
    assert outcome.steps_back == []
    assert outcome.above_truth == []
    assert outcome.unexpected == []
