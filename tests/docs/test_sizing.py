"""docs/sizing.py: its formula against its simulation, and its constants against the families and the codec."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from tests.docs.test_generated import generate
from tokentrace.kafka.topics import STATE_PARTITIONS
from tokentrace.model.families import CELL_FAMILIES, CounterFamily, GaugeFamily, HistogramFamily
from tokentrace.model.measures import DEFAULT_BOUNDS
from tokentrace.model.spans import STATUSES

generate.TABLES["sizing"]()
sizing: Any = sys.modules["sizing"]


@pytest.mark.parametrize("fleet", sizing.FLEETS, ids=str)
def test_the_formula_says_what_the_simulation_counts(fleet: Any) -> None:
    counted = sizing.simulated_touched(fleet, np.random.default_rng(1))
    assert sizing.expected_touched(fleet) == pytest.approx(counted, rel=0.02)


def test_the_fleets_reach_from_one_replica_to_a_thousand_and_ten_million_spans() -> None:
    assert {fleet.replicas for fleet in sizing.FLEETS} >= {1, 1000}
    assert max(fleet.spans_s for fleet in sizing.FLEETS) == 1e7
    # Each limit that is met is followed by a setting that lifts it, but for the last: there the fleet is too wide.
    limits = {sizing.needs(fleet).limit[0] for fleet in sizing.FLEETS if sizing.needs(fleet).limit[1] > 1}
    assert limits == {"rollups partition", "Prometheus series"}


def test_the_series_of_a_group_are_those_of_the_families() -> None:
    of_caller = of_model = 0
    for family in CELL_FAMILIES:
        if isinstance(family, HistogramFamily):
            series = len(DEFAULT_BOUNDS[family.measure]) + 3
        elif family.name == "tokentrace_spans_clamped_total":
            series = 0  # Only publishers with a wrong clock have it.
        elif isinstance(family, CounterFamily):
            # Most models are billed by four units.
            series = min(len(family.columns), 4) * (len(STATUSES) if "status" in family.labels else 1)
        else:
            assert isinstance(family, GaugeFamily)
            series = 1
        if "caller" in family.labels:
            of_caller += series
        else:
            of_model += series
    assert (of_caller, of_model) == (sizing.SERIES_OF_CALLER, sizing.SERIES_OF_MODEL)
    assert sizing.STATE_PARTITIONS == STATE_PARTITIONS
