"""Wiring: makes a replica's parts from its configuration, and gives each the parts that it uses.

`build_replica` makes everything that a worker runs, `build_backtest` what `tokentrace alerts test` runs; the functions
below make single parts, which commands use on their own too. What the configuration says to a part is in `settings`.
Parts that a configuration may leave out are in `features`. Nothing here connects or starts.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tokentrace.aggregate.dedup import Deduplicator, NullDeduplicator
from tokentrace.aggregate.delta import Delta
from tokentrace.aggregate.feedback import Feedback
from tokentrace.aggregate.findings import Finding
from tokentrace.aggregate.groups import GroupIndex
from tokentrace.aggregate.pipeline import Pipeline, StageTimer
from tokentrace.aggregate.series_budget import SeriesBudget
from tokentrace.commit import Committer
from tokentrace.commit.at_least_once import AtLeastOnce
from tokentrace.commit.dead_letters import DeadLetterTopic
from tokentrace.commit.exactly_once import ExactlyOnce, ExactlyOnceSettings
from tokentrace.config import Config
from tokentrace.decode import SpanDecoder
from tokentrace.decode.framing import Framing, OtlpFraming
from tokentrace.decode.otlp.options import OtlpOptions
from tokentrace.decode.schemas.store import WriterSchemas
from tokentrace.exposition import Renderer
from tokentrace.exposition.ui.on_demand import PageOnDemand
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.source import KafkaSource
from tokentrace.model.conventions import CALLS
from tokentrace.model.dimensions import decoded_sources
from tokentrace.model.measures import Layout
from tokentrace.model.stop import StopSignal
from tokentrace.model.worker_stats import WorkerStats
from tokentrace.pricing import Pricer
from tokentrace.runtime import features
from tokentrace.runtime.memory import shown_shares
from tokentrace.runtime.own_topics import OwnTopics
from tokentrace.runtime.price_rules import pricer
from tokentrace.runtime.schema_sources import writer_schemas
from tokentrace.runtime.settings import (
    dimensions_of,
    layout_of,
    loop_settings,
    memory_limit,
    series_budget,
    source_settings,
    span_limits,
)
from tokentrace.runtime.worker import Worker
from tokentrace.state.ledger import Ledger
from tokentrace.state.replica_state import ReplicaState

if TYPE_CHECKING:
    from tokentrace.alerts.backtest import Backtest
    from tokentrace.alerts.evaluator import Evaluator
    from tokentrace.alerts.status import AlertStatus
    from tokentrace.ledger.in_worker import LedgerThread

#: Longest time that a turn of the loop waits for the schema registry; look-ups go on in the background.
LOOKUP_WAIT_S: Final = 0.1
#: Shortest time without a commit that is unusual: a rebalance or a recovery takes less.
LEAST_COMMIT_AGE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Replica:
    """The parts that a service starts and stops. evaluator, alert_status: None without alert rules and budgets.

    clients: of the whole replica, with the signal that stops it. ledger: None unless the workers keep it.
    """

    clients: KafkaClients
    source: KafkaSource
    dead_letters: DeadLetterTopic
    worker: Worker
    renderer: Renderer
    evaluator: Evaluator | None
    alert_status: AlertStatus | None
    page: PageOnDemand | None
    ledger: LedgerThread | None


def build_replica(config: Config, clock: Callable[[], float] = time.time, *, watch_topics: bool = False) -> Replica:
    """Make the parts of a replica. Raises ConfigError for a schema file that cannot be read.

    watch_topics: whether the worker watches tokentrace's own topics.
    """
    section, metrics = config.worker, config.metrics
    clients = kafka_clients(config, StopSignal())
    layout = layout_of(config)
    budget, limit = series_budget(config, layout), memory_limit(config)
    groups = group_index(config, budget)
    schemas, dedup = writer_schemas(config, LOOKUP_WAIT_S), deduplicator(config, clock)
    decoder = span_decoder(config, schemas, identity=section.deduplicate is not None)
    dead_letters = DeadLetterTopic(clients, config.kafka.dead_letters, config.kafka.group_id)
    stats = WorkerStats(
        replica_id=section.replica_id,
        guarantee=section.guarantee,
        started_at_s=clock(),
        max_commit_age_s=config.health.max_commit_age or max(LEAST_COMMIT_AGE_S, 3 * section.commit_interval),
        registry_requests=schemas.requests,
        schemas=decoder.paths,
        truncated_letters=dead_letters.truncated,
        memory_limit=limit,
        memory_shares=shown_shares(limit, config.kafka.properties),
        budget_used=budget.use,
        budget_limit=budget.limit,
    )
    timer, feedback = StageTimer(stats.stage_seconds), Feedback()
    source = KafkaSource(source_settings(config), clients, clock)
    renderer = Renderer(metrics.labels, metrics.zero_first, metrics.created)
    ledger = Ledger(
        layout=layout,
        groups=groups,
        quality_window_s=metrics.quality_window,
        clock=clock,
        expire_after_s=metrics.expire_after,
        label_sets=renderer.label_sets,
        seen_until_s=renderer.seen_until_s,
    )
    worker = Worker(
        settings=loop_settings(config),
        source=source,
        pipeline=Pipeline(
            decoder=decoder,
            groups=groups,
            pricer=pricer(config, clock),
            layout=layout,
            timer=timer,
            clock=clock,
            deduplicator=dedup,
            limits=span_limits(config),
            label_bytes=metrics.label_value_length_limit,
            tell=feedback.add,
        ),
        state=ReplicaState(delta=Delta(layout), ledger=ledger, deduplicator=dedup),
        committer=committer(config, clients, source, dead_letters, groups, layout, renderer.labels),
        stats=stats,
        timer=timer,
        stop=clients.stop,
        clock=clock,
        restoring=renderer.restore,
        own_topics=OwnTopics(config, clients) if watch_topics else None,
        report=feedback.report,
    )
    evaluator, status = features.alerting(config, clients, layout, clock)
    return Replica(
        clients=clients,
        source=source,
        dead_letters=dead_letters,
        worker=worker,
        renderer=renderer,
        evaluator=evaluator,
        alert_status=status,
        page=features.page(config, clients, layout, worker, status),
        ledger=features.ledger(config, clients, layout),
    )


def span_decoder(
    config: Config,
    schemas: WriterSchemas,
    framing: Framing | OtlpFraming | None = None,
    *,
    identity: bool = True,
) -> SpanDecoder:
    """The decoder of the topic's messages. framing: instead of the configured one. identity: whether it reads ids."""
    otlp = OtlpOptions(config.otlp.caller, CALLS.union(config.otlp.calls))
    texts = decoded_sources(dimensions_of(config))
    return SpanDecoder(schemas, framing or config.kafka.framing, identity=identity, texts=texts, otlp=otlp)


