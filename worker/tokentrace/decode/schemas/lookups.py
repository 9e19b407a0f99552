"""Look-ups: requests to the schema registry on a few threads, so that the worker's loop never waits long for them.

The bytes of a message can name any id, and a batch can name thousands. They are requested in order, THREADS at a time
and MAX_PENDING per call. The first failure cancels those that have not begun.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final

from tokentrace.errors import SchemaError, SchemaUnavailable

log = logging.getLogger(__name__)

#: Requests at the same time. Most of a request's time is the registry's.
THREADS: Final = 8
#: Most ids that are requested or wait for it.
MAX_PENDING: Final = 512


class Lookups:
    """Looks up ids in the background. Used by one thread."""

    def __init__(self, look_up: Callable[[Any], object], wait_s: float = math.inf) -> None:
        """look_up: id -> what it remembers; raises SchemaError or SchemaUnavailable. wait_s: longest wait of `run`."""
        self._look_up = look_up
        self._wait_s = wait_s
        self._changed = threading.Condition()
        self._queue: deque[Hashable] = deque()
        #: Ids in the queue or requested at the moment -> their generation.
        self._pending: dict[Hashable, int] = {}
        self._failure: SchemaUnavailable | None = None
        #: Number of failures returned. What began before the last of them is forgotten: its failure is not another one.
        self._generation = 0
        self._threads = 0

    def run(self, ids: Sequence[Hashable]) -> SchemaUnavailable | None:
        """Look up the ids, in their order, until all are done, one fails, or `wait_s` is over.

        Returns the failure, of these look-ups or of those that an earlier call began.
        """
        if not ids:
            return None
        deadline_s = time.monotonic() + self._wait_s
        waiting, wanted = deque(ids), set(ids)
        with self._changed:
            while self._failure is None:
                self._fill(waiting)
                left_s = deadline_s - time.monotonic()
                if left_s <= 0 or (not waiting and wanted.isdisjoint(self._pending)):
                    return None
                self._changed.wait(None if left_s == math.inf else left_s)
            failure, self._failure = self._failure, None
            self._generation += 1
            self._pending.clear()
            return failure

    def _fill(self, waiting: deque[Hashable]) -> None:
        """Move ids to the queue while there is room, and start the threads that they need."""
        while waiting and len(self._pending) < MAX_PENDING:
            schema_id = waiting.popleft()
            if schema_id not in self._pending:
                self._pending[schema_id] = self._generation
                self._queue.append(schema_id)
        for _ in range(min(THREADS - self._threads, len(self._queue))):
            self._threads += 1
            # A daemon: a request that hangs must not keep the process from ending.
            threading.Thread(target=self._work, name=f"schema-lookup-{self._threads}", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._queue:
                    self._threads -= 1
                    return
                generation, schema_id = self._generation, self._queue.popleft()
            failure = self._failure_of(schema_id)
            with self._changed:
                if generation == self._generation:
                    del self._pending[schema_id]
                    if failure is not None:
                        self._failure = failure
                        self._queue.clear()
                self._changed.notify_all()

    def _failure_of(self, schema_id: Hashable) -> SchemaUnavailable | None:
        try:
            self._look_up(schema_id)
        except SchemaError:
            return None
        except SchemaUnavailable as unavailable:
            return unavailable
        except Exception as error:
            log.exception("Looking up schema id %s failed.", schema_id)
            return SchemaUnavailable(f"Schema id {schema_id} could not be looked up ({type(error).__name__}: {error}).")
        return None
