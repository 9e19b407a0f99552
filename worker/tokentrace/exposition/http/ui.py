"""The live page: its static files, which everybody may read, and its document, which requires the token.

The static files hold no number. The browser asks for the token, and sends it in a header, never in an address.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tokentrace.exposition.negotiate import accepts_gzip
from tokentrace.exposition.ui.document import Busy, Document
from tokentrace.exposition.ui.static import StaticFile, static_files

#: Nothing but this server's own files runs in the page, and no other page may frame it or send it a form.
SECURITY: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
#: Of every answer with numbers.
_PRIVATE: Final = {**SECURITY, "Cache-Control": "no-store"}
#: Longest query of a document.
MAX_QUERY_BYTES: Final = 4096
_PAGES: Final = {"/": "index.html", "/ui": "ui.html"}


class PageApi(Protocol):
    """Answers at /ui/data and /ui/state, and may block; see `exposition.ui`."""

    def document(self, query: Sequence[tuple[str, str]]) -> Document: ...

    def state(self) -> Mapping[str, Any]: ...


class PageEndpoint:
    """The live page of the fleet at /ui, and the start page at /."""

    def __init__(self, page: PageApi) -> None:
        self._page = page
        files = static_files()
        self._files = {path: files[name] for path, name in _PAGES.items()}
        self._files |= {f"/ui/{name}": file for name, file in files.items() if name not in _PAGES.values()}

    @property
    def public_paths(self) -> frozenset[str]:
        """The paths that require no token."""
        return frozenset(self._files)

    def routes(self) -> list[Route]:
        numbers = [Route("/ui/data", self._data), Route("/ui/state", self._state)]
        return [*numbers, *(Route(path, self._static) for path in self._files)]

    async def _static(self, request: Request) -> Response:
        file: StaticFile = self._files[request.url.path]
        return _tagged(request, file.tag, file.content, {"Content-Type": file.media_type})

    async def _state(self, _: Request) -> Response:
        return JSONResponse(dict(await run_in_threadpool(self._page.state)), headers=_PRIVATE)

    async def _data(self, request: Request) -> Response:
        if len(request.url.query) > MAX_QUERY_BYTES:
            return JSONResponse({"error": "the query is too long"}, 400, _PRIVATE)
        try:
            document = await run_in_threadpool(self._page.document, request.query_params.multi_items())
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400, _PRIVATE)
        except Busy:
            reason = "too many different views are asked for; try again in a few seconds"
            return JSONResponse({"error": reason}, 503, {**_PRIVATE, "Retry-After": "5"})
        headers = {**_PRIVATE, "Content-Type": "application/json", "Vary": "Accept-Encoding"}
        if accepts_gzip(",".join(request.headers.getlist("accept-encoding"))):
            return _tagged(request, f"{document.tag}-gzip", document.compressed, headers | {"Content-Encoding": "gzip"})
        return _tagged(request, document.tag, document.body, headers)


def _tagged(request: Request, tag: str, content: bytes, headers: dict[str, str]) -> Response:
    """Return the content, or 304 for a browser that has it."""
    headers = {**SECURITY, "Cache-Control": "no-cache", "ETag": f'"{tag}"', **headers}
    # nginx and others make a tag weak when they compress.
    if f'"{tag}"' in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers)
