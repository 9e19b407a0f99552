"""Wiring: the only place that makes a replica's parts from its configuration.

`build_replica` makes everything that a worker runs, `build_backtest` what `tokentrace alerts test` runs; the functions
below make single parts, which commands use on their own too. Nothing here connects or starts.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from tokentrace.aggregate.dedup import Deduplicator, NullDeduplicator
from tokentrace.aggregate.delta import Delta
from tokentrace.aggregate.feedback import Feedback
from tokentrace.aggregate.findings import Finding
from tokentrace.aggregate.groups import GroupIndex
from tokentrace.aggregate.pipeline import Pipeline, StageTimer
from tokentrace.aggregate.series_budget import SeriesBudget
from tokentrace.aggregate.validate import Limits
from tokentrace.alerts.backtest import Backtest
from tokentrace.alerts.evaluator import Evaluator, EvaluatorSettings
from tokentrace.alerts.rules import Rule
from tokentrace.alerts.status import AlertStatus
from tokentrace.budgets.budget import Budget
from tokentrace.commit import Committer
from tokentrace.commit.at_least_once import AtLeastOnce
from tokentrace.commit.dead_letters import DeadLetterTopic
from tokentrace.commit.exactly_once import ExactlyOnce, ExactlyOnceSettings
from tokentrace.config import Config
from tokentrace.decode import SpanDecoder
from tokentrace.decode.framing import Framing, OtlpFraming
from tokentrace.decode.otlp.options import OtlpOptions
from tokentrace.decode.resolve import check_readable
from tokentrace.decode.schemas.files import load_folder, load_schema
from tokentrace.decode.schemas.store import WriterSchemas
from tokentrace.errors import ConfigError, SchemaError, UsageError
from tokentrace.exposition import HttpSettings, Renderer, TlsSettings, Token, Tokens
from tokentrace.exposition.ui import LivePage
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.membership import SourceSettings
from tokentrace.kafka.source import KafkaSource
from tokentrace.model.conventions import CALLS
from tokentrace.model.dimensions import Dimension, decoded_sources
from tokentrace.model.measures import Layout
from tokentrace.model.stop import StopSignal
from tokentrace.model.worker_stats import WorkerStats
from tokentrace.pricing import Pricer
from tokentrace.runtime.live_page import live_page
from tokentrace.runtime.memory import detected_limit, fetch_properties, memory_shares, shown_shares
from tokentrace.runtime.own_topics import OwnTopics
from tokentrace.runtime.price_rules import pricer
from tokentrace.runtime.worker import LoopSettings, Worker
from tokentrace.state.ledger import Ledger
from tokentrace.state.replica_state import ReplicaState

if TYPE_CHECKING:
    from tokentrace.decode.schemas.registry import Registry
    from tokentrace.ledger.in_worker import LedgerThread

#: Longest time that a turn of the loop waits for the schema registry; look-ups go on in the background.
LOOKUP_WAIT_S: Final = 0.1
#: With alerts or budgets, the longest time without a commit while nothing is published, so that event time advances.
HEARTBEAT_S: Final = 5.0

#: Rows of rollups that the ledger in a worker holds at once, some 20 MB.
LEDGER_BATCH_ROWS: Final = 20_000

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
    page: LivePage | None
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
    evaluator, status = alerting(config, clients, layout, clock) if config.evaluates else (None, None)
    alerts = status if config.alerts else None
    page = live_page(config, clients, layout, worker, alerts) if config.http_server.ui else None
    return Replica(
        clients=clients,
        source=source,
        dead_letters=dead_letters,
        worker=worker,
        renderer=renderer,
        evaluator=evaluator,
        alert_status=status,
        page=page,
        ledger=ledger_thread(config, clients, layout),
    )


def ledger_thread(config: Config, clients: KafkaClients, layout: Layout) -> LedgerThread | None:
    """The keeper of the ledger, None where it is none of the workers. Raises UsageError without the extra."""
    section, kafka = config.ledger, config.kafka
    if not section.in_worker or section.url is None:
        return None
    try:
        from tokentrace.ledger.database import Database
    except ModuleNotFoundError as error:
        raise UsageError(f"ledger.in_worker requires {error.name}: pip install 'tokentrace[ledger]'") from None
    from tokentrace.kafka.election import Election
    from tokentrace.kafka.log_tail import LogTail
    from tokentrace.ledger.follow import Follower, Tail
    from tokentrace.ledger.in_worker import LedgerThread

    database = Database(section.url)

    def follow(tail: Tail) -> Follower:
        return Follower(tail=tail, database=database, layout=layout, stop=clients.stop, batch_rows=LEDGER_BATCH_ROWS)

    return LedgerThread(
        elect=lambda: Election(
            clients,
            topic=kafka.rollups_topic,
            group_id=f"{kafka.group_id}.ledger",
            session_timeout_s=config.worker.session_timeout,
        ),
        open_tail=lambda: LogTail(clients, kafka.rollups_topic, kafka.group_id),
        follow=follow,
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


def dimensions_of(config: Config) -> tuple[Dimension, ...]:
    """The configured dimensions."""
    return tuple(
        Dimension(
            name=name,
            source=section.source,
            default=section.default,
            limit=section.limit,
            max_length=section.max_length,
            mapping=tuple(section.map.items()),
            values=None if section.values is None else frozenset(section.values),
            other=section.other,
            hash_key=b"" if section.hash_key is None else section.hash_key.get_secret_value().encode(),
        )
        for name, section in config.dimensions.items()
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


def layout_of(config: Config) -> Layout:
    """The columns of a cell, with the configured buckets."""
    buckets = config.metrics.buckets
    return Layout.build({name: getattr(buckets, name) for name in type(buckets).model_fields})


def series_budget(config: Config, layout: Layout) -> SeriesBudget:
    """The limits of what the groups come to in the exposition, of which a scrape takes several times the bytes."""
    metrics = config.metrics
    return SeriesBudget(
        max_series=metrics.max_series,
        max_bytes=exposition_limit(config),
        layout=layout,
        labels=metrics.labels,
    )


def exposition_limit(config: Config) -> int:
    """Return the most bytes of a scrape of the groups: as configured, but no more than the memory's share."""
    return min(config.metrics.max_exposition_bytes, memory_shares(memory_limit(config)).exposition_bytes)


