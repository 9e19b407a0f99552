"""Half a minute in the storm, of which `make chaos` has ten minutes: exact, and no counter falls or runs ahead."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.storm import Storm
from tests.conftest import unavailable
from tests.services import Unavailable

pytestmark = [pytest.mark.usefixtures("real_service"), pytest.mark.long]


@pytest.mark.parametrize("dimensions", [False, True], ids=["", "by dimensions"])
def test_a_storm_leaves_every_counter_exact_and_monotone(tmp_path: Path, dimensions: bool) -> None:
    try:
        storm = Storm(tmp_path, seed=7, dimensions=dimensions)
    except Unavailable as error:
        unavailable(str(error))
    result = storm.run(25.0, spans=20_001)
    assert result.produced > 20_000
    assert result.events["kill"] >= 3
    assert result.events["broker restart"] == 1
    assert result.scrapes > 50
    assert result.differences == {}
    assert result.steps_back == []
    assert result.above_truth == []
    assert result.unexpected_exits == []
    assert result.unseen == {}, "what Prometheus adds up of the increments it sees"


@pytest.mark.nightly
def test_a_storm_leaves_every_budget_exact_and_every_threshold_fires_once(tmp_path: Path) -> None:
    try:
        storm = Storm(tmp_path, seed=5, budgets=True)
    except Unavailable as error:
        unavailable(str(error))
    result = storm.run(60.0)
    assert result.events["kill"] >= 5
    assert result.produced > 20_000
    assert result.differences == {}
    assert result.budgets == {}
    assert result.unexpected_exits == []


@pytest.mark.nightly
def test_a_storm_on_three_brokers_that_crash_in_turn_leaves_every_counter_exact(tmp_path: Path) -> None:
    try:
        storm = Storm(tmp_path, seed=3, brokers=3)
    except Unavailable as error:
        unavailable(str(error))
    result = storm.run(120.0)
    assert result.events["broker kill"] >= 3
    assert result.produced > 20_000
    assert result.differences == {}
    assert result.steps_back == []
    assert result.above_truth == []
    assert result.unexpected_exits == []


@pytest.mark.nightly
def test_the_storm_can_tell_a_weaker_guarantee(tmp_path: Path) -> None:
    try:
        storm = Storm(tmp_path, 7, {"worker": {"guarantee": "at_least_once"}}, settle_s=5.0)
    except Unavailable as error:
        unavailable(str(error))
    result = storm.run(180.0, until_told=True)
    assert result.steps_back != []
    assert result.miscounted != {}
    assert not result.exact
