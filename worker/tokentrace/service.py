"""The service: a worker with its HTTP server, put together from one `Config`, from start to drained.

This is the only module that knows both the configuration and the parts. It owns the order of things: HTTP first (a
pod that waits for its broker can say so), then the broker, the topics, the group; at the end commit, leave, and
keep serving until the final totals have been scraped.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from .commit import Committer
from .commit.at_least_once import AtLeastOnce
from .config import Config
from .decode import SpanDecoder
from .engine import Engine, StageTimer
from .expose import Format, HealthReport, HttpServer, Renderer
from .groups import GroupIndex
from .health import Recorder
from .ledger import Delta, Ledger
from .measures import Layout
from .pricing import Pricer, Rates
from .schemas import WriterSchemas
from .snapshot import Snapshot
from .source import KafkaSource, SourceSettings
from .topics import Topics
from .worker import LoopSettings, Worker

log = logging.getLogger(__name__)

#: A loop that has not turned for this long is stuck, whatever it waits for.
LIVE_TURN_AGE_S = 120.0


class Service:
    """One replica. Build it, `run` it on the thread that is to count, `stop` it from anywhere."""

    def __init__(self, config: Config, clock: Callable[[], float] = time.time) -> None:
        self._config = config
        self._clock = clock
        self._stopping = threading.Event()
        self._drain = True
        self._scraped: Snapshot | None = None
        self._final_scraped = threading.Event()

        kafka, worker, metrics = config.kafka, config.worker, config.metrics
        layout = Layout.build(metrics.bounds())
        groups = GroupIndex(metrics.max_groups)
        self._recorder = Recorder(worker.replica_id, worker.guarantee, clock())
        schemas = WriterSchemas.from_config(config)
        decoder = SpanDecoder(schemas, kafka.framing)
        pricer = Pricer({pattern: Rates(**rates) for pattern, rates in config.pricing.items()})
        timer = StageTimer(self._recorder.stage_seconds)
        delta = Delta(layout)
        ledger = Ledger(layout, groups, metrics.quality_window, clock)
        self._source = KafkaSource(source_settings(config), clock)
        self._worker = Worker(
            LoopSettings(worker.commit_interval, worker.batch_size, worker.batch_wait),
            self._source,
            Engine(decoder, groups, pricer, layout, timer),
            delta,
            ledger,
            self._committer(),
            self._recorder,
            timer,
            clock,
        )