def loop_settings(config: Config) -> LoopSettings:
    """The pace of the worker's loop."""
    section, shares = config.worker, memory_shares(memory_limit(config))
    return LoopSettings(
        commit_interval_s=section.commit_interval,
        batch_size=section.batch_size,
        batch_wait_s=section.batch_wait,
        heartbeat_s=HEARTBEAT_S if config.evaluates else None,
        batch_bytes=shares.batch_bytes,
        dead_letter_bytes=shares.dead_letter_bytes,
    )


def memory_limit(config: Config) -> int:
    """The bytes that this process may use."""
    return config.worker.memory_limit or detected_limit()


def alert_rules(config: Config) -> list[Rule]:
    return [Rule.of(rule) for rule in config.alerts]


def budgets_of(config: Config) -> list[Budget]:
    return [Budget.of(section) for section in config.budgets]


def alerting(
    config: Config, clients: KafkaClients, layout: Layout, clock: Callable[[], float]
) -> tuple[Evaluator, AlertStatus]:
    """The evaluator of alerts and budgets, and the answers to GET /alerts."""
    settings, rules, budgets = evaluator_settings(config), alert_rules(config), budgets_of(config)
    evaluator = Evaluator(settings=settings, clients=clients, rules=rules, budgets=budgets, layout=layout, clock=clock)
    status = AlertStatus(
        settings=settings,
        clients=clients,
        rules=rules,
        budgets=[budget.name for budget in budgets],
        evaluator=evaluator,
        clock=clock,
    )
    return evaluator, status


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


