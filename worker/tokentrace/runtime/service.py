"""The service: one replica from start to drained.

It owns the order of things: HTTP first (a pod that waits for its broker can say so), then the broker, the topics, the
alert evaluator, the group; at the end commit, leave, and keep serving until the final totals have been scraped. The
parts are made in `wiring`.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Final

from tokentrace.config import Config
from tokentrace.config.fields import HostPort
from tokentrace.errors import ClientFailed, StopRequested
from tokentrace.exposition import (
    Format,
    HealthReport,
    HttpServer,
    Scrape,
    collect_alert_metrics,
    collect_budget_metrics,
    collect_ledger_metrics,
    collect_worker_metrics,
)
from tokentrace.exposition.http.listener import Listener
from tokentrace.model.secrets import hide_secrets
from tokentrace.model.snapshot import Snapshot
from tokentrace.model.stop import StopSignal
from tokentrace.model.worker_stats import Moment, WorkerStats
from tokentrace.runtime.allocator import release_unused, tune_malloc
from tokentrace.runtime.last_scrape import LastScrape
from tokentrace.runtime.recovery import try_until_done
from tokentrace.runtime.settings import exposition_limit, http_settings, memory_limit
from tokentrace.runtime.topic_setup import set_up_topics
from tokentrace.runtime.wiring import build_replica

log = logging.getLogger(__name__)

#: A loop without a turn for this long is stuck.
LIVE_TURN_AGE_S: Final = 120.0
#: Longest time from the request to stop to the end of counting. `worker.drain_timeout` comes on top.
STOP_TIMEOUT_S: Final = 25.0
#: Time after it for which a call may keep all threads from running.
LOCKED_S: Final = 5.0
#: Longest wait for a question that the page has asked Kafka.
PAGE_STOP_TIMEOUT_S: Final = 2.0


class Service:
    """One replica. Build it, `run` it on the thread that is to count, `stop` it from anywhere."""

    def __init__(
        self,
        config: Config,
        clock: Callable[[], float] = time.time,
        *,
        make_topics: bool = True,
        listener: Listener | None = None,
    ) -> None:
        """make_topics: whether to create and check tokentrace's own topics; an emulated broker may not allow it.

        listener: listens already, and replaces the configured address.

        Raises ConfigError for a schema file that cannot be read.
        """
        self._config = config
        self._make_topics = make_topics
        self._drain = True
        self._connected = False
        #: Set while the endpoint answers.
        self.serving = threading.Event()
        self._replica = build_replica(config, clock, watch_topics=make_topics)
        self._stop = self._replica.clients.stop
        self._last_scrape = LastScrape(self._replica.renderer)
        self.http: HttpServer | None = None
        if config.http_server.enabled:
            self.http = HttpServer(
                http_settings(config),
                render=self._render,
                health=self._health,
                on_scraped=self._last_scrape.on_scraped,
                alerts=self._replica.alert_status,
                page=self._replica.page,
                listener=listener,
            )

    @property
    def snapshot(self) -> Snapshot:
        """The committed totals."""
        return self._replica.worker.snapshot

    @property
    def stats(self) -> WorkerStats:
        """The worker's last published stats."""
        return self._replica.worker.stats

    def stop(self, drain: bool = True) -> None:
        """Request an orderly end; without `drain`, the final values are not held for a last scrape.

        A second call without `drain` ends that wait.
        """
        self._drain = drain
        self._stop.set()
        if not drain:
            self._last_scrape.cancel()

    def run(self) -> None:
        """Serve and count until `stop`. Raises UsageError or FatalError when this replica cannot continue."""
        if tune_malloc():
            release_unused(self._stop)
        if self.http is not None:
            self.http.start()
            self.serving.set()
            self._log_lower_limit()
            log.info("Serving metrics at %s", metrics_url(self._config, self._config.http_server.addr, self.http.port))
        try:
            with stopping_in_time(self._stop, STOP_TIMEOUT_S), suppress(StopRequested):
                self._connect_and_count()
            self._hold_for_last_scrape()
        finally:
            self._close_worker()
            self.serving.clear()
            if self.http is not None:
                self.http.stop()
            if self._replica.page is not None:
                self._replica.page.stop(PAGE_STOP_TIMEOUT_S)

    def _log_lower_limit(self) -> None:
        configured, limit = self._config.metrics.max_exposition_bytes, exposition_limit(self._config)
        if limit < configured:
            log.info(
                "A scrape of the groups has %d bytes at most, not the %d of metrics.max_exposition_bytes: a 16th of "
                "the memory limit of %d bytes. Raise worker.memory_limit, or the container's, for more.",
                limit, configured, memory_limit(self._config),
            )  # fmt: skip

    def _connect_and_count(self) -> None:
        if self._replica.source.connect():
            if self._make_topics and not try_until_done(self._set_up, stop=self._stop, abandon=self._show):
                return
            self._connected = True
            self._count()

    def _set_up(self) -> None:
        set_up_topics(self._config, self._replica.clients)
        self._replica.dead_letters.read_limit()
        self._replica.source.unreachable = ""

    def _show(self, problem: ClientFailed) -> None:
        """Say in the readiness what the set-up waits for."""
        self._replica.source.unreachable = str(problem)

    def _count(self) -> None:
        beside = [part for part in (self._replica.evaluator, self._replica.ledger) if part is not None]
        for part in beside:
            part.start()
        try:
            self._replica.worker.run()
        finally:
            # Counting may have ended by itself.
            self._stop.set()
            for part in beside:
                part.stop()

    def _hold_for_last_scrape(self) -> None:
        timeout_s = self._config.worker.drain_timeout
        if self.http is not None and self._drain and timeout_s and len(self.snapshot.values):
            worker = self._replica.worker
            self._last_scrape.wait(lambda: worker.snapshot, timeout_s, worker.show)

    def _close_worker(self) -> None:
        if self._connected:
            self._stop.set()
            with stopping_in_time(self._stop, STOP_TIMEOUT_S):
                self._replica.worker.close()

    # -- called on the HTTP server's threads -------------------------------------------------------------------------

    def _render(self, form: Format, by_prometheus: bool) -> Scrape:
        worker, evaluator, ledger = self._replica.worker, self._replica.evaluator, self._replica.ledger
        alerts = evaluator.snapshot if evaluator is not None else None
        return self._replica.renderer.scrape(
            lambda: worker.snapshot,
            form,
            by_prometheus,
            lambda snapshot: chain(
                collect_worker_metrics(Moment(worker.stats, snapshot, time.monotonic())),
                collect_alert_metrics(alerts),
                collect_budget_metrics(alerts),
                collect_ledger_metrics(ledger.progress, ledger.failures) if ledger is not None else (),
            ),
        )

    def _health(self) -> HealthReport:
        stats, now_s = self._replica.worker.stats, time.monotonic()
        turn_age_s = now_s - stats.last_turn_s if self._connected else 0.0
        waiting_for = self._replica.source.unreachable or stats.waiting_for(now_s)
        commit_age_s = round(now_s - stats.last_commit_s, 3) if stats.last_commit_s else None
        detail = {
            "replica_id": stats.replica_id,
            "waiting_for": hide_secrets(waiting_for),
            "partitions": sorted(stats.lag),
            "last_commit_age_seconds": commit_age_s,
        }
        return HealthReport(live=turn_age_s < LIVE_TURN_AGE_S, ready=not waiting_for, detail=detail)


