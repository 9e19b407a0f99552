"""Quantiles of histograms, interpolated in their bucket as PromQL's `histogram_quantile` does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def quantile(q: float, buckets: NDArray[np.int64 | np.float64], bounds: Sequence[float]) -> NDArray[np.float64]:
    """Return float64[k]: the quantile of each row, NaN where it has no observations.

    buckets: [k, b + 1], counts of each bucket, the last +Inf. bounds: b upper bounds. A quantile in the last bucket is
    its lower bound.
    """
    cumulated = np.cumsum(buckets, axis=1)
    total = cumulated[:, -1]
    rank = q * total
    found = (cumulated < rank[:, None]).sum(axis=1).clip(max=len(bounds))
    finite = np.minimum(found, len(bounds) - 1)
    row = np.arange(len(buckets))
    edges = np.array([0.0, *bounds])
    inside = buckets[row, finite]
    before = cumulated[row, finite] - inside
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(found > finite, 1.0, (rank - before) / inside)
    values = edges[finite] + (edges[finite + 1] - edges[finite]) * share
    return np.where(total > 0, values, np.nan)
