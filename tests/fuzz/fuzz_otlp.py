"""Fuzzing of the readers of OTLP: damaged messages must come out of the walker and of the plain reader alike.

    python -m tests.fuzz.fuzz_otlp [--seconds 600] [--seed N]

A disagreement, an exception or a hang ends the run with the seed of the batch.
"""

from __future__ import annotations

import argparse
import random
import sys
import time

from tests.decode.otlp.differential import assert_as_official, assert_same, damaged
from tokentrace.decode.otlp.columnar import levels, span_fields

totals = {"batches": 0, "messages": 0, "rejected": 0, "calls": 0}


def check(seed: int) -> None:
    """Decode one batch both ways. Raises AssertionError where they disagree."""
    rng = random.Random(seed)
    values = [damaged(rng) for _ in range(rng.choice([1, 3, 9]))]
    batch = assert_same(values)
    assert_as_official(values, batch)
    totals["batches"] += 1
    totals["messages"] += len(values)
    totals["rejected"] += len(batch.rejects)
    totals["calls"] += len(batch.spans)


def main(seconds: float, seed: int) -> None:
    # Arrays for few spans too, which the plain reader would read faster.
    levels.children.__defaults__ = span_fields.read_fields.__defaults__ = (1,)
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        try:
            check(seed)
        except BaseException:
            print(f"The batch of seed {seed}.", file=sys.stderr)
            raise
        seed += 1
    print(totals)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**62))
    arguments, _ = parser.parse_known_args()
    main(arguments.seconds, arguments.seed)
