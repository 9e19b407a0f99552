"""Trial count: a worker's own stages, as configured, into counts that nothing keeps."""

from __future__ import annotations

from dataclasses import dataclass, field

from tokentrace.aggregate.delta import Delta
from tokentrace.aggregate.findings import Finding
from tokentrace.aggregate.groups import GroupIndex
from tokentrace.aggregate.pipeline import Pipeline
from tokentrace.config import Config
from tokentrace.decode import SpanDecoder
from tokentrace.decode.framing import Framing, OtlpFraming
from tokentrace.decode.schemas.store import WriterSchemas
from tokentrace.model.measures import Layout
from tokentrace.pricing import Pricer
from tokentrace.runtime.settings import layout_of, series_budget
from tokentrace.runtime.wiring import group_index, span_decoder, trial_pipeline


@dataclass(frozen=True, slots=True)
class Trial:
    """A pipeline with what it fills. findings: of all batches that were counted."""

    pipeline: Pipeline
    decoder: SpanDecoder
    delta: Delta
    groups: GroupIndex
    layout: Layout
    findings: list[Finding] = field(default_factory=list)


def trial(
    config: Config,
    schemas: WriterSchemas,
    *,
    framing: Framing | OtlpFraming | None = None,
    prices: Pricer | None = None,
) -> Trial:
    """Make a trial count. framing: instead of the configured one. prices: of the configuration, if already made."""
    layout = layout_of(config)
    groups = group_index(config, series_budget(config, layout))
    decoder = span_decoder(config, schemas, framing)
    findings: list[Finding] = []
    pipeline = trial_pipeline(config, decoder, groups, prices, findings.append)
    return Trial(pipeline, decoder, Delta(layout), groups, layout, findings)
