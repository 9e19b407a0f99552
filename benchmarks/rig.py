"""Harness: tokentrace's engine and ledger over a workload, without Kafka."""

from __future__ import annotations

from collections.abc import Sequence

from tokentrace.aggregate.delta import Delta
from tokentrace.aggregate.groups import GroupIndex
from tokentrace.aggregate.pipeline import Pipeline, StageTimer
from tokentrace.decode import SpanDecoder
from tokentrace.model.dimensions import Dimension, decoded_sources
from tokentrace.model.measures import Layout
from tokentrace.model.snapshot import Snapshot
from tokentrace.model.worker_stats import STAGES
from tokentrace.pricing import Pricer
from tokentrace.runtime.allocator import tune_malloc
from tokentrace.state.ledger import Ledger

from .workload import Workload

LAYOUT = Layout.build()


class Harness:
    """An engine whose parts are the worker's. seconds: stage -> seconds spent in it."""

    def __init__(self, workload: Workload, max_groups: int = 100_000, dimensions: Sequence[Dimension] = ()) -> None:
        tune_malloc()  # As a worker does.
        self.batches = workload.batches()
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.groups = GroupIndex(max_groups, dimensions=dimensions)
        self.ledger = Ledger(layout=LAYOUT, groups=self.groups, quality_window_s=300.0)
        self._engine = Pipeline(
            decoder=SpanDecoder(workload.writer_schemas(), texts=decoded_sources(dimensions)),
            groups=self.groups,
            pricer=Pricer({}),
            layout=LAYOUT,
            timer=StageTimer(self.seconds),
        )

    def count(self) -> Delta:
        """Count every batch into a delta, as between two commits."""
        delta = Delta(LAYOUT)
        for batch in self.batches:
            self._engine.count(batch, delta)
        assert not delta.dead_letters
        return delta

    def commit(self, delta: Delta) -> Snapshot:
        self.ledger.apply(*self.ledger.preview(delta))
        return self.ledger.snapshot
