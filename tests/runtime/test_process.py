"""Garbage collector settings of the worker process."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc, os
from tokentrace.runtime import process
process.before_imports()
assert os.environ["OPENBLAS_NUM_THREADS"] == "1"
process.tune_gc()
assert gc.isenabled() and gc.get_freeze_count() > 1000
class Node: pass
gone = []
import weakref
for _ in range(3 * process.GARBAGE_THRESHOLD):
    node = Node(); node.itself = node; gone.append(weakref.ref(node))
assert any(each() is None for each in gone), "cycles are never collected"
"""


def test_garbage_in_cycles_is_still_collected_when_it_is_looked_for_seldom() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_setting_of_the_user_is_left_alone() -> None:
    program = """
import os
from tokentrace.runtime import process
process.before_imports()
print(os.environ['OPENBLAS_NUM_THREADS'])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env={"OPENBLAS_NUM_THREADS": "3"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "3"