def build_backtest(config: Config, schemas: WriterSchemas) -> Backtest:
    """The configured rules and budgets over history. schemas: those of the spans to read."""
    from tokentrace.alerts.backtest import Backtest
    from tokentrace.runtime.alerting import alert_rules, budgets_of

    layout = layout_of(config)
    groups = group_index(config, series_budget(config, layout))
    pipeline = trial_pipeline(config, span_decoder(config, schemas), groups)
    return Backtest(
        pipeline=pipeline,
        groups=groups,
        layout=layout,
        rules=alert_rules(config),
        budgets=budgets_of(config),
        group_id=config.kafka.group_id,
    )


def trial_pipeline(
    config: Config,
    decoder: SpanDecoder,
    groups: GroupIndex,
    prices: Pricer | None = None,
    tell: Callable[[Finding], None] | None = None,
) -> Pipeline:
    """Make a worker's stages for counts that nothing keeps. prices: those of the configuration, if already made."""
    return Pipeline(
        decoder=decoder,
        groups=groups,
        pricer=prices or pricer(config),
        layout=layout_of(config),
        timer=StageTimer(defaultdict(float)),
        limits=span_limits(config),
        label_bytes=config.metrics.label_value_length_limit,
        tell=tell,
    )


def group_index(config: Config, budget: SeriesBudget) -> GroupIndex:
    """The index of the groups, with the configured limits."""
    metrics = config.metrics
    return GroupIndex(
        metrics.max_groups,
        budget=budget,
        dimensions=dimensions_of(config),
        max_dimension_groups=metrics.max_dimension_groups,
    )


def kafka_clients(config: Config, stop: StopSignal | None = None) -> KafkaClients:
    """The factory of every Kafka client of this process. stop: ends what waits for Kafka."""
    kafka = config.kafka
    return KafkaClients(
        bootstrap_servers=kafka.bootstrap_servers,
        client_id=config.worker.replica_id,
        properties=kafka.properties,
        stop=stop,
        ask_for_causes=True,
    )


def committer(
    config: Config,
    clients: KafkaClients,
    source: KafkaSource,
    dead_letters: DeadLetterTopic,
    groups: GroupIndex,
    layout: Layout,
    labels: Mapping[str, Sequence[str]],
) -> Committer:
    """The commit of the configured guarantee. labels: family -> those that it is exposed with."""
    kafka = config.kafka
    if config.worker.guarantee == "at_least_once":
        return AtLeastOnce(clients=clients, source=source, dead_letters=dead_letters, replica=config.worker.replica_id)
    settings = ExactlyOnceSettings(
        group_id=kafka.group_id,
        replica=config.worker.replica_id,
        source_topic=kafka.topic,
        dead_letter_topic=kafka.dead_letters,
        state_topic=kafka.state_topic,
        rollups_topic=kafka.rollups_topic,
        ids_topic=kafka.ids_topic if config.worker.deduplicate is not None else "",
        labels=labels,
    )
    return ExactlyOnce(
        settings, clients=clients, source=source, dead_letters=dead_letters, groups=groups, layout=layout
    )


def deduplicator(config: Config, clock: Callable[[], float]) -> Deduplicator:
    """The configured deduplicator; one that counts every span where `worker.deduplicate` is not set."""
    section = config.worker.deduplicate
    if section is None:
        return NullDeduplicator()
    # `by` has one value so far.
    return {"span_id": Deduplicator}[section.by](section.window, section.max_ids, clock)
