"""Size a fleet of tokentrace by formulas, and check them by a simulation.

Run `python docs/sizing.py`.

The formulas are those of `docs/sizing.md`, whose table is written from here by `make docs`. The simulation draws every
replica's spans of several commits from groups of very unequal size (Zipf) and counts the cells that each commit really
touches, which is the one thing that the formulas estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

# Measured by `make bench` on 4 shared cores of an AMD EPYC, 2026-11: from Kafka to committed, 0.84 and 1.14 million
# spans/s with 1000 groups in two runs; 87 MB before the first span, 186 MB with 10,000 groups.
SPAN_BYTES: Final = 185
SPAN_US: Final = 1.0
BASE_MB: Final = 87.0
GROUP_KB: Final = 10.0
# Measured by docs/sizing_measure.py on the same machine.
CELL_US: Final = (
    10.0  # one cell that a commit touches: 6.4 to encode its total and increment, the rest to hand them over
)
EVALUATE_US: Final = 2.0  # one cell of a rollup, decoded by the replica that evaluates the alerts
STATE_BYTES: Final = 172  # a cell's total with its key
ROLLUP_BYTES: Final = 124  # a cell's increment
SERIES_OF_CALLER: Final = 9  # cost, prompt, completion, cached, reasoning tokens, units of a (model, provider, caller)
SERIES_OF_MODEL: Final = 83  # spans by status, five histograms, quality, pricing, repairs of a (model, provider)
SERIES_OF_WORKER: Final = 90
# What librdkafka holds ready for a replica that is behind: queued.max.messages.kbytes.
QUEUE_MB: Final = 64.0

# What the parts around the workers take before they have to be made larger. Estimates; put yours.
CORE: Final = 0.7  # of one core, so that a replica can catch up
PARTITION_MB_S: Final = 10.0  # written to one partition
STATE_PARTITIONS: Final = 12
PROMETHEUS_SERIES: Final = 5e6
TRANSACTIONS_S: Final = 2000.0  # of one cluster


@dataclass(frozen=True)
class Fleet:
    """A load and a fleet for it. cells: of a group, one for each status that occurs in it."""

    spans_s: float
    replicas: int
    models: int = 50
    callers: int = 20
    commit_s: float = 1.0
    scrape_s: float = 15.0
    cells: float = 1.3

    @property
    def groups(self) -> int:
        return self.models * self.callers


@dataclass(frozen=True)
class Needs:
    """Resources of a fleet, and each of them as a share of its limit (1 is the limit)."""

    touched: float
    core: float
    state_mb_s: float
    rollups_mb_s: float
    evaluator: float
    series: float
    samples_s: float
    transactions_s: float
    memory_mb: float
    input_mb_s: float

    def parts(self) -> dict[str, float]:
        return {
            "replica's core": self.core / CORE,
            "state topic": self.state_mb_s / (PARTITION_MB_S * STATE_PARTITIONS),
            "rollups partition": self.rollups_mb_s / PARTITION_MB_S,
            "alert evaluator": self.evaluator / CORE,
            "Prometheus series": self.series / PROMETHEUS_SERIES,
            "transactions": self.transactions_s / TRANSACTIONS_S,
        }

    @property
    def limit(self) -> tuple[str, float]:
        """The part that is used most."""
        return max(self.parts().items(), key=lambda item: item[1])


def shares(fleet: Fleet) -> NDArray[np.float64]:
    """Each cell's part of the traffic: groups by Zipf's law, and of each group its failures."""
    group = 1.0 / np.arange(1, fleet.groups + 1)
    failing = fleet.groups * (fleet.cells - 1)
    shares = np.concatenate([group * 0.97, group[: int(failing)] * 0.03])
    result: NDArray[np.float64] = shares / shares.sum()
    return result


def expected_touched(fleet: Fleet) -> float:
    """Cells that one commit of one replica touches: the sum over cells of 1 - (1 - share) ** spans."""
    spans = fleet.spans_s * fleet.commit_s / fleet.replicas
    return float((1 - np.exp(spans * np.log1p(-shares(fleet)))).sum())


def simulated_touched(fleet: Fleet, rng: np.random.Generator, commits: int = 40) -> float:
    """The same, counted: spans are drawn, and distinct cells are counted, commit by commit."""
    spans = fleet.spans_s * fleet.commit_s / fleet.replicas
    drawn = rng.multinomial(rng.poisson(spans, commits), shares(fleet))
    return float((drawn > 0).sum(axis=1).mean())


def needs(fleet: Fleet, touched: float | None = None) -> Needs:
    """The formulas. touched: cells a commit, where they have been counted."""
    cells = expected_touched(fleet) if touched is None else touched
    spans_of_replica = fleet.spans_s / fleet.replicas
    cells_s = fleet.replicas * cells / fleet.commit_s
    series = fleet.replicas * (SERIES_OF_CALLER * fleet.groups + SERIES_OF_MODEL * fleet.models + SERIES_OF_WORKER)
    return Needs(
        touched=cells,
        core=(spans_of_replica * SPAN_US + cells / fleet.commit_s * CELL_US) / 1e6,
        state_mb_s=cells_s * STATE_BYTES / 1e6,
        rollups_mb_s=cells_s * ROLLUP_BYTES / 1e6,
        evaluator=cells_s * EVALUATE_US / 1e6,
        series=series,
        samples_s=series / fleet.scrape_s,
        transactions_s=fleet.replicas / fleet.commit_s,
        memory_mb=BASE_MB + GROUP_KB * fleet.groups / 1e3 + QUEUE_MB,
        input_mb_s=fleet.spans_s * SPAN_BYTES / 1e6,
    )


#: From one replica to a thousand, from a thousand spans a second to ten million; and what is set where a limit is met.
FLEETS: Final = (
    Fleet(1e3, 1),
    Fleet(1e5, 1),
    Fleet(5e5, 1),
    Fleet(1e6, 4),
    Fleet(1e6, 4, models=200, callers=50),
    Fleet(1e6, 40),
    Fleet(1e6, 40, commit_s=10),
    Fleet(1e7, 20),
    Fleet(1e7, 20, commit_s=5),
    Fleet(1e7, 100, commit_s=5),
    Fleet(1e7, 100, commit_s=15),
    Fleet(1e7, 1000, commit_s=5),
    Fleet(1e7, 1000, commit_s=60),
)


def table() -> str:
    """The simulation as a table in Markdown; the same numbers every time."""
    rng = np.random.default_rng(6)
    head = (
        "| spans/s | replicas | groups | commit | cells a commit: formula, simulated | core | memory | state MB/s | "
        "rollups MB/s | evaluator core | series | first limit |\n"
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|\n"
    )
    rows = []
    for fleet in FLEETS:
        counted = simulated_touched(fleet, rng)
        take = needs(fleet, counted)
        name, part = take.limit
        limit = f"{name}, {part:.0%}" if part < 1 else f"**{name}, {part:.1f} times too much**"
        cells = [
            f"{fleet.spans_s:,.0f}",
            f"{fleet.replicas}",
            f"{fleet.groups:,}",
            f"{fleet.commit_s:.0f} s",
            f"{expected_touched(fleet):,.0f}, {counted:,.0f}",
            f"{take.core:.2f}",
            f"{take.memory_mb:.0f} MB",
            f"{take.state_mb_s:.1f}",
            f"{take.rollups_mb_s:.1f}",
            f"{take.evaluator:.2f}",
            f"{take.series:,.0f}",
            limit,
        ]
        rows.append(f"| {' | '.join(cells)} |\n")
    return head + "".join(rows)


if __name__ == "__main__":
    print(table())
