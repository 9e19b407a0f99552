"""Quantiles of histograms, against PromQL's rule in plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.alerts.oracle import quantile as quantile_by_hand
from tokentrace.model.quantiles import quantile


@given(
    st.lists(st.floats(0.001, 200.0), max_size=40), st.floats(0.01, 1.0),
    st.lists(st.floats(0.5, 150.0), min_size=1, max_size=6, unique=True),
)  # fmt: skip
def test_quantile_is_that_of_promql(values: list[float], q: float, bounds: list[float]) -> None:
    edges = tuple(sorted(bounds))
    buckets = np.zeros((1, len(edges) + 1), np.int64)
    for value in values:
        buckets[0, sum(value > edge for edge in edges)] += 1
    assert quantile(q, buckets, edges)[0] == pytest.approx(quantile_by_hand(q, values, edges), nan_ok=True)
