"""Keys of a terminal, one by one, without waiting for the line to end."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_NAMES: Final = {
    "\x1b[A": "up", "\x1b[B": "down", "\x1bOA": "up", "\x1bOB": "down", "\x1b[5~": "page up", "\x1b[6~": "page down",
    "\x1b": "escape", "\r": "enter", "\n": "enter", "\x7f": "backspace", "\x08": "backspace", "\x03": "ctrl-c",
}  # fmt: skip


@contextmanager
def single_keys() -> Iterator[None]:
    """Let the terminal give each key at once, until the end of the body; without a terminal, do nothing."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def read_keys(timeout_s: float) -> list[str]:
    """Return the keys that were pressed within this time, as soon as there is any: letters, and names of others."""
    if not sys.stdin.isatty():
        select.select([], [], [], timeout_s)
        return []
    if not select.select([sys.stdin], [], [], timeout_s)[0]:
        return []
    return split_keys(os.read(sys.stdin.fileno(), 256).decode("utf-8", "ignore"))


def split_keys(text: str) -> list[str]:
    """Return the keys in what a terminal sent."""
    keys: list[str] = []
    while text:
        size = next((size for size in (4, 3, 1) if text[:size] in _NAMES), 1)
        keys.append(_NAMES.get(text[:size], text[:size]))
        text = text[size:]
    return keys
