"""The HTTP server: a listening socket and uvicorn, on a thread of its own.

`health_path` is open to everyone, since probes carry no token, and so are the files of the page, which hold no number;
every other path requires a bearer token where one is set, and requests that change something the administrator's.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import uvicorn
from starlette.applications import Starlette

from tokentrace.errors import UsageError
from tokentrace.exposition.http.auth import Application, Tokens, require_tokens
from tokentrace.exposition.http.connection import Connection, EventLoop
from tokentrace.exposition.http.endpoints import (
    AlertsApi,
    AlertsEndpoint,
    HealthEndpoint,
    HealthReport,
    MetricsEndpoint,
    index_route,
)
from tokentrace.exposition.http.listener import ACCEPTED, BACKLOG, Listener, listen
from tokentrace.exposition.http.pages import OnScraped, Render
from tokentrace.exposition.http.tls import ServerTls, TlsSettings
from tokentrace.exposition.http.ui import PageApi, PageEndpoint
from tokentrace.exposition.zero_init import ClientAddress

START_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Address, paths, tokens and TLS. port 0: a free one. keep_alive_s: how long a connection may be idle.

    pages_bytes: most bytes of pages on their way to clients, see `Pages`.
    """

    host: str = "0.0.0.0"
    port: int = 9090
    prometheus_path: str = "/metrics/prometheus"
    health_path: str = "/health"
    tokens: Tokens = field(default_factory=Tokens)
    tls: TlsSettings | None = None
    keep_alive_s: float = 75.0
    pages_bytes: int = 64 << 20


class HttpServer:
    """Serves until `stop`. Its callables run on other threads than the consumer's."""

    def __init__(
        self,
        settings: HttpSettings,
        *,
        render: Render,
        health: Callable[[], HealthReport],
        on_scraped: OnScraped = lambda *_: None,
        alerts: AlertsApi | None = None,
        page: PageApi | None = None,
        listener: Listener | None = None,
    ) -> None:
        """on_scraped: called with a scrape that was sent completely, its client, and the clients connected then.

        alerts: what answers under /alerts; without it the path is not served. page: what the page at /ui shows; without
        it there is none, and / has links only. listener: listens already, and replaces the settings' address.
        """
        self._settings = settings
        self._metrics = MetricsEndpoint(
            render,
            on_scraped=on_scraped,
            open_clients=self._open_clients,
            disconnect=self._disconnect,
            pages_bytes=settings.pages_bytes,
        )
        self._health = HealthEndpoint(health)
        self._alerts = AlertsEndpoint(alerts) if alerts is not None else None
        self._page = PageEndpoint(page) if page is not None else None
        self._socket = listener
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port that the server listens on, once started."""
        assert self._socket is not None
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Listen and serve. Raises UsageError when the address or the TLS files cannot be used."""
        settings = self._settings
        tls = ServerTls(settings.tls) if settings.tls is not None else None
        self._socket = self._socket or self._listen()
        config = uvicorn.Config(
            self._application(),
            http=Connection,
            # One call more than the listener hands out, so that its BlockingIOError ends each round.
            backlog=ACCEPTED + 1,
            log_level="warning",
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_keep_alive=int(settings.keep_alive_s),
            timeout_graceful_shutdown=5,
            ssl_context_factory=(lambda *_: tls.context) if tls is not None else None,
        )
        server = self._server = uvicorn.Server(config)
        thread = self._thread = threading.Thread(target=self._serve, args=(server, tls), name="http", daemon=True)
        thread.start()
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not server.started and thread.is_alive() and time.monotonic() < deadline_s:
            time.sleep(0.02)
        if not server.started:
            raise UsageError("The HTTP server did not start; see the log above.")
        # The event loop has one number for what it accepts in one go and for what waits to be.
        self._socket.listen(BACKLOG)

    def _serve(self, server: uvicorn.Server, tls: ServerTls | None) -> None:
        listener = self._socket
        assert listener is not None

        async def serve() -> None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, EventLoop)
            listener.on_flood = loop.switch_sooner
            following = asyncio.create_task(tls.follow()) if tls is not None else None
            await server.serve(sockets=[listener])
            if following is not None:
                following.cancel()

        with asyncio.Runner(loop_factory=EventLoop) as runner:
            runner.run(serve())

    def stop(self) -> None:
        """Finish the responses being sent, then close."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(START_TIMEOUT_S)
        if self._socket is not None:
            self._socket.close()

    def _listen(self) -> Listener:
        settings = self._settings
        try:
            return listen(settings.host, settings.port)
        except OSError as error:
            raise UsageError(
                f"Cannot listen on {settings.host}:{settings.port} ({error.strerror}); "
                "change http_server.addr or stop what uses the port."
            ) from error

    def _application(self) -> Application:
        settings = self._settings
        health = self._health.routes(settings.health_path)
        routes = [*self._metrics.routes(settings.prometheus_path), *health]
        paths = [settings.prometheus_path, settings.health_path]
        if self._alerts is not None:
            routes += self._alerts.routes()
            paths.append("/alerts")
        public = {route.path for route in health}
        if self._page is not None:
            routes += self._page.routes()
            public |= self._page.public_paths
        else:
            routes.append(index_route(paths))
        return require_tokens(Starlette(routes=routes), settings.tokens, public)

    def _open_clients(self) -> frozenset[ClientAddress]:
        """Return the addresses of the open connections. Call it on the server's own event loop."""
        return frozenset(connection.client for connection in self._connections() if connection.client is not None)

    def _disconnect(self, client: ClientAddress) -> None:
        """Close a client's connection at once. Call it on the server's own event loop."""
        for connection in self._connections():
            if connection.client == client:
                connection.abort()

    def _connections(self) -> list[Connection]:
        assert self._server is not None
        return [
            connection for connection in self._server.server_state.connections if isinstance(connection, Connection)
        ]
