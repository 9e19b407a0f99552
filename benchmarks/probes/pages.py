"""Open live pages, as browsers do: `python -m benchmarks.probes.pages PORT PAGES SECONDS`."""

from __future__ import annotations

import http.client
import sys
import threading
import time

#: Time between two requests of a page.
INTERVAL_S = 4.0
#: Pages look at different things: half of them at the same.
QUERIES = ("window=60&by=model", "window=60&by=caller", "window=15&by=model", "window=360&by=provider")


def look(port: int, query: str, first_s: float, end_s: float) -> None:
    """Ask for a document until the end."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    tag, due_s = "", first_s
    while due_s < end_s:
        time.sleep(max(due_s - time.monotonic(), 0))
        connection.request("GET", f"/ui/data?{query}", headers={"Accept-Encoding": "gzip", "If-None-Match": tag})
        response = connection.getresponse()
        response.read()
        assert response.status in (200, 304), response.status
        tag = response.headers["ETag"]
        due_s += INTERVAL_S
    connection.close()


def main() -> None:
    port, pages, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    began_s = time.monotonic()
    threads = [
        threading.Thread(
            target=look,
            args=(
                port,
                QUERIES[page % len(QUERIES) if page % 2 else 0],
                began_s + page * INTERVAL_S / pages,
                began_s + seconds,
            ),
        )
        for page in range(pages)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
