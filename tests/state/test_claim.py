"""The claim of a replica id: which process wrote a replica's own record."""

from __future__ import annotations

import os
import socket

import pytest

from tokentrace.state.claim import PROCESS_HEADER, Process, process_of

PROCESS = Process("host-1", 42, 1_795_600_000_500_000)


def test_process_is_read_from_the_header_that_it_writes() -> None:
    assert process_of([("other", b"1"), PROCESS.header()]) == PROCESS
    assert process_of(dict([PROCESS.header()])) == PROCESS


def test_process_of_this_interpreter_differs_from_the_next_at_the_same_host() -> None:
    now = Process.this(1_795_600_000.0)
    assert now[:2] == (socket.gethostname(), os.getpid())
    assert now != Process.this(1_795_600_000.1)


@pytest.mark.parametrize("headers", [None, [], [("other", b"1")], [(PROCESS_HEADER, b"{")], [(PROCESS_HEADER, b"{}")],
    [(PROCESS_HEADER, None)], [(PROCESS_HEADER, b"[]")]])  # fmt: skip
def test_process_of_headers_that_name_none_is_none(headers: list[tuple[str, bytes | None]] | None) -> None:
    assert process_of(headers) is None


def test_process_is_shown_with_its_host_and_start() -> None:
    assert str(PROCESS) == "process 42 on host host-1, started at 2026-11-25T09:46:40Z"
