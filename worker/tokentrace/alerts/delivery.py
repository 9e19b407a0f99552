"""Delivery: sends committed alerts to the target of their rule, on its own thread.

An alert is tried in rounds, with growing pauses between tries and between rounds, until it is delivered or too old.
Alerts of one instance keep their order; no other instance waits for them. Secrets (URL, headers) are never logged.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final, Literal
from urllib.parse import urljoin, urlsplit

import httpx2 as httpx

from tokentrace import __version__
from tokentrace.alerts.payload import Record, group_text, payload
from tokentrace.config.alerts import Delivery
from tokentrace.model.backoff import Backoff

log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
#: Between two rounds of tries.
FIRST_ROUND_PAUSE_S: Final = 30.0
LONGEST_ROUND_PAUSE_S: Final = 600.0
#: Share of a pause that is random.
JITTER: Final = 0.5
#: Concurrent tries of one rule.
TOGETHER: Final = 4
MAX_REDIRECTS: Final = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a delivery: it succeeded, a round of tries failed, or the alert is too old to be tried again."""

    id: str
    rule: str
    kind: Literal["delivered", "failed", "given_up"]
    tries: int


class _Failed(Exception):
    """A try failed. again: whether another try in the same round may succeed."""

    def __init__(self, reason: str, again: bool = True) -> None:
        super().__init__(reason)
        self.again = again


class Deliverer:
    """Delivers until `stop`. One thread uses it and reads its `outcomes`."""

    def __init__(self, clock: Callable[[], float] = time.time, rng: random.Random | None = None) -> None:
        self._clock = clock
        self._rng = rng or random.Random()
        self.outcomes: SimpleQueue[Outcome] = SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._client: httpx.AsyncClient | None = None
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._lock = threading.Lock()
        self._pending = 0
        self._thread = threading.Thread(target=self._run, name="alert-delivery", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Number of alerts that are neither delivered nor given up."""
        return self._pending

    def submit(self, record: Record, delivery: Delivery) -> None:
        """Deliver a committed alert."""
        with self._lock:
            self._pending += 1
        self._loop.call_soon_threadsafe(self._enqueue, record, delivery)

    def forget(self) -> None:
        """Cancel all deliveries: another replica continues them."""
        asyncio.run_coroutine_threadsafe(self._cancel(), self._loop).result(10.0)

    def drain(self, timeout_s: float) -> bool:
        """Wait until nothing is pending; return false if something still is after `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s
        while self._pending and time.monotonic() < deadline_s:
            time.sleep(0.02)
        return not self._pending

    def stop(self) -> None:
        """Cancel all deliveries and end the thread."""
        self.forget()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)

    # -- on the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        if self._client is not None:
            self._loop.run_until_complete(self._client.aclose())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    async def _cancel(self) -> None:
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with self._lock:
            self._pending = 0

    def _enqueue(self, record: Record, delivery: Delivery) -> None:
        key = (record["alert"], json.dumps(record["group"], sort_keys=True))
        before = self._tasks.get(key)
        task = self._tasks[key] = self._loop.create_task(self._deliver(record, delivery, before))

        def done(task: asyncio.Task[None]) -> None:
            if self._tasks.get(key) is task:
                del self._tasks[key]
            if not task.cancelled() and task.exception() is not None:
                log.error(
                    "Delivery of an alert of rule %r failed unexpectedly.", record["alert"], exc_info=task.exception()
                )

        task.add_done_callback(done)

    async def _deliver(self, record: Record, delivery: Delivery, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        rule, tries = record["alert"], 0
        too_old_s = record["recorded_at"] / 1e6 + delivery.max_age
        pauses = Backoff(FIRST_ROUND_PAUSE_S, LONGEST_ROUND_PAUSE_S, jitter=JITTER, rng=self._rng)
        while True:
            if self._clock() >= too_old_s and tries:
                break
            done, tried = await self._round(record, delivery, too_old_s)
            tries += tried
            if done:
                self._report(Outcome(record["id"], rule, "delivered", tries))
                return
            self.outcomes.put(Outcome(record["id"], rule, "failed", tries))
            if self._clock() + pauses.pause_s >= too_old_s:
                break
            await asyncio.sleep(pauses.next())
        log.error("Gave up an alert of rule %r after %d tries: it is older than delivery.max_age.", rule, tries)
        self._report(Outcome(record["id"], rule, "given_up", tries))

    def _report(self, outcome: Outcome) -> None:
        with self._lock:
            self._pending -= 1
        self.outcomes.put(outcome)

    async def _round(self, record: Record, delivery: Delivery, too_old_s: float) -> tuple[bool, int]:
        """Return whether the alert was delivered, and the number of tries."""
        pauses = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S, jitter=JITTER, rng=self._rng)
        tries = 0
        while True:
            tries += 1
            try:
                async with self._slots.setdefault(record["alert"], asyncio.Semaphore(TOGETHER)):
                    await self._try(record, delivery)
                return True, tries
            except _Failed as failure:
                last = tries > delivery.max_retries or not failure.again or self._clock() + pauses.pause_s >= too_old_s
                log.warning(
                    "An alert of rule %r%s was not delivered: %s; %s.",
                    record["alert"], group_text(record["group"]), failure,
                    "no more tries in this round" if last else "trying again",
                )  # fmt: skip
                if last:
                    return False, tries
            await asyncio.sleep(pauses.next())

    async def _try(self, record: Record, delivery: Delivery) -> None:
        body = json.dumps(payload(record))
        if delivery.type == "stdout":
            await self._loop.run_in_executor(None, _print, body)
            return
        try:
            async with asyncio.timeout(delivery.timeout):
                await self._post(body.encode(), record["id"], delivery)
        except TimeoutError:
            raise _Failed(f"no answer within {delivery.timeout:g} s") from None
        except httpx.ConnectError as error:
            raise _Failed(f"cannot connect to {_host(delivery.url)}") from error
        except httpx.InvalidURL as error:
            raise _Failed("delivery.url is not valid", again=False) from error
        except (httpx.HTTPError, OSError, ValueError) as error:
            # The error's text could quote a header.
            raise _Failed(f"the request failed ({type(error).__name__})") from error

    async def _post(self, body: bytes, id_: str, delivery: Delivery) -> None:
        if self._client is None:
            self._client = httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=None))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"tokentrace/{__version__}",
            **{name: value.get_secret_value() for name, value in delivery.headers.items()},
            "Idempotency-Key": id_,
        }
        url = delivery.url or ""
        for _ in range(MAX_REDIRECTS + 1):
            # The body of the response is not read: it may be of any size.
            async with self._client.stream("POST", url, content=body, headers=headers) as response:
                status = response.status_code
                if 200 <= status < 300:
                    return
                if status not in (307, 308):
                    raise _Failed(f"{_host(url)} answered {status}", again=status >= 500 or status in (408, 425, 429))
                target = urljoin(url, response.headers.get("location", ""))
            if _origin(target) != _origin(url):
                raise _Failed(f"{_host(url)} redirects to another host, which is not followed", again=False)
            url = target
        raise _Failed(f"{_host(url)} redirects too often", again=False)


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _host(url: str | None) -> str:
    return urlsplit(url or "").hostname or "?"


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def delivery_record(outcome: Outcome, now_s: float) -> Mapping[str, Any]:
    """Return an outcome in the shape of its record."""
    return {"outcome": outcome.kind, "at": round(now_s * 1e6), "tries": outcome.tries}
