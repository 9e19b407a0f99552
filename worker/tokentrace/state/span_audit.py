"""Span audit: what the audit of partitions needs where a record is not one span, in a header of the replica's record.

The record itself has the records polled, counted, rejected and repeated, as every release reads it. The header is only
there where messages have held any other number of spans, or spans that are no calls.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from tokentrace.model.snapshot import PartitionAudit
from tokentrace.state.headers import Header, Headers, read_header

#: Header of a replica's own record: JSON, the input topic, and partition -> [ignored spans, spans beyond one a record].
SPAN_AUDIT_HEADER: Final = "tokentrace.spans"


def span_audit_headers(topic: str, partitions: Mapping[int, PartitionAudit]) -> list[Header]:
    """Return the headers for a replica's own record; none where every record was one span."""
    found = {
        str(partition): [audit.ignored, audit.surplus]
        for partition, audit in sorted(partitions.items())
        if audit.ignored or audit.surplus
    }
    if not found:
        return []
    return [(SPAN_AUDIT_HEADER, json.dumps({"topic": topic, "spans": found}, separators=(",", ":")).encode())]


def with_span_audit(
    headers: Headers, topic: str, partitions: Mapping[int, PartitionAudit]
) -> dict[int, PartitionAudit]:
    """Return the audits of a replica's own record with what its headers add.

    Raises UnreadableRecord for a header that does not hold an audit.
    """

    def decode(value: bytes) -> dict[int, tuple[int, int]]:
        found = json.loads(value)
        spans = found["spans"] if found["topic"] == topic else {}
        return {int(partition): (int(ignored), int(surplus)) for partition, (ignored, surplus) in spans.items()}

    added = read_header(headers, SPAN_AUDIT_HEADER, decode) or {}
    return {
        partition: audit._replace(ignored=added[partition][0], surplus=added[partition][1])
        if partition in added
        else audit
        for partition, audit in partitions.items()
    }