@contextmanager
def stopping_in_time(stop: StopSignal, timeout_s: float) -> Iterator[None]:
    """End the process if the body goes on for longer than this after a stop was requested.

    librdkafka can keep a call for ever. What is committed is whole, and the next start continues there. Where such a
    call keeps every other thread from running too, the process ends LOCKED_S later, with the stacks of its threads.
    """
    ended = threading.Event()

    def watch() -> None:
        while not stop.wait(1.0):
            if ended.is_set():
                return
        with _ending_when_locked(timeout_s + LOCKED_S):
            in_time = ended.wait(timeout_s)
        if not in_time:
            log.critical("The worker has not stopped within %.0f s of the request; exiting.", timeout_s)
            logging.shutdown()
            os._exit(1)

    threading.Thread(target=watch, name="stop-watchdog", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


@contextmanager
def _ending_when_locked(timeout_s: float) -> Iterator[None]:
    """End the process after this time, even if no thread of Python can run."""
    # An stderr that is closed, or replaced by something without a descriptor, cannot take the stacks.
    with suppress(AttributeError, OSError, RuntimeError, ValueError):
        faulthandler.dump_traceback_later(timeout_s, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def metrics_url(config: Config, addr: HostPort, port: int) -> str:
    """Return where the metrics are served on this machine. addr: as configured. port: that is listened on."""
    http, host = config.http_server, addr.host
    scheme = "https" if http.tls is not None else "http"
    shown = "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{port}{http.prometheus_path}"
