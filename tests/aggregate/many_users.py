"""A process that counts spans of very many users under a limit: `python -m tests.aggregate.many_users USERS FILE`.

Writes the last scrape to FILE, and prints one JSON object: memory and times. It is a process of its own, so that the
highest resident size is that of the counting alone.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.harness import Harness, peak_rss_bytes
from tests.spanfactory import message, span
from tokentrace.exposition.render import Renderer
from tokentrace.model.dimensions import Dimension
from tokentrace.runtime.allocator import tune_malloc

LIMIT = 10_000
MODELS = ("gpt-4o", "o3", "house-llm")
#: Spans of a batch by users who are new, and by users who were new in the batch before.
NEW, KNOWN = 9_000, 1_000
LABELS = {"cost_total": ["model", "user"], "tokens_total": ["user"]}


def batches(users: int) -> Iterator[list[dict[str, Any]]]:
    """Give spans of so many users, a batch at a time. Numbers follow from the user, so that sums by user differ."""
    for first in range(0, users, NEW):
        known = range(max(0, first - KNOWN), first)
        yield [spans_of(user) for user in (*range(first, min(first + NEW, users)), *known)]


def spans_of(user: int) -> dict[str, Any]:
    """Return a span of a user, whose cost is a whole number of micro-dollars."""
    return span(
        model=MODELS[user % len(MODELS)],
        prompt_tokens=user % 977 + 1,
        completion_tokens=user % 89,
        cost_usd=(user % 1013 + 1) / 1e6,
        attributes={"env": "prod", "user": f"user-{user:07}"},
    )


def main(users: int, scrape: Path) -> None:
    """Count all batches, commit after every tenth, and scrape."""
    tune_malloc()  # As a worker does.
    rig, renderer = Harness(dimensions=[Dimension("user", "attributes.user", limit=LIMIT)]), Renderer(LABELS)
    rig.count([message(span(model=model)) for model in MODELS])
    renderer.render(rig.commit(), [], "text")
    at_start_mb, counted, seconds, scrape_s = peak_rss_bytes() / 2**20, 0, 0.0, 0.0
    for number, records in enumerate(batches(users)):
        values = list(map(message, records))
        began = time.process_time()
        rig.count(values)
        if number % 10 == 9:
            rig.commit()
        seconds += time.process_time() - began
        counted += len(values)
    snapshot = rig.commit()
    for _ in range(3):
        began = time.process_time()
        text = renderer.render(snapshot, [], "text")
        scrape_s = time.process_time() - began
    scrape.write_bytes(text)
    print(
        json.dumps(
            {
                "spans": counted,
                "groups": len(rig.groups.groups),
                "peak_mb": peak_rss_bytes() / 2**20,
                "at_start_mb": at_start_mb,
                "us_per_span": seconds / counted * 1e6,
                "scrape_s": scrape_s,
                "use": snapshot.dimensions["user"],
            }
        )
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
