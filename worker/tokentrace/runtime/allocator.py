"""Allocator: keep the memory of one batch for the next.

A batch's arrays come to a few mebibytes, which glibc returns to the kernel after the batch and fetches again, page by
page and zeroed, for the next. That took as long as decoding itself (10 000 spans of 167 bytes: 4.7 ms with it and
2.4 ms without, 2026-11). What stays unused after a burst, such as a large answer of a broker, is returned a little
later: glibc would keep the most that each thread has ever used. The threads of librdkafka share one arena, which costs
nothing, so that what one of them has freed serves the next; one arena for all threads takes a tenth of the speed.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Final

from tokentrace.model.stop import StopSignal

#: Free memory at the end of the heap above which it is returned; size of a block above which it is never kept.
TRIM_BYTES: Final = 64 << 20
MMAP_BYTES: Final = 32 << 20
#: A batch's memory is used again within milliseconds, so what is fetched again after each release is lost in the rest.
RELEASE_INTERVAL_S: Final = 10.0

#: Arenas: the main thread's, and one for all others.
ARENAS: Final = 2

#: Parameters of mallopt(3).
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8


def tune_malloc() -> bool:
    """Set malloc's parameters for the whole process. Return False, changing nothing, if the C library is not glibc."""
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  other C libraries may have a mallopt that does nothing
        mallopt = library.mallopt
    except (OSError, AttributeError, TypeError):
        return False
    parameters = {_M_MMAP_THRESHOLD: MMAP_BYTES, _M_TRIM_THRESHOLD: TRIM_BYTES, _M_ARENA_MAX: ARENAS}
    accepted = [mallopt(parameter, value) == 1 for parameter, value in parameters.items()]
    return all(accepted)


def release_unused(stop: StopSignal) -> threading.Thread:
    """Return the process's unused memory to the kernel every RELEASE_INTERVAL_S, until `stop`, on a thread of its own.

    Call it where `tune_malloc` has returned True.
    """
    library = ctypes.CDLL(None)

    def run() -> None:
        while not stop.wait(RELEASE_INTERVAL_S):
            library.malloc_trim(0)

    thread = threading.Thread(target=run, name="release-memory", daemon=True)
    thread.start()
    return thread
