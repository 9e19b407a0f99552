"""Estimate: what a sample of the topic comes to under a configuration, before anything is deployed.

The sample is counted twice by the pipeline that workers use: without limits, which shows the demand, and as configured.
Series and bytes are the upper bounds that a worker's own budget computes. Memory follows from the groups, their cells,
the buckets and the text of a scrape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from tokentrace.aggregate.delta import Delta
from tokentrace.aggregate.groups import GroupIndex
from tokentrace.aggregate.series_budget import SeriesBudget
from tokentrace.config import Config
from tokentrace.decode.schemas.store import WriterSchemas
from tokentrace.exposition.render import Renderer
from tokentrace.model.measures import Layout
from tokentrace.model.messages import RawBatch
from tokentrace.model.snapshot import OVERFLOW_GROUP, Group
from tokentrace.runtime.settings import dimensions_of, layout_of, series_budget
from tokentrace.runtime.wiring import group_index, span_decoder, trial_pipeline
from tokentrace.state.ledger import Ledger
from tokentrace.tools.group_memory import group_memory_bytes

#: No sample reaches it.
_UNLIMITED: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class DimensionEstimate:
    """values: distinct ones of the sample. overflowed_spans: those beyond the limits. series: without it."""

    name: str
    values: int
    limit: int
    overflowed_spans: int
    series: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """groups: (model, provider, caller) of the sample. combinations: these with their dimensions.

    series, exposition_bytes: of all combinations, upper bounds. memory_bytes: of the groups, as they are configured.
    """

    spans: int
    rejected: int
    groups: int
    combinations: int
    series: int
    exposition_bytes: int
    memory_bytes: int
    overflowed_spans: int
    dimensions: Sequence[DimensionEstimate]


def estimate(config: Config, batches: Iterable[RawBatch], schemas: WriterSchemas) -> Estimate:
    """Count the sample and say what it comes to. schemas: of the sample's writers."""
    layout, dimensions = layout_of(config), dimensions_of(config)
    free = GroupIndex(
        _UNLIMITED,
        dimensions=[replace(dimension, limit=_UNLIMITED) for dimension in dimensions],
        max_dimension_groups=_UNLIMITED,
    )
    bound = group_index(config, series_budget(config, layout))
    decoder = span_decoder(config, schemas)
    deltas = [Delta(layout), Delta(layout)]
    pipelines = [trial_pipeline(config, decoder, groups) for groups in (free, bound)]
    for batch in batches:
        for pipeline, delta in zip(pipelines, deltas, strict=True):
            pipeline.count(batch, delta)
            delta.dead_letters.clear()
    changes = deltas[1].changes()
    spans, group = changes.values[:, Layout.column("spans")], bound.cell_group[changes.cells]

    def spans_of(groups: Sequence[int]) -> int:
        return int(spans[np.isin(group, groups)].sum())

    whole = _cost(config, layout, free.groups[1:])
    return Estimate(
        spans=int(spans.sum()),
        rejected=deltas[0].rejected.total(),
        groups=free.base_groups,
        combinations=len(free.groups) - 1,
        series=whole.use["series"],
        exposition_bytes=whole.use["bytes"],
        memory_bytes=group_memory_bytes(bound, layout, _scrape_bytes(config, layout, bound, deltas[1])),
        overflowed_spans=spans_of([OVERFLOW_GROUP]),
        dimensions=[
            DimensionEstimate(
                dimension.name,
                values.count,
                dimension.limit,
                spans_of(bound.overflowed.get(dimension.name, [])),
                _cost(config, layout, _without(free.groups[1:], dimension.name)).use["series"],
            )
            for dimension, values in zip(dimensions, free.dimensions.configured, strict=True)
        ],
    )


def _scrape_bytes(config: Config, layout: Layout, groups: GroupIndex, delta: Delta) -> int:
    """Return the size of the sample's series as a scrape has them, uncompressed."""
    ledger = Ledger(layout=layout, groups=groups, quality_window_s=config.metrics.quality_window)
    ledger.apply(*ledger.preview(delta))
    return len(Renderer(config.metrics.labels).render(ledger.snapshot, [], "text"))


def _cost(config: Config, layout: Layout, groups: Iterable[Group]) -> SeriesBudget:
    """Return a budget that has these groups."""
    budget = SeriesBudget(max_series=1, max_bytes=1, layout=layout, labels=config.metrics.labels)
    for group in groups:
        budget.add(group, always=True)
    return budget


def _without(groups: Iterable[Group], dimension: str) -> Iterator[Group]:
    for group in groups:
        yield group._replace(dimensions=tuple(pair for pair in group.dimensions if pair[0] != dimension))


def lines_of(found: Estimate, config: Config) -> Iterator[str]:
    """Give the estimate as text, line by line."""
    metrics = config.metrics
    yield (
        f"Sample: {found.spans:,} spans, and {found.rejected:,} rejected messages. All of this is of the sample; a "
        "longer time has more values."
    )
    yield f"Groups by model, provider and caller: {found.groups:,} (metrics.max_groups: {metrics.max_groups:,})."
    if found.dimensions:
        yield (
            f"Groups with their dimensions: {found.combinations:,} "
            f"(metrics.max_dimension_groups: {metrics.max_dimension_groups:,})."
        )
    limit = series_budget(config, layout_of(config)).limit
    yield (
        f"Series: at most {found.series:,} (metrics.max_series: {metrics.max_series:,}); a scrape: at most "
        f"{found.exposition_bytes / 1e6:,.1f} MB (limit: {limit['bytes'] / 1e6:,.1f} MB). Memory of the groups: about "
        f"{found.memory_bytes / 1e6:,.0f} MB."
    )
    for dimension in found.dimensions:
        yield (
            f"{dimension.name}: {dimension.values:,} values (limit: {dimension.limit:,}), "
            f"{dimension.overflowed_spans:,} spans in __overflow__; without it at most {dimension.series:,} series."
        )
    if found.overflowed_spans:
        yield f"{found.overflowed_spans:,} spans would lose their model and caller to __overflow__."
    worst = min(found.dimensions, key=lambda dimension: dimension.series, default=None)
    if worst is not None and worst.series < found.series:
        yield f"Most series come from {worst.name}: {found.series - worst.series:,} of {found.series:,}."
