"""The HTTP server: metrics, liveness and readiness, on a thread of its own.

`health_path` is open to everyone, since probes carry no token; every other path asks for the bearer token where one is
set. A response that was sent completely is reported by `on_scraped`, so that a drain can wait for it.
"""

from __future__ import annotations

import asyncio
import gzip
import hmac
import json
import logging
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tokentrace.errors import FatalError, UsageError
from tokentrace.exposition.negotiate import CONTENT_TYPES, accepts_gzip, choose_format
from tokentrace.exposition.render import Format, Scrape
from tokentrace.exposition.zero_init import Address
from tokentrace.model.durations import positive_duration

log = logging.getLogger(__name__)

#: Fast rather than small: a scrape is rendered once and thrown away.
GZIP_LEVEL: Final = 1
START_TIMEOUT_S: Final = 10.0
CONCURRENT_SCRAPES: Final = 2
LONGEST_SILENCE_S: Final = 30 * 24 * 3600.0

UNAUTHORIZED: Final = (
    "401: this endpoint asks for a bearer token. In Prometheus, set `authorization: {credentials_file: ...}` in the "
    "scrape job to the value of http_server.auth_token; with curl, add `-H 'Authorization: Bearer <token>'`.\n"
)


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Where and how to listen. port 0 takes a free one. keep_alive_s: idle connections are closed after it."""

    host: str = "0.0.0.0"
    port: int = 9090
    prometheus_path: str = "/metrics/prometheus"
    health_path: str = "/health"
    auth_token: str | None = None
    certificate: Path | None = None
    key: Path | None = None
    keep_alive_s: float = 75.0


@dataclass(frozen=True, slots=True)
class HealthReport:
    """live: the process works. ready: it counts. detail: what an operator wants to see, as JSON."""

    live: bool
    ready: bool
    detail: Mapping[str, Any] = field(default_factory=dict)


class AlertBoard(Protocol):
    """Answers under /alerts; see `alerts.board`."""

    def describe(self) -> dict[str, Any]: ...

    def silence(self, name: str, duration_s: float) -> dict[str, Any]: ...


class HttpServer:
    """Serves until `stop`. render and health are called on other threads than the consumer's."""

    def __init__(
        self,
        settings: HttpSettings,
        render: Callable[[Format, bool], Scrape],
        health: Callable[[], HealthReport],
        on_scraped: Callable[[Scrape, Address, Collection[Address]], None] = lambda *_: None,
        alerts: AlertBoard | None = None,
    ) -> None:
        """on_scraped: told what was sent whole, to where, and from where connections are open then.

        alerts: what answers under /alerts; without it there is no such path.
        """
        self._settings = settings
        self._render = render
        self._health = health
        self._on_scraped = on_scraped
        self._alerts = alerts
        self._socket: socket.socket | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        # Made on the server's own event loop.
        self._scrapes: asyncio.Semaphore | None = None

    @property
    def port(self) -> int:
        """The port that is listened on, once started."""
        assert self._socket is not None
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Listen and serve. Raises UsageError when the address or the TLS files cannot be used."""
        settings = self._settings
        self._socket = self._bind()
        tls: dict[str, Any] = {}
        if settings.certificate is not None and settings.key is not None:
            tls = {"ssl_certfile": str(settings.certificate), "ssl_keyfile": str(settings.key)}
            self._check_tls(settings.certificate, settings.key)
        config = uvicorn.Config(
            self._application(),
            log_level="warning",
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_keep_alive=int(settings.keep_alive_s),
            timeout_graceful_shutdown=5,
            **tls,
        )
        server = self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=server.run, args=([self._socket],), name="http", daemon=True)
        self._thread.start()
        deadline = threading.Event()
        for _ in range(int(START_TIMEOUT_S / 0.02)):
            if server.started or not self._thread.is_alive():
                break
            deadline.wait(0.02)
        if not server.started:
            raise UsageError("The HTTP server did not start; see the log above.")

    def stop(self) -> None:
        """Finish what is being sent, then close."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(START_TIMEOUT_S)
        if self._socket is not None:
            self._socket.close()

    def _bind(self) -> socket.socket:
        settings = self._settings
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
            listener.listen(128)
        except OSError as error:
            listener.close()
            raise UsageError(
                f"Cannot listen on {settings.host}:{settings.port} ({error.strerror}); "
                "change http_server.addr or stop what uses the port."
            ) from error
        return listener

    @staticmethod
    def _check_tls(certificate: Path, key: Path) -> None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(
                f"http_server.tls: {certificate} and {key} cannot be used as certificate and key ({error})."
            ) from error

    # -- the application ---------------------------------------------------------------------------------------------

    def _application(self) -> Callable[..., Awaitable[None]]:
        settings = self._settings
        application = Starlette(
            routes=[
                Route(settings.prometheus_path, self._metrics),
                Route(settings.health_path, self._live),
                Route(f"{settings.health_path}/live", self._live),
                Route(f"{settings.health_path}/ready", self._ready),
                Route("/", self._index),
                *(self._alert_routes() if self._alerts is not None else ()),
            ]
        )

        async def guarded(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
            if scope["type"] == "http" and not self._allowed(scope):
                challenge = {"WWW-Authenticate": 'Bearer realm="tokentrace"'}
                await PlainTextResponse(UNAUTHORIZED, 401, challenge)(scope, receive, send)
            else:
                await application(scope, receive, send)

        return guarded

    def _allowed(self, scope: Mapping[str, Any]) -> bool:
        token, path = self._settings.auth_token, scope["path"]
        health_path = self._settings.health_path
        if token is None or path == health_path or path in (f"{health_path}/live", f"{health_path}/ready"):
            return True
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, credentials = given.partition(b" ")
        same = hmac.compare_digest(credentials.strip(), token.encode())
        return same and scheme.lower() == b"bearer"

    async def _metrics(self, request: Request) -> Response:
        if self._scrapes is None:
            self._scrapes = asyncio.Semaphore(CONCURRENT_SCRAPES)
        form = choose_format(request.headers.get("accept", ""))
        compress = accepts_gzip(request.headers.get("accept-encoding", ""))
        async with self._scrapes:
            # Prometheus and its kin say how long they are going to wait; nobody else does.
            by_prometheus = "x-prometheus-scrape-timeout-seconds" in request.headers
            scrape = await run_in_threadpool(self._render, form, by_prometheus)
            body = scrape.body
            if compress:
                body = await run_in_threadpool(gzip.compress, body, GZIP_LEVEL)
        if await request.is_disconnected():
            # The server drops what it sends to a closed connection without an error; it must not count as scraped.
            return Response(status_code=499)
        headers = {"Content-Type": CONTENT_TYPES[form], "Vary": "Accept, Accept-Encoding"}
        if compress:
            headers["Content-Encoding"] = "gzip"
        host, port = request.client or ("", 0)
        return _Scraped(body, headers, lambda: self._on_scraped(scrape, (host, port), self._connected()))

    def _connected(self) -> frozenset[Address]:
        """From where connections are open. To be asked on the server's own event loop."""
        assert self._server is not None
        clients = (getattr(each, "client", None) for each in self._server.server_state.connections)
        return frozenset(client for client in clients if client is not None)

    async def _live(self, _: Request) -> Response:
        report = self._health()
        return JSONResponse(
            {"live": report.live, "ready": report.ready, **report.detail}, status_code=200 if report.live else 503
        )

    async def _ready(self, _: Request) -> Response:
        report = self._health()
        ready = report.live and report.ready
        return JSONResponse(
            {"live": report.live, "ready": report.ready, **report.detail}, status_code=200 if ready else 503
        )

    def _alert_routes(self) -> list[Route]:
        return [
            Route("/alerts", self._show_alerts),
            Route("/alerts/{name:path}/silence", self._silence, methods=["POST"]),
        ]

    async def _show_alerts(self, _: Request) -> Response:
        assert self._alerts is not None
        try:
            return JSONResponse(await run_in_threadpool(self._alerts.describe))
        except FatalError as failure:
            return JSONResponse({"error": str(failure)}, 503)

    async def _silence(self, request: Request) -> Response:
        assert self._alerts is not None
        if self._settings.auth_token is None:
            return JSONResponse({"error": "set http_server.auth_token: not just anyone may silence an alert"}, 403)
        try:
            duration_s = positive_duration(await _asked_duration(request))
            if duration_s > LONGEST_SILENCE_S:
                raise ValueError("must not be longer than 30d")
        except ValueError as error:
            return JSONResponse({"error": f"duration: {error}"}, 400)
        name = request.path_params["name"]
        try:
            return JSONResponse(await run_in_threadpool(self._alerts.silence, name, duration_s))
        except KeyError:
            return JSONResponse({"error": f"there is no alert named {name!r}"}, 404)
        except FatalError as failure:
            return JSONResponse({"error": str(failure)}, 503)

    async def _index(self, _: Request) -> Response:
        paths = [self._settings.prometheus_path, self._settings.health_path]
        if self._alerts is not None:
            paths.append("/alerts")
        links = "".join(f'<li><a href="{path}">{path}</a></li>' for path in paths)
        return HTMLResponse(f"<!doctype html><title>tokentrace</title><h1>tokentrace worker</h1><ul>{links}</ul>")


async def _asked_duration(request: Request) -> Any:
    """From the query, or from a JSON body. Raises ValueError where there is none."""
    if "duration" in request.query_params:
        return request.query_params["duration"]
    try:
        return json.loads(await request.body())["duration"]
    except (ValueError, KeyError, TypeError):
        raise ValueError('say for how long, as ?duration=1h or as the body {"duration": "1h"}') from None


class _Scraped(Response):
    """A response that tells when its last byte has been handed to the connection."""

    def __init__(self, body: bytes, headers: Mapping[str, str], sent: Callable[[], None]) -> None:
        super().__init__(body, headers=headers)
        self._sent = sent

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await super().__call__(scope, receive, send)
        if scope["method"] != "HEAD":
            self._sent()
