"""Background producer: a bounded queue of values to one topic, for a process whose work is something else.

`send` never waits and never raises. A thread of its own serves the delivery reports; without that, librdkafka's queue
fills up although the broker has everything. Each value is counted once: delivered, queued, or lost for a reason. A
child process that was forked begins with an empty queue and clients of its own.
"""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from tokentrace.errors import TokentraceError
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.errors import REPORTING, error_of

_log: Final = logging.getLogger("tokentrace.publisher")

#: Reasons for a loss. NOT_DELIVERED: Kafka refused it, or did not acknowledge it in time.
QUEUE_FULL: Final = "queue_full"
NOT_DELIVERED: Final = "not_delivered"
CLOSED: Final = "closed"

_POLL_S: Final = 0.1
#: Waits after a failure, of a producer or of a request for the header.
_BACKOFF_S: Final = (1.0, 60.0)
#: Seconds between two log lines of one kind.
LOG_EVERY_S: Final = 60.0

SETTINGS: Final[dict[str, Any]] = {"linger.ms": 50, "compression.type": "lz4"}


@dataclass(slots=True)
class Counts:
    """Values by what has become of them. accepted: the delivered, the queued and those lost as NOT_DELIVERED."""

    accepted: int = 0
    delivered: int = 0
    lost: dict[str, int] = field(default_factory=dict)

    @property
    def queued(self) -> int:
        """Values whose delivery is not known yet."""
        return self.accepted - self.delivered - self.lost.get(NOT_DELIVERED, 0)


