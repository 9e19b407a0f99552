"""Endpoints: metrics, health and alerts, each a few Starlette routes over callables of the service.

The callables run on other threads than the consumer's. A scrape that was sent completely is reported to `on_scraped`,
so that a drain can wait for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from tokentrace.errors import FatalError
from tokentrace.exposition.http.pages import OnScraped, PageKind, PageResponse, Pages, Render
from tokentrace.exposition.negotiate import CONTENT_TYPES, accepts_gzip, choose_format
from tokentrace.exposition.zero_init import ClientAddress
from tokentrace.model.durations import positive_duration

MAX_SILENCE_S: Final = 30 * 24 * 3600.0
#: Most bytes of a request's body.
MAX_BODY_BYTES: Final = 4096


class MetricsEndpoint:
    """The exposition, by content negotiation."""

    def __init__(
        self,
        render: Render,
        *,
        on_scraped: OnScraped,
        open_clients: Callable[[], Collection[ClientAddress]],
        disconnect: Callable[[ClientAddress], None],
        pages_bytes: int,
    ) -> None:
        """open_clients: addresses of the open connections. disconnect: closes one. Both run on the event loop.

        pages_bytes: most bytes of pages on their way to clients, see `Pages`.
        """
        self._pages = Pages(render, disconnect, pages_bytes)
        self._on_scraped = on_scraped
        self._open_clients = open_clients

    def routes(self, path: str) -> list[Route]:
        return [Route(path, self._get)]

    async def _get(self, request: Request) -> Response:
        # A list header may come in several lines (RFC 9110, section 5.3).
        form = choose_format(",".join(request.headers.getlist("accept")))
        compress = accepts_gzip(",".join(request.headers.getlist("accept-encoding")))
        # Only Prometheus-compatible scrapers send this header.
        by_prometheus = "x-prometheus-scrape-timeout-seconds" in request.headers
        page = await self._pages.page(PageKind(form, compress, by_prometheus))
        headers = {"Content-Type": CONTENT_TYPES[form], "Vary": "Accept, Accept-Encoding"}
        if compress:
            headers["Content-Encoding"] = "gzip"

        def report() -> None:
            host, port = request.client or ("", 0)
            self._on_scraped(page.scrape, (host, port), self._open_clients())

        return PageResponse(self._pages, page, request, headers, report)


@dataclass(frozen=True, slots=True)
class HealthReport:
    """live: the process works. ready: it counts. detail: what an operator wants to see, as JSON."""

    live: bool
    ready: bool
    detail: Mapping[str, Any] = field(default_factory=dict)


class HealthEndpoint:
    """Liveness and readiness: 200 or 503, with the report as JSON."""

    def __init__(self, health: Callable[[], HealthReport]) -> None:
        self._health = health

    def routes(self, path: str) -> list[Route]:
        return [Route(path, self._live), Route(f"{path}/live", self._live), Route(f"{path}/ready", self._ready)]

    async def _live(self, _: Request) -> Response:
        report = self._health()
        return self._response(report, report.live)

    async def _ready(self, _: Request) -> Response:
        report = self._health()
        return self._response(report, report.live and report.ready)

    @staticmethod
    def _response(report: HealthReport, passed: bool) -> Response:
        return JSONResponse(
            {"live": report.live, "ready": report.ready, **report.detail}, status_code=200 if passed else 503
        )


class AlertsApi(Protocol):
    """Answers under /alerts; see `alerts.status`."""

    def describe(self) -> dict[str, Any]: ...

    def silence(self, name: str, duration_s: float) -> dict[str, Any]: ...


class AlertsEndpoint:
    """The state of the alerts, and silencing. Both answer 503 while Kafka cannot be read or written."""

    def __init__(self, alerts: AlertsApi) -> None:
        self._alerts = alerts

    def routes(self) -> list[Route]:
        return [
            Route("/alerts", self._describe),
            Route("/alerts/{name:path}/silence", self._silence, methods=["POST"]),
        ]

    async def _describe(self, _: Request) -> Response:
        try:
            return JSONResponse(await run_in_threadpool(self._alerts.describe))
        except FatalError as failure:
            return JSONResponse({"error": str(failure)}, 503)

    async def _silence(self, request: Request) -> Response:
        try:
            duration_s = positive_duration(await _duration(request))
            if duration_s > MAX_SILENCE_S:
                raise ValueError("must be at most 30d")
        except ValueError as error:
            return JSONResponse({"error": f"duration: {error}"}, 400)
        name = request.path_params["name"]
        try:
            return JSONResponse(await run_in_threadpool(self._alerts.silence, name, duration_s))
        except KeyError:
            return JSONResponse({"error": f"no alert is named {name!r}; GET /alerts lists them"}, 404)
        except FatalError as failure:
            return JSONResponse({"error": str(failure)}, 503)


async def _duration(request: Request) -> Any:
    """Return the duration of the query or of a JSON body. Raises ValueError when there is none."""
    if "duration" in request.query_params:
        return request.query_params["duration"]
    try:
        return json.loads(await _body(request))["duration"]
    except (ValueError, KeyError, TypeError):
        raise ValueError('missing duration; pass ?duration=1h or the body {"duration": "1h"}') from None


async def _body(request: Request) -> bytes:
    """Return the body of a request. Raises ValueError for one that is too large or incomplete."""
    body = b""
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > MAX_BODY_BYTES:
                raise ValueError("too large")
    except ClientDisconnect:
        raise ValueError("incomplete") from None
    return body


def index_route(paths: Collection[str]) -> Route:
    """A page with links to the paths."""
    links = "".join(f'<li><a href="{path}">{path}</a></li>' for path in paths)
    page = f"<!doctype html><title>tokentrace</title><h1>tokentrace worker</h1><ul>{links}</ul>"

    async def index(_: Request) -> Response:
        return HTMLResponse(page)

    return Route("/", index)
