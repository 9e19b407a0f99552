"""Page: the JSON document of a view, computed once for all who look at the same one.

Computing it takes time from the counting, since both are Python. A document is kept for `FRESH_S`, and longer where it
takes long to compute, so that any number of pages together take `SHARE` of one core at most. A view that nobody has
looked at is computed at once, in advance of that share, but not more of them than `MOST_ADVANCE_S` allows.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

from tokentrace import __version__
from tokentrace.exposition.ui.document import Busy, Document
from tokentrace.exposition.ui.feed import FeedState
from tokentrace.exposition.ui.minutes import Minutes
from tokentrace.exposition.ui.view import View, summarize
from tokentrace.model.secrets import hide_secrets
from tokentrace.model.worker_stats import Moment

FRESH_S: Final = 2.0
SHARE: Final = 0.004
#: Longest time for which nothing is computed again after views that are new.
MOST_ADVANCE_S: Final = 60.0
#: Different views that are kept.
MOST_VIEWS: Final = 16


@dataclass(frozen=True, slots=True)
class PageFacts:
    """Facts that do not change while a replica runs. labels: those by which spans can be split.

    has_alerts: whether rules are configured. may_silence: whether a token for it is.
    """

    group: str
    topic: str
    labels: Sequence[str]
    has_alerts: bool
    may_silence: bool
    prometheus_path: str
    health_path: str


class Feed(Protocol):
    """Gives the figures: `RollupFeed` those of the fleet, `OwnFeed` those of this replica."""

    def look(self, depth_s: float) -> None: ...

    def minutes(self) -> AbstractContextManager[tuple[Minutes, FeedState]]: ...

    @property
    def answers(self) -> dict[str, Any]: ...

    def join(self, timeout_s: float) -> None: ...


class LivePage:
    """The documents of one replica. `document` may block, and may be called from any thread."""

    def __init__(
        self,
        *,
        facts: PageFacts,
        feed: Feed,
        moment: Callable[[], Moment],
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """moment: this replica's own numbers."""
        self._facts = facts
        self._feed = feed
        self._moment = moment
        self._clock, self._monotonic = clock, monotonic
        self._lock = threading.Lock()
        self._kept: OrderedDict[View, tuple[float, Document]] = OrderedDict()
        self._busy_until_s = 0.0

    def document(self, query: Sequence[tuple[str, str]]) -> Document:
        """Return the document of the view that a query asks for.

        Raises ValueError with what is wrong with the query, Busy if there are too many different ones.
        """
        view = View.of(query, self._facts.labels)
        self._feed.look(view.minutes * 60.0)
        with self._lock:
            now_s = self._monotonic()
            kept = self._kept.get(view)
            if kept is not None and now_s < max(kept[0] + FRESH_S, self._busy_until_s):
                self._kept.move_to_end(view)
                return kept[1]
            if now_s + MOST_ADVANCE_S < self._busy_until_s:
                raise Busy
            began_s = time.thread_time()
            document = self._compute(view)
            self._busy_until_s = max(self._busy_until_s, now_s) + (time.thread_time() - began_s) / SHARE
            self._kept[view] = now_s, document
            self._kept.move_to_end(view)
            while len(self._kept) > MOST_VIEWS:
                self._kept.popitem(last=False)
            return document

    def state(self) -> Mapping[str, Any]:
        """Return what the start page shows: of this replica alone, so that nothing is read for it."""
        return {"version": __version__, **asdict(self._facts), "own": _replica(self._moment())}

    def stop(self, timeout_s: float) -> None:
        """Wait for the feed to end, once the replica is asked to stop."""
        self._feed.join(timeout_s)

    def _compute(self, view: View) -> Document:
        content: dict[str, Any] = {
            **self.state(),
            "view": {"window": view.minutes, "by": view.by, "where": dict(view.where)},
            **self._feed.answers,
        }
        if "bill" in content:
            content["bill"] = _bill(content["bill"], view.by)
        with self._feed.minutes() as (minutes, state):
            content |= summarize(minutes, view, int(self._clock() // 60)) | {"feed": _feed(state)}
        body = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
        return Document(body, gzip.compress(body, 1, mtime=0), hashlib.sha256(body).hexdigest()[:32])


def _bill(bill: Mapping[str, Any], label: str) -> Mapping[str, Any]:
    """Return the bills with the rows of one label."""
    answer = bill["answer"]
    if answer is None:
        return bill
    months = [{**month, "rows": month["rows"][label]} for month in answer["months"]]
    return {**bill, "answer": {**answer, "months": months}}


def _feed(state: FeedState) -> dict[str, Any]:
    return {
        "fleet": state.fleet,
        "from_s": state.from_s,
        "reading": state.reading,
        "unreadable": state.unreadable,
        "problem": state.problem,
        "replicas": [{"replica": name, "committed_s": at_s} for name, at_s in sorted(state.replicas.items())],
    }


def _replica(moment: Moment) -> dict[str, Any]:
    """Return what only this replica knows."""
    stats, snapshot = moment.stats, moment.snapshot
    audits = snapshot.partitions.values()
    return {
        "replica": stats.replica_id,
        "guarantee": stats.guarantee,
        "started_s": stats.started_at_s,
        "waiting_for": hide_secrets(stats.waiting_for(moment.now_s)),
        "committed_s": stats.last_commit_at_s or None,
        "commits": dict(stats.commits),
        "recoveries": stats.recoveries,
        "partitions": {str(partition): round(lag.seconds, 1) for partition, lag in sorted(stats.lag.items())},
        "polled": sum(audit.polled for audit in audits),
        "counted": sum(audit.counted for audit in audits),
        "duplicates": sum(audit.duplicates for audit in audits),
        "rejected": dict(sorted(_positive(snapshot.rejected).items())),
        "groups": {"used": snapshot.groups_count, "limit": snapshot.groups_limit},
        "overflowed_spans": snapshot.overflowed_spans,
    }


def _positive(numbers: Mapping[str, int]) -> dict[str, int]:
    return {name: number for name, number in numbers.items() if number}