class BackgroundProducer:
    """Sends values to a topic. Safe from several threads, in signal handlers, and after a fork."""

    def __init__(
        self,
        clients: KafkaClients,
        topic: str,
        *,
        max_queue: int,
        max_queue_bytes: int,
        header: bytes | Callable[[], bytes],
        on_start: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start nothing yet: the first value makes the client and the thread.

        header: first bytes of each value. A function may block and raise; the thread calls it until it succeeds, and
        the values wait. max_queue, max_queue_bytes: bounds of the queue. on_start: called with the first value of a
        process.
        """
        self._clients, self._topic, self._on_start, self._clock = clients, topic, on_start, clock
        self._settings = {
            **SETTINGS,
            "queue.buffering.max.messages": max_queue,
            "queue.buffering.max.kbytes": max(1, max_queue_bytes // 1024),
            "error_cb": self._on_error,
        }
        self._max_queue = max_queue
        self._find_header = header if callable(header) else None
        self._header = b"" if callable(header) else header
        self._closed = self._forked = False
        self._reset()

    def _reset(self) -> None:
        """Begin as a process that has sent nothing."""
        # Reentrant: a signal handler may flush while the thread it interrupts holds it.
        self._lock = threading.RLock()
        self._counts = Counts()
        self._waiting: deque[bytes] = deque()
        self._producer: Producer | None = None
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._failed = False
        self._retry_at_s, self._backoff_s = 0.0, _BACKOFF_S[0]
        self._logged: dict[str, tuple[float, int]] = {}

    def check(self) -> None:
        """Raise UsageError for properties that librdkafka rejects. It makes a client that connects to nothing."""
        KafkaClients(bootstrap_servers="", properties=self._clients.properties).producer(
            {**self._settings, "bootstrap.servers": ""}
        )

    @property
    def counts(self) -> Counts:
        """A copy of the counts."""
        with self._lock:
            return Counts(self._counts.accepted, self._counts.delivered, dict(self._counts.lost))

    def send(self, value: bytes) -> bool:
        """Queue a value; False if it is lost."""
        try:
            with self._lock:
                if self._closed:
                    return self.lose(CLOSED, "the publisher is closed")
                producer = self._producer or self._start()
                waits = self._find_header is not None
                if waits and len(self._waiting) >= self._max_queue:
                    return self.lose(QUEUE_FULL, "the schema's id is not known, and the queue is full")
                self._counts.accepted += 1
                if waits:
                    self._waiting.append(value)
                    return True
            return self._produce(producer, value)
        except TokentraceError as error:
            return self.lose(NOT_DELIVERED, str(error))

    def lose(self, reason: str, why: str) -> bool:
        """Count a value that is lost, and say so in the log once a minute. Returns False."""
        with self._lock:
            self._counts.lost[reason] = self._counts.lost.get(reason, 0) + 1
        self.warn(f"{self._topic}: a span is lost ({reason}): {why}", reason)
        return False

    def warn(self, text: str, kind: str) -> None:
        """Log a warning, once a minute for each kind."""
        with self._lock:
            now_s = self._clock()
            last_s, more = self._logged.get(kind, (-LOG_EVERY_S, 0))
            if now_s - last_s < LOG_EVERY_S:
                self._logged[kind] = last_s, more + 1
                return
            self._logged[kind] = now_s, 0
        _log.warning("%s%s", text, f" ({more} more since the last line of this kind)" if more else "")

    def flush(self, timeout_s: float) -> int:
        """Wait for the deliveries, at most so long, and return how many values are still queued."""
        ends_s = self._clock() + timeout_s
        while self._waiting and self._clock() < ends_s:
            time.sleep(0.01)
        producer = self._producer
        if producer is not None:
            try:
                producer.flush(max(0.0, ends_s - self._clock()))
            except REPORTING as failure:
                self.warn(f"{self._topic}: {error_of(failure).str()}", "flush")
        return self.counts.queued

    def close(self, timeout_s: float) -> int:
        """Flush, count what is left as lost, and end the thread. Returns how many were left."""
        self._closed = True
        left = self.flush(timeout_s)
        with self._lock:
            producer, thread = self._producer, self._thread
            waiting = len(self._waiting)
            self._waiting.clear()
        for _ in range(waiting):
            self.lose(NOT_DELIVERED, "the schema's id is not known")
        if producer is not None:
            self._purge(producer)
        self._ended.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(5.0)
        if producer is not None and self._forked and left:
            # Its threads may wait for a lock that a thread of the parent held at the fork, as glibc's for addresses.
            _keep(producer)
        with self._lock:
            self._producer = self._thread = None
        return left

    def after_fork(self) -> None:
        """Begin again in a child process, where the threads of the parent's client do not exist."""
        if self._producer is not None:
            _keep(self._producer)
        self._forked = True
        self._reset()

    # -- the thread ------------------------------------------------------------------------------------------------

    def _start(self) -> Producer:
        """Make the client and the thread. With the lock held."""
        self._producer = producer = self._clients.producer(self._settings)
        self._ended.clear()
        self._thread = threading.Thread(target=self._run, name="tokentrace-publisher", daemon=True)
        self._thread.start()
        self._on_start()
        return producer

    def _run(self) -> None:
        while not self._ended.is_set():
            producer = self._producer
            if producer is None:
                return
            try:
                self._poll(producer)
                if self._failed:
                    self._renew(producer)
                if self._find_header is not None:
                    self._send_waiting(self._find_header)
            except Exception as error:
                self.warn(f"{self._topic}: {type(error).__name__}: {error}", "thread")
                self._ended.wait(_POLL_S)

    def _poll(self, producer: Producer) -> None:
        """Serve deliveries and errors. The library also raises an error that no call of this client survives."""
        try:
            producer.poll(_POLL_S)
        except REPORTING as failure:
            self._on_error(error_of(failure))

    def _send_waiting(self, find_header: Callable[[], bytes]) -> None:
        """Ask for the header, and queue what waits for it."""
        if self._clock() < self._retry_at_s:
            return
        try:
            self._header = find_header()
        except Exception as error:
            self._back_off()
            self.warn(f"{self._topic}: spans wait for the schema's id: {error}", "header")
            return
        with self._lock:
            self._find_header = None
            waiting, self._waiting = list(self._waiting), deque()
            producer = self._producer
        for value in waiting:
            if producer is not None:
                self._produce(producer, value)

    def _renew(self, failed: Producer) -> None:
        """Replace a client that Kafka accepts no longer."""
        if self._clock() < self._retry_at_s:
            return
        self._back_off()
        fresh = self._clients.producer(self._settings)
        with self._lock:
            self._producer, self._failed = fresh, False
        self._purge(failed)

    def _back_off(self) -> None:
        self._retry_at_s = self._clock() + self._backoff_s
        self._backoff_s = min(2 * self._backoff_s, _BACKOFF_S[1])

    def _purge(self, producer: Producer) -> None:
        """Count what a client has not delivered as lost."""
        try:
            producer.purge()
            producer.flush(1.0)
        except REPORTING as failure:
            self.warn(f"{self._topic}: {error_of(failure).str()}", "purge")

    def _produce(self, producer: Producer, value: bytes) -> bool:
        """Queue a value that counts as accepted."""
        try:
            producer.produce(self._topic, self._header + value, on_delivery=self._report)
            return True
        except BufferError:
            reason, why = QUEUE_FULL, "the queue is full, because Kafka does not acknowledge spans fast enough"
        except KafkaException as failure:
            reason, why = NOT_DELIVERED, error_of(failure).str()
        with self._lock:
            # One that is lost as NOT_DELIVERED stays accepted.
            self._counts.accepted -= reason != NOT_DELIVERED
        return self.lose(reason, why)

    def _report(self, error: KafkaError | None, _: object) -> None:
        """Count a delivery. It runs in `poll` and `flush`, of any thread."""
        if error is None:
            with self._lock:
                self._counts.delivered += 1
                self._backoff_s = _BACKOFF_S[0]
        else:
            self.lose(NOT_DELIVERED, error.str())

    def _on_error(self, error: KafkaError) -> None:
        """Note an error that concerns no single value."""
        if error.code() == KafkaError._FATAL or error.fatal():
            self._failed = True
        self.warn(f"{self._topic}: {error.str()}", f"error {error.code()}")


def _keep(producer: Producer) -> None:
    """Let a client live until the process ends. Its destructor waits for its threads, which may be gone or stuck."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(producer))
