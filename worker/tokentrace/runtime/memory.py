"""Memory: how much this process may use, and what of it messages on their way may take.

A message is held several times at once: in librdkafka's queue, as the values of a batch, in the buffer that is decoded,
and as a dead letter until the commit. Each of these gets a share.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

#: Part of the machine's memory that is taken where no cgroup sets a limit.
MACHINE_SHARE: Final = 0.5
#: cgroup v2 and v1, as a container sees its own.
_CGROUP_FILES: Final = ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes")
#: librdkafka's own bound of its queue, and one that still holds a fetch of small messages.
_MOST_QUEUE_KB: Final = 65_536
_LEAST_QUEUE_KB: Final = 1024
#: librdkafka's own bounds of a broker's answer and of a partition's part in it, and an answer of small messages.
_MOST_ANSWER: Final = 52_428_800
_MOST_PARTITION: Final = 1_048_576
_LEAST_ANSWER: Final = 65_536
#: Of all clients, unless it is set. A consumer refuses to fetch less at a time.
_MESSAGE_MAX: Final = 1_000_000
_MIB: Final = 1 << 20


class MemoryShares(NamedTuple):
    """Bytes: of the messages of one poll, of the dead letters that await their commit, and of a scrape's text.

    pages_bytes: of the pages on their way to clients.
    """

    batch_bytes: int
    dead_letter_bytes: int
    exposition_bytes: int
    pages_bytes: int


def detected_limit(root: Path = Path("/")) -> int:
    """Return the bytes that the cgroup allows, or half of the machine's where it sets no limit."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in _CGROUP_FILES:
        try:
            text = (root / name).read_text().strip()
        except OSError:
            continue
        # v2 writes `max` where there is none, v1 a number that is larger than any memory.
        if text.isdigit() and 0 < int(text) < machine:
            return int(text)
    return int(machine * MACHINE_SHARE)


def memory_shares(limit: int) -> MemoryShares:
    """Return the shares of a limit in bytes: a sixteenth each, and 64 MiB at most, but for a scrape's text."""
    share = min(limit // 16, 64 * _MIB)
    return MemoryShares(share, share, exposition_bytes=limit // 16, pages_bytes=share)


def fetch_properties(limit: int, properties: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the librdkafka properties that bound what is fetched ahead, for a limit in bytes.

    properties: those of the configuration, which win.

    The queue may exceed its bound by one answer of each broker, which librdkafka unpacks whole. An answer is bounded as
    it is sent, which is compressed: to a thousandth of the limit, a quarter of it for a partition. Text that gzip packs
    250 to 1 makes a quarter of the limit of that. A broker sends a batch that is larger all the same, alone.
    """
    chosen = properties or {}
    answer = max(_LEAST_ANSWER, min(limit // 1024, _MOST_ANSWER))
    # librdkafka refuses to start where `fetch.max.bytes` is less than `message.max.bytes`.
    return {
        "queued.max.messages.kbytes": max(_LEAST_QUEUE_KB, min(limit // 16 // 1024, _MOST_QUEUE_KB)),
        "message.max.bytes": min(answer, _MESSAGE_MAX, _integer(chosen.get("fetch.max.bytes"), answer)),
        "fetch.max.bytes": max(answer, _integer(chosen.get("message.max.bytes"), 0)),
        "max.partition.fetch.bytes": min(answer // 4, _MOST_PARTITION),
    }


def shown_shares(limit: int, properties: Mapping[str, Any] | None = None) -> dict[str, int]:
    """Return place -> the most bytes of messages or pages there, for a limit in bytes and the configured properties."""
    shares, chosen = memory_shares(limit), properties or {}
    fetch = {name: _integer(chosen.get(name), value) for name, value in fetch_properties(limit, chosen).items()}
    return {
        "queue": fetch["queued.max.messages.kbytes"] * 1024,
        "answer": fetch["fetch.max.bytes"],
        "batch": shares.batch_bytes,
        "dead_letters": shares.dead_letter_bytes,
        "pages": shares.pages_bytes,
    }


def _integer(value: object, otherwise: int) -> int:
    """Return a property's value; `otherwise` where it is not set, or is not a number, which librdkafka will tell."""
    return int(str(value)) if str(value).isdigit() else otherwise
