"""The live page: what the whole fleet counts, minute by minute, for people who look.

While somebody looks, `feed` follows the rollups of all replicas into `minutes`, and `own_feed` the totals of one;
`fleet` asks Kafka for lag, budgets and rejected messages, when an `inquiry` is due; `view` sums a window of the minutes
up; `page` makes the JSON document that all who look at it share, and `on_demand` the page itself at the first look.
`static` reads what the browser runs, from `browser`.
"""

from __future__ import annotations
