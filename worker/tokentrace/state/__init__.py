"""Durable state: the totals of every replica in a compacted topic, and what each commit added in another.

`records` turns totals into records and back; `restore` reads a replica's totals when it starts. Who writes them, and
when, is the business of `commit`.
"""

from __future__ import annotations

from tokentrace.state.keys import cell_key, expired_key, replica_key
from tokentrace.state.records import StateCodec
from tokentrace.state.restore import StateReader, Stored

__all__ = ["StateCodec", "StateReader", "Stored", "cell_key", "expired_key", "replica_key"]
