"""Process: the publishers of this process, flushed when it exits or gets SIGTERM, and begun again in a forked child."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Final, Protocol


class Flushed(Protocol):
    """A part of the process that has something to deliver before it ends."""

    def flush(self) -> int: ...

    def close(self) -> int: ...

    def after_fork(self) -> None: ...


#: In the order in which they were made. Strong references: a publisher has spans until it is closed.
_live: Final[dict[int, Flushed]] = {}
_hooks: Final[set[str]] = set()


def watch(publisher: Flushed, *, sigterm: bool) -> None:
    """Take care of a publisher until `forget`.

    sigterm: flush on SIGTERM too, where the application leaves it at its default, which ends a process at once.
    """
    _live[id(publisher)] = publisher
    if "exit" not in _hooks:
        _hooks.add("exit")
        atexit.register(_close_all)
        os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
    if (
        sigterm
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    ):
        signal.signal(signal.SIGTERM, _on_sigterm)


def forget(publisher: Flushed) -> None:
    """Leave a publisher that is closed alone."""
    _live.pop(id(publisher), None)


def at_end_of_child(close: Callable[[], object]) -> None:
    """Call `close` when a child of multiprocessing ends, which skips what `atexit` has."""
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing is not None and multiprocessing.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(None, close, exitpriority=1)


def _close_all() -> None:
    for publisher in list(_live.values()):
        publisher.close()


def _before_fork() -> None:
    """Wait while a client looks up an address: glibc's lock for it stays locked in a child that is forked meanwhile."""
    if _live:
        with suppress(OSError):
            socket.getaddrinfo("127.0.0.1", 0, flags=socket.AI_ADDRCONFIG)


def _after_fork() -> None:
    for publisher in list(_live.values()):
        publisher.after_fork()


def _on_sigterm(number: int, _: FrameType | None) -> None:
    """Flush, and end as without a handler. The first process of a container survives that, and publishes on."""
    for publisher in list(_live.values()):
        publisher.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    signal.signal(number, _on_sigterm)
