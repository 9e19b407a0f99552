"""Pages: expositions on their way to clients, of which one is rendered for all who ask at the same moment.

A page can have many megabytes, and a client that does not read it keeps it in memory. So it is sent in small pieces,
and where too many different pages are in flight, the oldest is abandoned with its connections.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from tokentrace.exposition.render import Scrape
from tokentrace.exposition.text import Format
from tokentrace.exposition.zero_init import ClientAddress

log = logging.getLogger(__name__)

#: The fastest level: a page is rendered once and not kept.
GZIP_LEVEL: Final = 1
#: Most pages that are rendered at once.
MAX_RENDERING: Final = 2
#: Bytes that a connection buffers beside the page, which all connections share.
PIECE_BYTES: Final = 1 << 17
#: Different pages in flight: so many of any size, and more while they are small together.
MAX_PAGES: Final = 3

Render = Callable[[Format, bool], Scrape]
OnScraped = Callable[[Scrape, ClientAddress, Collection[ClientAddress]], None]


class PageKind(NamedTuple):
    """form, compress: by content negotiation. by_prometheus: whether the client is a Prometheus server."""

    form: Format
    compress: bool
    by_prometheus: bool


@dataclass(slots=True, eq=False)
class Page:
    """A rendered page. clients: those it is being sent to."""

    scrape: Scrape
    body: bytes
    clients: list[ClientAddress] = field(default_factory=list)


class Pages:
    """Renders pages, and knows those in flight. Used on the server's event loop only."""

    def __init__(self, render: Render, disconnect: Callable[[ClientAddress], None], most_bytes: int) -> None:
        """render: called on other threads. disconnect: closes the connection of a client at once.

        most_bytes: of the pages in flight, where there are more than `MAX_PAGES`.
        """
        self._render = render
        self._disconnect = disconnect
        self._most_bytes = most_bytes
        self._rendering: asyncio.Semaphore | None = None
        #: Kind -> a page whose rendering has not begun.
        self._next: dict[PageKind, asyncio.Task[Page]] = {}
        #: Oldest first.
        self._in_flight: list[Page] = []

    async def page(self, kind: PageKind) -> Page:
        """Return a page that shows what is counted now, or later."""
        task = self._next.get(kind)
        if task is None:
            task = self._next[kind] = asyncio.create_task(self._rendered(kind))
        # Others may wait for the same page.
        return await asyncio.shield(task)

    async def _rendered(self, kind: PageKind) -> Page:
        # A semaphore belongs to the event loop on which it is first used.
        if self._rendering is None:
            self._rendering = asyncio.Semaphore(MAX_RENDERING)
        try:
            await self._rendering.acquire()
        finally:
            # Who asks from now on could need what is counted during the rendering.
            del self._next[kind]
        try:
            scrape = await run_in_threadpool(self._render, kind.form, kind.by_prometheus)
            body = scrape.body
            if kind.compress:
                body = await run_in_threadpool(gzip.compress, body, GZIP_LEVEL)
        finally:
            self._rendering.release()
        return Page(scrape, body)

    def begin(self, page: Page, client: ClientAddress) -> None:
        """A page begins to be sent to a client. The oldest others are abandoned where there are too many."""
        page.clients.append(client)
        if page not in self._in_flight:
            self._in_flight.append(page)
        while len(self._in_flight) > MAX_PAGES and sum(len(page.body) for page in self._in_flight) > self._most_bytes:
            oldest = self._in_flight.pop(0)
            for slow in oldest.clients:
                log.warning("The client %s takes the metrics too slowly; its connection is closed.", slow[0])
                self._disconnect(slow)

    def end(self, page: Page, client: ClientAddress) -> None:
        """The sending of a page to a client has ended."""
        page.clients.remove(client)
        if not page.clients and page in self._in_flight:
            self._in_flight.remove(page)


class PageResponse(Response):
    """Sends a page in pieces, each when the client has taken the one before. on_sent: called if it has taken all."""

    def __init__(
        self, pages: Pages, page: Page, request: Request, headers: dict[str, str], on_sent: Callable[[], None]
    ) -> None:
        super().__init__(headers={**headers, "Content-Length": str(len(page.body))})
        self._pages = pages
        self._page = page
        self._request = request
        self._on_sent = on_sent

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if self._request.method == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        host, port = self._request.client or ("", 0)
        self._pages.begin(self._page, (host, port))
        try:
            taken = await self._send_body(send)
        finally:
            self._pages.end(self._page, (host, port))
        if taken:
            self._on_sent()

    async def _send_body(self, send: Any) -> bool:
        """Return whether the client has taken all."""
        body = memoryview(self._page.body)
        for offset in range(0, len(body), PIECE_BYTES):
            piece = body[offset : offset + PIECE_BYTES]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            # The server drops what is sent to a closed connection without an error; it must not count as scraped.
            if await self._request.is_disconnected():
                return False
        await send({"type": "http.response.body", "body": b""})
        return True
