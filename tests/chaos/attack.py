"""Attack: a process that opens to a worker's HTTP server what it can, and takes or finishes as little as it can.

It holds half-open connections and scrapes that nobody reads, and opens each again that the server closes; it scrapes,
and sends many requests at once. It ends when its standard input does, and prints what it did.
"""

from __future__ import annotations

import http.client
import json
import resource
import select
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Final, NamedTuple

METRICS: Final = "/metrics/prometheus"
HALF_OPEN: Final = 2000
UNREAD: Final = 60
SCRAPERS: Final = 8
#: Connections that send PIPELINED requests in one piece, half of them for metrics that they do not read.
PIPELINES: Final = 8
PIPELINED: Final = 100
#: Time between two scrapes, two pipelines, and two looks at what the server has closed.
INTERVAL_S: Final = 1.0
#: Closed connections that are opened again at a look.
AGAIN: Final = 200

HALF_REQUESTS: Final = (
    b"",
    b"GET /met",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: ",
    b"POST /alerts/x/silence HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12",
)


class Done(NamedTuple):
    """Record of an attack. half_open, unread: connections opened, again too. scrapes, read_bytes: of the scrapers."""

    half_open: int
    unread: int
    scrapes: int
    read_bytes: int
    pipelined: int
    failed: int
    cpu_s: float


def request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


class Held:
    """Connections that have sent something and wait. opened: how many so far."""

    def __init__(self, address: tuple[str, int], sent: list[bytes]) -> None:
        self._address = address
        self._sent = sent
        self._open: dict[int, tuple[socket.socket, bytes]] = {}
        self._closed = list(sent)
        self._poll = select.poll()
        self.opened = 0

    def open(self, most: int) -> None:
        """Open so many of those that are closed."""
        now, self._closed = self._closed[:most], self._closed[most:]
        for sent in now:
            client = socket.socket()
            try:
                # Small, so that the server is soon left with what it sends.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.settimeout(5.0)
                client.connect(self._address)
                client.sendall(sent)
            except OSError:
                client.close()
                self._closed.append(sent)
                continue
            self._open[client.fileno()] = client, sent
            # Not for POLLIN: what comes is not read.
            self._poll.register(client, select.POLLHUP | select.POLLERR | select.POLLRDHUP)
            self.opened += 1

    def look(self) -> None:
        """Find out which the server has closed."""
        for descriptor, _ in self._poll.poll(0):
            self._poll.unregister(descriptor)
            client, sent = self._open.pop(descriptor)
            client.close()
            self._closed.append(sent)


class Attack:
    """Attacks from `run` until `stop`."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self.scrapes = self.read_bytes = self.pipelined = self.failed = 0
        half = [HALF_REQUESTS[number % len(HALF_REQUESTS)] for number in range(HALF_OPEN)]
        unread = [request(METRICS)] * UNREAD + [request(METRICS) * PIPELINED] * (PIPELINES // 2)
        self._half, self._unread = Held(address, half), Held(address, unread)

    def run(self) -> Done:
        work = [self._scrape] * SCRAPERS + [self._pipeline] * (PIPELINES // 2)
        threads = [threading.Thread(target=self._repeat, args=(one,)) for one in work]
        for thread in threads:
            thread.start()
        self._unread.open(UNREAD + PIPELINES)
        self._half.open(HALF_OPEN)
        while not self._stopping.wait(INTERVAL_S):
            for held in (self._unread, self._half):
                held.look()
                held.open(AGAIN)
        for thread in threads:
            thread.join()
        used = resource.getrusage(resource.RUSAGE_SELF)
        return Done(
            self._half.opened, self._unread.opened, self.scrapes, self.read_bytes, self.pipelined, self.failed,
            round(used.ru_utime + used.ru_stime, 2),
        )  # fmt: skip

    def stop(self) -> None:
        self._stopping.set()

    def _repeat(self, work: object) -> None:
        client = http.client.HTTPConnection(*self._address, timeout=60.0)
        while not self._stopping.wait(INTERVAL_S):
            try:
                work(client)  # type: ignore[operator]
            except (OSError, http.client.HTTPException):
                client.close()
                with self._lock:
                    self.failed += 1
        client.close()

    def _scrape(self, client: http.client.HTTPConnection) -> None:
        """Scrape as Prometheus does, and forget it."""
        client.request("GET", METRICS, headers={"Accept-Encoding": "gzip", "X-Prometheus-Scrape-Timeout-Seconds": "10"})
        body = client.getresponse().read()
        with self._lock:
            self.scrapes += 1
            self.read_bytes += len(body)

    def _pipeline(self, client: http.client.HTTPConnection) -> None:
        """Send many requests before the first answer, then read all answers."""
        with socket.create_connection(self._address, 60.0) as connection:
            connection.sendall(request("/health/live") * PIPELINED)
            answers = b""
            while answers.count(b"HTTP/1.1 200") < PIPELINED:
                piece = connection.recv(1 << 16)
                if not piece:
                    raise ConnectionResetError("closed")
                answers += piece
        with self._lock:
            self.pipelined += PIPELINED


class AttackProcess:
    """An attack in a process of its own."""

    def __init__(self, target: str) -> None:
        command = [sys.executable, "-m", "tests.chaos.attack", *target.rsplit(":", 1)]
        self._process = Popen(command, stdin=PIPE, stdout=PIPE, cwd=Path(__file__).parents[2])

    def stop(self) -> Done:
        """End it. Raises TimeoutExpired if it does not end."""
        try:
            return Done(*json.loads(self._process.communicate(timeout=90.0)[0]))
        finally:
            self._process.kill()
            self._process.wait()


def main() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    attack = Attack((sys.argv[1], int(sys.argv[2])))

    def wait() -> None:
        with suppress(OSError):
            sys.stdin.read()
        attack.stop()

    threading.Thread(target=wait, daemon=True).start()
    print(json.dumps(attack.run()), flush=True)


if __name__ == "__main__":
    main()
