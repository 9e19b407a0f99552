"""The log: a line that repeats is written once in some seconds."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Literal

import pytest

from tests.harness import Clock
from tokentrace.runtime.log import RepeatFilter


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


def test_information_is_logged_every_time() -> None:
    lines = RepeatFilter(clock=Clock(0.0))
    assert [lines.filter(record(logging.INFO, "one")) for _ in range(3)] == [True] * 3
