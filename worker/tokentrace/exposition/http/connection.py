"""Connection: uvicorn's, bounded in time and in number, so that no client can keep the others out.

A client has a limited time to send a request, and another to take the response. Where there are too many connections,
the one that has least to lose is closed for the new one, of the address that has most of them: a probe that comes
amid a flood from elsewhere has time to send its request.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from operator import itemgetter
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

#: Most open connections. More Prometheus servers, probes and people do not look at one replica.
MAX_CONNECTIONS: Final = 256
#: Connections of an address that are closed last.
FEW: Final = 8
#: Longest time for a whole request, from the connection or from its first byte.
REQUEST_TIMEOUT_S: Final = 10.0
#: Longest time for a whole response: Prometheus' own scrape timeout is below a minute.
RESPONSE_TIMEOUT_S: Final = 60.0


#: Interval at which Python's threads take turns, as it was, and during a flood and the time after it.
_SWITCH_S: Final = sys.getswitchinterval()
FLOOD_SWITCH_S: Final = 0.0001
FLOOD_S: Final = 5.0


class Connection(H11Protocol):
    """One client's connection."""

    loop: EventLoop

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._request_timer: asyncio.TimerHandle | None = None
        self._response_timer: asyncio.TimerHandle | None = None
        self._responses = 0
        self._since_s = time.monotonic()

    def abort(self) -> None:
        """Close at once, and drop what the client has not taken."""
        self.connections.discard(self)
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_request()
        if len(self.connections) > MAX_CONNECTIONS:
            self.loop.switch_sooner()
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_request_timer()
        self._end_response_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self._await_request()
        else:
            self._end_request_timer()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._response_timer is None:
            self._response_timer = self.loop.call_later(RESPONSE_TIMEOUT_S, self.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.cycle is None or self.cycle.response_complete:
            self._end_response_timer()

    def on_response_complete(self) -> None:
        self._responses += 1
        self._since_s = time.monotonic()
        if not self.flow.write_paused:
            self._end_response_timer()
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, even one whose client has not taken all of the last response."""
        if self.transport.get_write_buffer_size():
            self.abort()
        else:
            super().timeout_keep_alive_handler()

    @property
    def _host(self) -> str:
        return self.client[0] if self.client is not None else ""

    def _make_room(self) -> None:
        """Close those that have least to lose: several at once, for in a flood it takes time to choose."""
        youngest_first = sorted(
            (connection for connection in self.connections if isinstance(connection, Connection)),
            key=lambda connection: -connection._since_s,
        )
        hosts: Counter[str] = Counter()
        worths = []
        for connection in youngest_first:
            worths.append((connection._worth(hosts[connection._host]), connection))
            hosts[connection._host] += 1
        worths.sort(key=itemgetter(0))
        for _, connection in worths[: 1 + MAX_CONNECTIONS // 8]:
            connection.abort()

    def _worth(self, younger: int) -> tuple[bool, bool, bool, int]:
        """Rank below others what waits for a request, first of all for its first, but not the youngest of an address.

        younger: how many connections of its address are younger. Of equals, the one with most ranks lowest.
        """
        # A request without the rest of its body is not served yet, even where it was answered for its headers alone.
        complete = self.conn.their_state is not h11.SEND_BODY
        serving = self.cycle is not None and not self.cycle.response_complete
        return younger < FEW, complete and serving, complete and self._responses > 0, -younger

    def _await_request(self) -> None:
        if self._request_timer is None:
            self._request_timer = self.loop.call_later(REQUEST_TIMEOUT_S, self.abort)

    def _end_request_timer(self) -> None:
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None

    def _end_response_timer(self) -> None:
        if self._response_timer is not None:
            self._response_timer.cancel()
            self._response_timer = None


class EventLoop(asyncio.SelectorEventLoop):
    """An event loop whose servers also limit the time of a TLS handshake, which precedes the connection."""

    _usual_again: asyncio.TimerHandle | None = None

    def switch_sooner(self) -> None:
        """Let the loop have the interpreter sooner for a while.

        It gives it up at each connection of a flood, thousands of times, and then waits for other threads, such as one
        that renders a page: with Python's 5 ms, a probe behind a flood of 2,000 waited for seconds.
        """
        if self._usual_again is not None:
            self._usual_again.cancel()
        sys.setswitchinterval(FLOOD_SWITCH_S)
        self._usual_again = self.call_later(FLOOD_S, sys.setswitchinterval, _SWITCH_S)

    async def create_server(self, *arguments: Any, **keywords: Any) -> asyncio.Server:
        if keywords.get("ssl") is not None:
            keywords.setdefault("ssl_handshake_timeout", REQUEST_TIMEOUT_S)
        return await super().create_server(*arguments, **keywords)
