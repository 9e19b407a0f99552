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


RELEASED = """
import sys, time
import numpy as np
from tokentrace.model.stop import StopSignal
from tokentrace.runtime import allocator

def resident_mib():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20

assert allocator.tune_malloc()
allocator.RELEASE_INTERVAL_S = 0.05
burst = [np.ones(1 << 17) for _ in range(40)]
kept = [np.ones(1 << 10) for _ in range(40)]
del burst
high = resident_mib()
if sys.argv[1] == "released":
    allocator.release_unused(StopSignal())
    deadline = time.monotonic() + 30.0
    while resident_mib() > high - 30 and time.monotonic() < deadline:
        time.sleep(0.05)
print(high - resident_mib())
"""


def test_memory_of_a_burst_is_returned_to_the_kernel() -> None:
    """40 MiB in blocks that lie below others that are still in use."""
    if sys.platform != "linux" or not tune_malloc():
        pytest.skip("the C library is not glibc")
    found = {}
    for how in ("released", "kept"):
        done = subprocess.run([sys.executable, "-c", RELEASED, how], capture_output=True, text=True, check=True)
        found[how] = int(done.stdout)
    assert found["released"] >= 30
    assert found["kept"] < 10


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
