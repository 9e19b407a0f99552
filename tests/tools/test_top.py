"""Sums and quantiles over replicas, from what they expose."""

from __future__ import annotations

import pytest

from tokentrace.tools.top import Scrape, Totals

NAME = "tokentrace_latency_ms"


def replica(**counts: int) -> Scrape:
    """A histogram of model `a`: cumulative counts up to 100, 200 and +Inf."""
    bounds = {"le100": "100", "le200": "200", "inf": "+Inf"}
    return Scrape(
        "r",
        0.0,
        {(f"{NAME}_bucket", (("le", bounds[bound]), ("model", "a"))): float(count) for bound, count in counts.items()},
    )


def test_quantile_is_over_all_replicas_and_interpolated() -> None:
    totals = Totals([replica(le100=1, le200=1, inf=1), replica(le100=1, le200=4, inf=5)])
    assert totals.quantile(0.5, NAME) == pytest.approx(100.0 + 100.0 * (3 - 2) / 3)
    assert totals.quantile(0.99, NAME, model="a") == 200.0, "the last bound, for what is beyond it"
    assert totals.quantile(0.2, NAME) == pytest.approx(100.0 * 1.2 / 2)


def test_quantile_is_none_without_observations() -> None:
    assert Totals([replica(le100=0, le200=0, inf=0)]).quantile(0.5, NAME) is None
    assert Totals([replica(le100=1, le200=1, inf=1)]).quantile(0.5, NAME, model="b") is None
    assert Totals([]).quantile(0.5, NAME) is None
