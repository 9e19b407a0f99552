"""Process: what a process that does nothing but count asks of the interpreter.

These settings belong to the whole process, so the `worker` command makes them, and no module that could be imported
by someone else's program.
"""

from __future__ import annotations

import gc
import os
from typing import Final

#: Container objects made, less those freed, between two collections of the youngest ones: some batches of messages.
GARBAGE_THRESHOLD: Final = 50_000


def before_imports() -> None:
    """Before NumPy is loaded: no threads for linear algebra, which nothing here does."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def settle() -> None:
    """Once everything is built: collect seldom, and never look at what is there for good.

    A batch is ten thousand messages, each a container to the garbage collector. At its usual thresholds it goes over
    them and over all modules again and again, which took half of the time of reading. What a batch leaves has no
    cycles and is freed by reference counts.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD, 20, 50)
