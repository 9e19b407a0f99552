"""Allocator: keep the memory of one batch for the next.

A batch's arrays come to a few mebibytes, which glibc returns to the kernel after the batch and fetches again, page by
page and zeroed, for the next. That took as long as decoding itself (10 000 spans of 167 bytes: 4.7 ms with it and
2.4 ms without, 2026-11). At most TRIM_BYTES stay unused in the process.
"""

from __future__ import annotations

import ctypes
from typing import Final

#: Free memory at the end of the heap above which it is returned; size of a block above which it is never kept.
TRIM_BYTES: Final = 64 << 20
MMAP_BYTES: Final = 32 << 20

#: Parameters of mallopt(3).
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


def tune_malloc() -> bool:
    """Set malloc's thresholds for the whole process. Return False, changing nothing, if the C library is not glibc."""
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  other C libraries may have a mallopt that does nothing
        mallopt = library.mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return all([mallopt(_M_MMAP_THRESHOLD, MMAP_BYTES) == 1, mallopt(_M_TRIM_THRESHOLD, TRIM_BYTES) == 1])
