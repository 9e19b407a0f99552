"""Gaps: records of the input topic that were passed over or lost, in a header of the replica's own record.

A gap is committed with the position behind it, so that it is counted once, by the replica that passed it, and outlives
the process. The header is only there where there is a gap.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from tokentrace.model.snapshot import Gap, GapKey
from tokentrace.state.headers import Header, Headers, read_header

#: Header of a replica's own record: JSON, the input topic, and kind -> partition -> [records, time in microseconds].
GAPS_HEADER: Final = "tokentrace.gaps"


def gap_headers(topic: str, gaps: Mapping[GapKey, Gap]) -> list[Header]:
    """Return the headers for a replica's own record; none without gaps."""
    if not gaps:
        return []
    kinds: dict[str, dict[str, list[int]]] = {}
    for (kind, partition), gap in sorted(gaps.items()):
        kinds.setdefault(kind, {})[str(partition)] = [gap.records, round(gap.since_s * 1e6)]
    return [(GAPS_HEADER, json.dumps({"topic": topic, "gaps": kinds}, separators=(",", ":")).encode())]


def decode_gaps(headers: Headers, topic: str) -> dict[GapKey, Gap]:
    """Return the gaps of a topic from the headers of a replica's own record.

    Raises UnreadableRecord for a header that does not hold gaps.
    """

    def decode(value: bytes) -> dict[GapKey, Gap]:
        found = json.loads(value)
        gaps = found["gaps"] if found["topic"] == topic else {}
        return {
            (str(kind), int(partition)): Gap(int(records), int(since_us) / 1e6)
            for kind, partitions in gaps.items()
            for partition, (records, since_us) in partitions.items()
        }

    return read_header(headers, GAPS_HEADER, decode) or {}
