"""Listener: the listening socket, which closes most of a flood as it is accepted, before it costs anything more."""

from __future__ import annotations

import socket
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

#: Connections that are accepted in one go: far fewer than a process may have descriptors.
ACCEPTED: Final = 64
#: Connections that wait to be accepted. In a flood, what finds no place is repeated by its client after a second.
BACKLOG: Final = 4096


class Listener(socket.socket):
    """A listening socket for an event loop, which calls `accept` until it raises BlockingIOError.

    All connections that wait are taken at once. Where these are too many, the oldest of the address with most of them
    are closed: a probe that comes amid a flood from elsewhere is served, and so is the latest from the same address.
    """

    #: Called when there are too many.
    on_flood: Callable[[], None] = staticmethod(lambda: None)
    _taken: deque[tuple[socket.socket, Any]]
    _drained = False

    def accept(self) -> tuple[socket.socket, Any]:
        """Return a connection and its address. Raises BlockingIOError once after those that waited."""
        if not self._drained:
            self._taken = self._drain()
            self._drained = True
        if not self._taken:
            self._drained = False
            raise BlockingIOError
        return self._taken.popleft()

    def _drain(self) -> deque[tuple[socket.socket, Any]]:
        taken: deque[tuple[socket.socket, Any]] = deque()
        hosts: Counter[str] = Counter()
        for _ in range(BACKLOG):
            try:
                connection, address = super().accept()
            except BlockingIOError:
                break
            except OSError:
                # Out of descriptors, for example. What was taken is served, and the event loop hears of it if it lasts.
                if not taken:
                    raise
                break
            taken.append((connection, address))
            hosts[address[0]] += 1
            if len(taken) > ACCEPTED:
                if len(taken) == ACCEPTED + 1:
                    self.on_flood()
                _close_oldest(taken, hosts)
        return taken


def listen(host: str, port: int) -> Listener:
    """Return a socket that listens on an address; port 0 takes a free one. Raises OSError where it cannot."""
    listener = Listener(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _close_oldest(taken: deque[tuple[socket.socket, Any]], hosts: Counter[str]) -> None:
    """Close the oldest connection of the address with most of them. hosts: connections of each address."""
    most = max(hosts, key=hosts.__getitem__)
    index = next(index for index, (_, address) in enumerate(taken) if address[0] == most)
    taken[index][0].close()
    del taken[index]
    hosts[most] -= 1
