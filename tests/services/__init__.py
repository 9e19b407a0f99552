"""The real services that tests run against: each starts on a free port with a data folder of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from random import SystemRandom

ROOT = Path(__file__).parent.parent.parent
CACHE = ROOT / ".cache"
#: There when `make` has fetched the services whole.
READY = CACHE / "services-ready"
#: Before a service's command: it ends with the thread that started it, so that a run that is killed leaves none behind.
ENDS_WITH_PARENT = ("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()


class Unavailable(Exception):
    """A service cannot run on this machine; the message says why."""


def unmeasured() -> dict[str, str]:
    """The environment of a process whose coverage is not measured: it is killed before it could save, or timed."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_PROCESS")}


#: Ports that tests may have: below those that the system gives to outgoing connections.
PORTS = range(10_000, 32_768)
#: Sockets whose names say which ports this process has been given, see `free_port`.
_taken: list[socket.socket] = []


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on, and that no other test is given while this process lives.

    An outgoing connection does not take it either before its service does.
    """
    random = SystemRandom()
    while True:
        port = random.choice(PORTS)
        name = socket.socket(socket.AF_UNIX)
        try:
            name.bind(f"\0tokentrace-test-port-{port}")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            name.close()
            continue
        _taken.append(name)
        return port


def end(process: subprocess.Popen[bytes], number: int = signal.SIGTERM, timeout_s: float = 10.0) -> None:
    """End a process that leads its own group, and everything in the group."""
    if process.poll() is None:
        os.killpg(process.pid, number)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout_s)


class Freezable:
    """A service whose process, the leader of its own group, can be kept from answering."""

    _process: subprocess.Popen[bytes] | None

    def freeze(self) -> None:
        """Stop it from answering, until `thaw`; its connections stay."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it answer again."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)
