"""Log generations: how often an input partition's log has lost records that were counted.

A log that was cut off gives the same offsets to new records, so an offset alone does not say what is counted. Each loss
begins a generation, and positions are compared by generation first. The generation travels in a header of a replica's
own record, only where there is one, so that the records themselves stay those of every release.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, NamedTuple

from tokentrace.state.headers import Header, Headers, read_header

#: Header of a replica's own record: JSON, the input topic and its partitions with their generations.
HEADER: Final = "tokentrace.generations"


class LogPosition(NamedTuple):
    """A position in a partition. Of two, the one with the greater generation is the later, then the greater offset."""

    generation: int
    offset: int


def encode_generations(topic: str, generations: Mapping[int, int]) -> list[Header]:
    """Return the headers for these generations by partition; none where no log has lost anything."""
    some = {str(partition): generation for partition, generation in sorted(generations.items()) if generation}
    return [(HEADER, json.dumps({"topic": topic, "partitions": some}).encode())] if some else []


def decode_generations(headers: Headers, topic: str) -> dict[int, int]:
    """Return partition -> generation from a record's headers; those that are not there are 0.

    Raises UnreadableRecord for a header that is not one of these.
    """

    def decode(value: bytes) -> dict[int, int]:
        found = json.loads(value)
        partitions = found["partitions"] if found["topic"] == topic else {}
        return {int(partition): int(number) for partition, number in partitions.items()}

    return read_header(headers, HEADER, decode) or {}
