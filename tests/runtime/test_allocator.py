"""Memory that one batch used is there for the next without the kernel's help."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tokentrace.runtime.allocator import tune_malloc

FAULTS = """
import resource, sys
import numpy as np
from tokentrace.runtime.allocator import tune_malloc

def batch():
    arrays = [np.ones(1 << 17) for _ in range(8)]
    del arrays

if sys.argv[1] == "kept":
    assert tune_malloc()
for _ in range(20):
    batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    batch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Page faults of 20 batches of 8 MiB, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_a_batch_reuses_the_memory_of_the_last() -> None:
    if sys.platform != "linux" or not tune_malloc():
        pytest.skip("the C library is not glibc")
    kept, returned = faults("kept"), faults("returned")
    assert kept < 100
    assert returned > 20 * kept
