"""The live page: what the whole fleet counts, minute by minute, for people who look.

While somebody looks, `feed` follows the rollups of all replicas into `minutes`, and `own_feed` the totals of one;
`fleet` asks Kafka for lag, budgets and rejected messages, when an `inquiry` is due; `view` sums a window of the minutes
up; `page` makes the JSON document that all who look at it share.
`static` reads what the browser runs, from `browser`.
"""

from __future__ import annotations

from tokentrace.exposition.ui.backlog import RollupsLog
from tokentrace.exposition.ui.feed import RollupFeed
from tokentrace.exposition.ui.fleet import FleetLag, LatestLetters, OpenBudgets
from tokentrace.exposition.ui.inquiry import Inquiry, ThreadInquiry
from tokentrace.exposition.ui.own_feed import OwnFeed
from tokentrace.exposition.ui.page import LivePage, PageFacts

__all__ = [
    "FleetLag",
    "Inquiry",
    "LatestLetters",
    "LivePage",
    "OpenBudgets",
    "OwnFeed",
    "PageFacts",
    "RollupFeed",
    "RollupsLog",
    "ThreadInquiry",
]
