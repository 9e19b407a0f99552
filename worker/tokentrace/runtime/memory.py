"""Memory: how much this process may use, and what of it messages on their way may take.

A message is held several times at once: in librdkafka's queue, as the values of a batch, in the buffer that is decoded,
and as a dead letter until the commit. Each of these gets a share.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, NamedTuple

#: Part of the machine's memory that is taken where no cgroup sets a limit.
MACHINE_SHARE: Final = 0.5
#: cgroup v2 and v1, as a container sees its own.
_CGROUP_FILES: Final = ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes")
#: librdkafka's own bound of its queue, and one that still holds a fetch of small messages.
_MOST_QUEUE_KB: Final = 65_536
_LEAST_QUEUE_KB: Final = 1024
_MIB: Final = 1 << 20


class MemoryShares(NamedTuple):
    """Bytes: of the messages of one poll, and of the dead letters that await their commit."""

    batch_bytes: int
    dead_letter_bytes: int


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
    """Return what messages may take of a limit in bytes: a sixteenth each, 64 MiB at most."""
    share = min(limit // 16, 64 * _MIB)
    return MemoryShares(batch_bytes=share, dead_letter_bytes=share)


def fetch_properties(limit: int) -> dict[str, Any]:
    """Return the librdkafka properties that bound what is fetched ahead, for a limit in bytes.

    The queue may exceed its bound by one answer of each broker, which librdkafka unpacks whole.
    """
    return {"queued.max.messages.kbytes": max(_LEAST_QUEUE_KB, min(limit // 16 // 1024, _MOST_QUEUE_KB))}
