"""The log: a line that repeats is written once in some seconds."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Literal

import pytest

from tests.harness import Clock
from tokentrace.runtime.log import MOST_A_MINUTE, RepeatFilter, left_out


def record(level: int, text: str) -> logging.LogRecord:
    return logging.LogRecord("tokentrace", level, "", 0, "%s is down", (text,), None)


def test_the_same_warning_is_logged_again_only_after_a_while() -> None:
    clock = Clock(0.0)
    lines = RepeatFilter(interval_s=10.0, clock=clock)
    logged = []
    for tick in range(250):
        clock.now_s = tick / 10
        if lines.filter(record(logging.WARNING, "one")):
            logged.append(clock.now_s)
    assert logged == [0.0, 10.0, 20.0]
    assert lines.filter(record(logging.WARNING, "two"))


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_name_in_a_message_writes_neither_lines_nor_codes(form: Literal["text", "json"]) -> None:
    code = f"from tokentrace.runtime import log; log.set_up('info', '{form}'); import logging; "
    code += r"logging.warning('Model %s is new', 'x\n12:00:00 ERROR forged \x1b[2J\x9b1m\u202e\u00e9')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    [line] = done.stderr.splitlines()
    assert line.isprintable()
    assert r"x\n12:00:00 ERROR forged" in line


def test_different_warnings_of_one_place_are_few_and_the_rest_is_counted() -> None:
    """As one that names its client does in a flood from many addresses."""
    clock = Clock(0.0)
    lines = RepeatFilter(clock=clock)
    logged = []
    for number in range(10_000):
        clock.now_s = number / 100
        line = record(logging.WARNING, f"client {number}")
        if lines.filter(line):
            assert line.getMessage() == f"client {number} is down", "other handlers get it as it is"
            logged.append((clock.now_s, line.getMessage() + left_out(line)))
    assert len(logged) == 2 * MOST_A_MINUTE
    assert logged[MOST_A_MINUTE] == (60.0, "client 6000 is down (5980 lines like it were left out.)")
    assert len(lines._logged_s) <= MOST_A_MINUTE
    elsewhere = logging.LogRecord("tokentrace", logging.WARNING, "other.py", 1, "another", (), None)
    assert lines.filter(elsewhere)


def test_information_is_logged_every_time() -> None:
    lines = RepeatFilter(clock=Clock(0.0))
    assert [lines.filter(record(logging.INFO, "one")) for _ in range(3)] == [True] * 3
