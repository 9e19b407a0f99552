"""Process: interpreter settings for a process that does nothing but count.

They apply to the whole process, so only the `worker` command makes them, never a module that another program may
import.
"""

from __future__ import annotations

import gc
import os
from typing import Final

#: Container objects allocated, less those freed, between two collections of the youngest generation: a few batches.
GARBAGE_THRESHOLD: Final = 50_000


def before_imports() -> None:
    """Switch off linear-algebra threads, which nothing here uses. Call it before NumPy is loaded."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def tune_gc() -> None:
    """Freeze long-lived objects and raise the garbage collector's thresholds. Call it after start-up.

    A batch is ten thousand messages, each a container to the collector. At its default thresholds it traverses them and
    all modules again and again, which took half of the time of reading (2026-11). A batch leaves no cycles, so
    reference counts free it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD, 20, 50)