def evaluator_settings(config: Config) -> EvaluatorSettings:
    kafka, section = config.kafka, config.worker
    return EvaluatorSettings(
        group_id=kafka.group_id,
        replica=section.replica_id,
        rollups_topic=kafka.rollups_topic,
        alerts_topic=kafka.alerts_topic,
        budgets_topic=kafka.budgets_topic if config.budgets else "",
        session_timeout_s=section.session_timeout,
    )


def source_settings(config: Config) -> SourceSettings:
    kafka, section = config.kafka, config.worker
    return SourceSettings(
        topic=kafka.topic,
        group_id=kafka.group_id,
        member_id=section.replica_id,
        start=kafka.start,
        protocol=kafka.group_protocol,
        session_timeout_s=section.session_timeout,
        leave_on_stop=leaves_on_stop(config),
        fetch=fetch_properties(memory_limit(config), config.kafka.properties),
    )


def leaves_on_stop(config: Config) -> bool:
    """Return whether a stop of this replica leaves the group: as it is set, or as one that will be scaled away."""
    section = config.worker
    if section.min_replicas is None or section.ordinal is None:
        return section.leave_on_stop
    return section.leave_on_stop or section.ordinal >= section.min_replicas


def http_settings(config: Config) -> HttpSettings:
    http = config.http_server
    return HttpSettings(
        host=http.addr.host,
        port=http.addr.port,
        prometheus_path=http.prometheus_path,
        health_path=http.health_path,
        tokens=Tokens(_token(http.auth_token, http.auth_token_file), _token(http.admin_token, http.admin_token_file)),
        tls=None
        if http.tls is None
        else TlsSettings(http.tls.certificate, http.tls.key, http.tls.min_version, http.tls.client_ca),
        keep_alive_s=http.keep_alive_timeout,
        pages_bytes=memory_shares(memory_limit(config)).pages_bytes,
    )


def _token(secret: Any, path: Path | None) -> Token | None:
    """secret: a SecretStr, or None."""
    if secret is None and path is None:
        return None
    return Token("" if secret is None else secret.get_secret_value(), path)


def writer_schemas(config: Config, wait_s: float = math.inf) -> WriterSchemas:
    """wait_s: longest wait for the registry. Raises ConfigError for a schema file that cannot be read."""
    files: dict[bytes, Any] = {}
    for index, folder in enumerate(config.schemas.paths):
        files |= load_folder(folder, f"schemas.paths[{index}]")
    raw = load_schema(config.schemas.raw, "schemas.raw") if config.schemas.raw is not None else None
    if raw is not None:
        try:
            check_readable(raw)
        except SchemaError as error:
            raise ConfigError([f"schemas.raw: {error}"]) from error
    glue = {UUID(name): load_schema(path, f"schemas.glue.{name}") for name, path in config.schemas.glue.items()}
    return WriterSchemas(files, raw, registry(config), wait_s, glue)


def registry(config: Config) -> Registry | None:
    """The configured schema registry. Raises ConfigError for settings that its client rejects."""
    section = config.schema_registry
    if not section.url:
        return None
    # Its client takes 0.2 s to import (measured 2026-11).
    from tokentrace.decode.schemas.registry import Registry, RegistrySettings

    auth, tls = section.auth, section.tls
    credentials = token = None
    if auth is not None and auth.password is not None:
        credentials = f"{auth.username}:{auth.password.get_secret_value()}"
    if auth is not None and auth.bearer_token is not None:
        token = auth.bearer_token.get_secret_value()
    files = {name: str(path) for name in ("ca", "certificate", "key") if (path := getattr(tls, name)) is not None}
    return Registry(
        RegistrySettings(section.url, credentials, token, timeout_s=section.timeout, ids=section.ids, **files)
    )


def span_limits(config: Config) -> Limits:
    """Return the configured limits of one span."""
    limits = config.limits
    return Limits(limits.max_cost_usd, limits.max_tokens, limits.max_latency * 1000)
