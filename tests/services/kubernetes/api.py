"""A client of the API server, as one user of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import threading
from typing import Any
from urllib.parse import urlsplit

#: The kinds of patches: lists with keys are merged, as the kubelet does it, and lists are replaced.
STRATEGIC, MERGE = "application/strategic-merge-patch+json", "application/merge-patch+json"


class Refused(Exception):
    """The API server does not do what it was asked for; `code` and the message say why."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Api:
    """Requests with one user's token, over one connection for each thread. Paths begin with /api or /apis."""

    def __init__(self, url: str, ca: str, token: str) -> None:
        """ca: path of the certificate that the server is known by."""
        self.url, self.ca, self.token = url, ca, token
        self._context = ssl.create_default_context(cafile=ca)
        self._thread = threading.local()

    def get(self, path: str) -> Any:
        return self.request("GET", path)

    def post(self, path: str, body: Any) -> Any:
        return self.request("POST", path, body)

    def patch(self, path: str, body: Any, kind: str = MERGE) -> Any:
        return self.request("PATCH", path, body, kind)

    def delete(self, path: str, body: Any = None) -> Any:
        return self.request("DELETE", path, body)

    def request(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        """Return the answer: an object, or text where it is none. Raises Refused, and OSError without one."""
        connection = getattr(self._thread, "connection", None)
        reused = connection is not None
        if connection is None:
            host = urlsplit(self.url).netloc
            connection = http.client.HTTPSConnection(host, timeout=30.0, context=self._context)
            self._thread.connection = connection
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": kind}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            answer = response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self._thread.connection = None
            if reused and isinstance(error, ConnectionError):
                # It was closed while nothing was asked for: once more, with a new one.
                return self.request(method, path, body, kind)
            raise ConnectionError(f"{method} {path}: {error!r}") from error
        if response.status >= 400:
            with contextlib.suppress(ValueError, KeyError):
                answer = json.loads(answer)["message"]
            raise Refused(response.status, answer)
        return json.loads(answer) if answer.startswith("{") else answer
