"""Fuzzing of the decoders: any bytes, as messages of any schema, must come out of both alike.

    python -m tests.fuzz.fuzz_decode [--seconds 600] [--plain] [--seed N] [CORPUS]

With atheris installed, its coverage of `tokentrace.decode` guides the search; without, or with --plain, inputs are
damaged blindly. A disagreement, an exception or a hang ends the run with exit code 1 or more and the input's bytes.
An input is the number of a schema, how to decode, and messages; see `parse`.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

try:
    import atheris
except ImportError:
    atheris = None

# What is to be covered has to be imported under instrumentation.
with atheris.instrument_imports(include=["tokentrace.decode"]) if atheris else contextlib.nullcontext():
    from tests.decode.differential import THOROUGH, assert_agreement, both_decoders
    from tests.decode.generate import Generator
    from tests.spanfactory import SPAN_SCHEMA
    from tokentrace.decode.columnar.decoder import ColumnarDecoder
    from tokentrace.decode.fastavro_decoder import FastavroDecoder

#: Numbers of schemas; every fourth is the span's own.
SCHEMAS = 4000
OPTIONS = (THOROUGH, THOROUGH | {"chunk_rows": 3}, {"min_rows": 0, "max_sparse_rounds": 2}, {"min_rows": 2})
#: The length byte of a message that takes all that is left.
REST = 255
#: Seconds between two reports.
REPORT_S = 60.0

totals = {"executions": 0, "messages": 0, "rejected": 0, "no_column_form": 0}


def schema_of(number: int) -> Any:
    return SPAN_SCHEMA if number % 4 == 0 else Generator(random.Random(number)).schema()


@lru_cache(maxsize=2 * SCHEMAS)
def decoders_of(number: int, options: int) -> tuple[Any, FastavroDecoder, ColumnarDecoder] | None:
    """The schema of a number and its decoders, or None where it has no column form."""
    schema = schema_of(number)
    reference, columnar = both_decoders(schema, **OPTIONS[options])
    return None if columnar is None else (schema, reference, columnar)


def parse(data: bytes) -> tuple[int, int, list[bytes]]:
    """Two bytes number a schema, one an entry of OPTIONS; then each message follows its length in one byte."""
    number = int.from_bytes(data[:2], "little") % SCHEMAS
    options = (data[2] if len(data) > 2 else 0) % len(OPTIONS)
    messages, at = [], 3
    while at < len(data):
        size = len(data) if data[at] == REST else data[at]
        messages.append(data[at + 1 : at + 1 + size])
        at += 1 + size
    return number, options, messages


def build(number: int, options: int, messages: list[bytes]) -> bytes:
    """The input that `parse` takes apart so; a message of REST bytes or more has to be the last."""
    out = number.to_bytes(2, "little") + bytes([options])
    for message in sorted(messages, key=lambda data: len(data) >= REST):
        out += bytes([min(len(message), REST)]) + message
    return out


def check(data: bytes) -> None:
    """Decode one input both ways. Raises AssertionError where they disagree."""
    number, options, messages = parse(data)
    decoders = decoders_of(number, options)
    totals["executions"] += 1
    if decoders is None:
        totals["no_column_form"] += 1
        return
    totals["messages"] += len(messages)
    if messages:
        totals["rejected"] += assert_agreement(decoders[0], messages, decoders[1], decoders[2])


def seed_input(rng: random.Random) -> bytes:
    """Sound messages of a random schema."""
    number, generator = rng.randrange(SCHEMAS), Generator(rng)
    schema = schema_of(number)
    messages = [generator.datum(schema, wild=rng.random() < 0.5) for _ in range(rng.choice((1, 3, 9)))]
    return build(number, rng.randrange(len(OPTIONS)), messages)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """An input whose messages are damaged one by one, so that the others stay what they are."""
    number, options, messages = parse(data)
    generator = Generator(rng)
    messages = [generator.damage(message, messages) if rng.random() < 0.25 else message for message in messages]
    if rng.random() < 0.5:
        messages.insert(rng.randint(0, len(messages)), generator.datum(schema_of(number), wild=True))
    if len(messages) > 8 or (messages and rng.random() < 0.1):
        messages.pop(rng.randrange(len(messages)))
    return build(number, rng.randrange(len(OPTIONS)) if rng.random() < 0.1 else options, messages)


def plain(rng: random.Random, corpus: list[bytes], seconds: float) -> None:
    """Damage inputs for so long, and report every minute and at the end."""
    now_s = time.monotonic()
    until_s, report_s = now_s + seconds, now_s + REPORT_S
    for _ in damaged(rng, corpus):
        now_s = time.monotonic()
        if now_s >= min(report_s, until_s):
            print(totals, flush=True)
            report_s = now_s + REPORT_S
        if now_s >= until_s:
            break


def damaged(rng: random.Random, corpus: list[bytes]) -> Iterator[bytes]:
    """Check damaged inputs of the corpus and new ones without end, keeping some to be damaged further."""
    pool = corpus or [seed_input(rng) for _ in range(200)]
    while True:
        data = seed_input(rng) if rng.random() < 0.2 else mutated(rng.choice(pool), rng)
        try:
            check(data)
        except BaseException:
            print(f"input: {data.hex()}", file=sys.stderr)
            raise
        if len(data) < 4000 and rng.random() < 0.05:
            pool[rng.randrange(len(pool))] = data
        yield data


def guided(corpus: Path, seconds: float, seed: int) -> None:
    """By atheris; never returns."""
    rng = random.Random(seed)
    for number in range(500):
        (corpus / f"seed{number}").write_bytes(seed_input(rng))
    next_report_s = time.monotonic() + 60

    def one_input(data: bytes) -> None:
        nonlocal next_report_s
        check(data)
        if time.monotonic() > next_report_s:
            next_report_s += 60
            print(totals, file=sys.stderr, flush=True)

    def mutator(data: bytes, max_size: int, seed: int) -> bytes:
        chance = random.Random(seed)
        changed = mutated(data, chance) if chance.random() < 0.8 else atheris.Mutate(data, len(data) + 64)
        return bytes(changed[:max_size])

    options = [f"-max_total_time={int(seconds)}", f"-seed={seed}", "-timeout=30", "-max_len=16384"]
    # Atheris 3.0 keeps the operands of the comparisons that it traces, some kilobytes an execution.
    options += ["-rss_limit_mb=0", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one_input, custom_mutator=mutator, enable_python_coverage=True)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="?", type=Path, help="folder of inputs; a temporary one by default")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="without atheris")
    arguments = parser.parse_args()
    corpus = arguments.corpus or Path(tempfile.mkdtemp(prefix="tokentrace-fuzz-"))
    corpus.mkdir(parents=True, exist_ok=True)
    if atheris is None or arguments.plain:
        found = [path.read_bytes() for path in sorted(corpus.iterdir())]
        plain(random.Random(arguments.seed), found, arguments.seconds)
    else:
        guided(corpus, arguments.seconds, arguments.seed)


if __name__ == "__main__":
    main()
