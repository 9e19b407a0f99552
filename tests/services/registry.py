"""A real schema registry with the Confluent API: Apicurio Registry, in memory, from the files that `make` fetches."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.services import CACHE, ENDS_WITH_PARENT, READY, Freezable, Unavailable, end, free_port


class SchemaRegistry(Freezable):
    """One registry. `url` is what a Confluent client is configured with."""

    def __init__(self, folder: Path) -> None:
        """Raises Unavailable where there is no Java or no registry."""
        if shutil.which("java") is None:
            raise Unavailable("Java is not installed")
        jars = sorted((CACHE / "registry").glob("apicurio-registry-app-*-runner.jar"))
        if not READY.exists() or not jars:
            raise Unavailable("the schema registry is not in .cache; `make test` fetches it where Maven is installed")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._jar = jars[-1]
        self._process: subprocess.Popen[bytes] | None = None
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}/apis/ccompat/v7"

    def start(self, timeout_s: float = 180.0) -> None:
        """Start, empty, on the same port as before."""
        settings = {"quarkus.http.port": self._port, "quarkus.http.host": "127.0.0.1"}
        with (self._folder / "registry.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *ENDS_WITH_PARENT, "java", "-Xmx256m", *(f"-D{key}={value}" for key, value in settings.items()),
                    "-jar", str(self._jar),
                ],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, cwd=self._folder,
            )  # fmt: skip
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self._request("/subjects")
                return
            except (urllib.error.URLError, OSError):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log_text = (self._folder / "registry.log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"The registry did not start:\n{log_text}") from None
                time.sleep(0.1)

    def register(self, subject: str, schema: Any, references: list[dict[str, Any]] | None = None) -> int:
        """Register a schema under a subject; its id."""
        body = {"schema": json.dumps(schema), "schemaType": "AVRO", "references": references or []}
        return int(self._request(f"/subjects/{subject}/versions", body)["id"])

    def stop(self) -> None:
        """End it; what was registered is gone."""
        if self._process is not None:
            end(self._process, signal.SIGTERM)

    def _request(self, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            self.url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/vnd.schemaregistry.v1+json"},
        )
        with urllib.request.urlopen(request, timeout=60.0) as response:
            return json.load(response)
