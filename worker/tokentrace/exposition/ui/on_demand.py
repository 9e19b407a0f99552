"""On demand: the live page, made when somebody first looks at it, so that a worker loads nothing of it before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tokentrace.exposition.ui.document import Document

if TYPE_CHECKING:
    from tokentrace.exposition.ui.page import LivePage


class PageOnDemand:
    """Answers as `LivePage` does. The methods may block, and may be called from any thread."""

    def __init__(self, make: Callable[[], LivePage]) -> None:
        """make: imports and makes the page; called once."""
        self._make = make
        self._lock = threading.Lock()
        self._page: LivePage | None = None

    def document(self, query: Sequence[tuple[str, str]]) -> Document:
        """Return the document of a view. Raises as `LivePage.document`."""
        return self._made().document(query)

    def state(self) -> Mapping[str, Any]:
        """Return what the start page shows."""
        return self._made().state()

    def stop(self, timeout_s: float) -> None:
        """Wait for the feed to end, where there is one, once the replica is asked to stop."""
        with self._lock:
            page = self._page
        if page is not None:
            page.stop(timeout_s)

    def _made(self) -> LivePage:
        with self._lock:
            if self._page is None:
                self._page = self._make()
            return self._page
