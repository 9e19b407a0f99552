"""The service: a worker with its HTTP server, put together from one `Config`, from start to drained.

This is the only module that knows both the configuration and the parts. It owns the order of things: HTTP first (a
pod that waits for its broker can say so), then the broker, the topics, the group; at the end commit, leave, and
keep serving until the final totals have been scraped.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from itertools import chain
from typing import Final

from tokentrace.aggregate.delta import Delta
from tokentrace.aggregate.groups import GroupIndex
from tokentrace.aggregate.pipeline import Pipeline, StageTimer
from tokentrace.alerts.evaluator import Evaluator
from tokentrace.alerts.rules import Rule
from tokentrace.alerts.status import AlertStatus
from tokentrace.config import Config
from tokentrace.decode import SpanDecoder
from tokentrace.errors import ConfigError
from tokentrace.exposition import (
    ClientAddress,
    Format,
    HealthReport,
    HttpServer,
    Renderer,
    Scrape,
    collect_alert_metrics,
    collect_worker_metrics,
)
from tokentrace.kafka.source import KafkaSource
from tokentrace.kafka.topics import READ, Topics, alerts_topic, rollups_topic, state_topic
from tokentrace.model.durations import format_duration
from tokentrace.model.measures import Layout
from tokentrace.model.snapshot import Snapshot
from tokentrace.model.worker_stats import Moment, WorkerStats
from tokentrace.runtime.allocator import tune_malloc
from tokentrace.runtime.wiring import (
    committer,
    deduplicator,
    evaluator_settings,
    http_settings,
    kafka_clients,
    pricer,
    source_settings,
    writer_schemas,
)
from tokentrace.runtime.worker import LoopSettings, Worker
from tokentrace.state.ledger import Ledger
from tokentrace.state.replica_state import ReplicaState

log = logging.getLogger(__name__)

#: A loop that has not turned for this long is stuck, whatever it waits for.
LIVE_TURN_AGE_S: Final = 120.0
#: With alerts, a replica without traffic still tells so often that nothing has come.
HEARTBEAT_S: Final = 5.0


class Service:
    """One replica. Build it, `run` it on the thread that is to count, `stop` it from anywhere."""

    def __init__(self, config: Config, clock: Callable[[], float] = time.time, *, make_topics: bool = True) -> None:
        """make_topics: whether to create and check tokentrace's own topics; an emulated broker may not allow it."""
        self._config = config
        self._make_topics = make_topics
        self._clock = clock
        self._stopping = threading.Event()
        self._drain = True
        self._connected = False
        self._final: Snapshot | None = None
        self._seen_by: dict[ClientAddress, Snapshot] = {}
        self._final_scraped = threading.Event()
        #: Set while the endpoint answers.
        self.serving = threading.Event()

        section, metrics = config.worker, config.metrics
        layout = Layout.build({name: getattr(metrics.buckets, name) for name in type(metrics.buckets).model_fields})
        groups = GroupIndex(metrics.max_groups)
        self._stats = WorkerStats(replica_id=section.replica_id, guarantee=section.guarantee, started_at_s=clock())
        schemas = writer_schemas(config)
        dedup = deduplicator(config)
        decoder = SpanDecoder(schemas, config.kafka.framing, identity=section.deduplicate is not None)
        self._stats.registry_requests = schemas.requests
        self._stats.schemas = decoder.paths
        self._renderer = Renderer(metrics.labels, metrics.zero_first)
        timer = StageTimer(self._stats.stage_seconds)
        self._source = KafkaSource(source_settings(config), kafka_clients(config), clock)
        self._worker = Worker(
            settings=LoopSettings(
                section.commit_interval,
                section.batch_size,
                section.batch_wait,
                HEARTBEAT_S if config.alerts else None,
            ),
            source=self._source,
            pipeline=Pipeline(decoder, groups, pricer(config, clock), layout, timer, clock, dedup),
            state=ReplicaState(
                delta=Delta(layout),
                ledger=Ledger(
                    layout, groups, metrics.quality_window, clock, metrics.expire_after, self._renderer.label_sets
                ),
                deduplicator=dedup,
            ),
            committer=committer(config, self._source, groups, layout),
            stats=self._stats,
            timer=timer,
            clock=clock,
            restoring=self._renderer.restore,
        )
        self._evaluator: Evaluator | None = None
        board = None
        if config.alerts:
            settings, rules = evaluator_settings(config), [Rule.of(each) for each in config.alerts]
            self._evaluator = Evaluator(
                settings=settings, clients=kafka_clients(config), rules=rules, layout=layout, clock=clock
            )
            board = AlertStatus(
                settings=settings, clients=kafka_clients(config), rules=rules, evaluator=self._evaluator, clock=clock
            )
        self.http: HttpServer | None = None
        if config.http_server.enabled:
            self.http = HttpServer(
                http_settings(config),
                render=self._render,
                health=self._health,
                on_scraped=self._on_scraped,
                alerts=board,
            )

    @property
    def snapshot(self) -> Snapshot:
        """The committed totals."""
        return self._worker.snapshot

    def stop(self, drain: bool = True) -> None:
        """Ask for an orderly end; without `drain`, the final values are not held for a last scrape."""
        self._drain = drain
        self._stopping.set()
        self._worker.stop()

    def run(self) -> None:
        """Serve and count until `stop`. Raises UsageError or FatalError when this replica cannot go on."""
        tune_malloc()
        if self.http is not None:
            self.http.start()
            scheme = "https" if self._config.http_server.tls is not None else "http"
            path = self._config.http_server.prometheus_path
            self.serving.set()
            log.info("Serving metrics at %s://%s:%d%s", scheme, _shown_host(self._config), self.http.port, path)
        try:
            if self._source.connect(self._stopping.is_set, self._stopping.wait):
                self._connected = True
                if self._make_topics:
                    self._ensure_topics()
                if self._evaluator is not None:
                    self._evaluator.start()
                try:
                    self._worker.run()
                finally:
                    if self._evaluator is not None:
                        self._evaluator.stop()
                self._hold_for_last_scrape()
        finally:
            self.serving.clear()
            if self.http is not None:
                self.http.stop()

    def _ensure_topics(self) -> None:
        kafka = self._config.kafka
        topics = Topics(kafka_clients(self._config))
        specs = [topics.dead_letters(kafka.dead_letters, kafka.topic)]
        if self._config.worker.guarantee == "exactly_once":
            specs += [state_topic(kafka.state_topic), rollups_topic(kafka.rollups_topic, bool(self._config.alerts))]
            if self._config.worker.deduplicate is not None:
                specs.append(topics.ids(kafka.ids_topic, kafka.topic))
        if self._config.alerts:
            specs.append(alerts_topic(kafka.alerts_topic))
        topics.ensure(specs)
        topics.check_rights({kafka.topic: READ, **{spec.name: spec.operations for spec in specs}})
        if self._config.alerts:
            self._check_windows(topics.retention_s(kafka.rollups_topic))

    def _check_windows(self, retention_s: float | None) -> None:
        """A window must be there to be read again, by who evaluates next. Raises ConfigError."""
        problems = [
            f"alerts[{index}].window: {format_duration(rule.window)} is longer than the topic "
            f"{self._config.kafka.rollups_topic!r} is kept ({format_duration(retention_s)}); shorten it, or raise the "
            "topic's retention.ms"
            for index, rule in enumerate(self._config.alerts)
            if retention_s is not None and rule.window >= retention_s
        ]
        if problems:
            raise ConfigError(problems)

    def _hold_for_last_scrape(self) -> None:
        """Prometheus would never see what was counted since its last scrape, if the process just ended."""
        timeout_s = self._config.worker.drain_timeout
        self._final = self._worker.snapshot
        self._check_final()
        if self.http is None or not self._drain or not timeout_s or not len(self._final.values):
            return
        log.info("Counting has ended; waiting up to %.0f s for the final values to be scraped.", timeout_s)
        if self._final_scraped.wait(timeout_s):
            log.info("The final values have been scraped.")
        else:
            log.warning("The final values were not scraped within worker.drain_timeout (%.0f s).", timeout_s)

    # -- called on the HTTP server's threads -------------------------------------------------------------------------

    def _render(self, form: Format, by_prometheus: bool) -> Scrape:
        alerts = self._evaluator.snapshot if self._evaluator is not None else None
        return self._renderer.scrape(
            lambda: self._worker.snapshot,
            form,
            by_prometheus,
            lambda snapshot: chain(
                collect_worker_metrics(Moment(self._worker.stats, snapshot, self._clock())),
                collect_alert_metrics(alerts),
            ),
        )

    def _health(self) -> HealthReport:
        stats = self._worker.stats
        turn_age_s = self._clock() - stats.last_turn_at_s if self._connected else 0.0
        waiting_for = self._source.unreachable or stats.not_ready
        detail = {
            "replica_id": stats.replica_id,
            "waiting_for": waiting_for,
            "partitions": sorted(stats.lag),
            "last_commit_age_seconds": round(self._clock() - stats.last_commit_at_s, 3)
            if stats.last_commit_at_s
            else None,
        }
        return HealthReport(live=turn_age_s < LIVE_TURN_AGE_S, ready=not waiting_for, detail=detail)

    def _on_scraped(self, scrape: Scrape, scraper: ClientAddress, connected: Collection[ClientAddress]) -> None:
        self._renderer.record_scrape(scraper, scrape.number, connected)
        # Whoever is not expected again must not keep an old snapshot in memory.
        expected = self._renderer.active_servers()
        self._seen_by = {each: seen for each, seen in self._seen_by.items() if each in expected}
        if scrape.complete:
            self._seen_by[scraper] = scrape.snapshot
        self._check_final()

    def _check_final(self) -> None:
        """Whether every Prometheus that comes here, or anybody where none does, has seen the final values."""
        final = self._final
        seen = {name for name, snapshot in self._seen_by.items() if snapshot is final}
        if final is not None and seen and self._renderer.active_servers() <= seen:
            self._final_scraped.set()


def _shown_host(config: Config) -> str:
    host = config.http_server.addr.host
    return "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host
