"""The claim of a replica id: which process wrote a replica's own record."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping

import pytest
from confluent_kafka import Message

from tests.kafka.fakes import ScriptedClients, ScriptedProducer
from tokentrace.errors import FatalError
from tokentrace.state import StateReader, replica_key
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


class HiddenTopic:
    """The state topic of one replica, behind a transaction of another one that is open."""

    def __init__(self, written: bool) -> None:
        self.written = written
        self.waited: list[bool] = []

    def partition_count(self) -> int:
        return 1

    def read_to_end(self, _: Mapping[int, int], *, await_open: bool = True) -> Iterator[Message]:
        self.waited.append(await_open)
        if await_open and self.written:
            yield Message(
                topic="state", partition=0, offset=7, key=replica_key("r"), value=b"totals", headers=[PROCESS.header()]
            )


@pytest.mark.parametrize("written", [True, False])
def test_record_that_an_open_transaction_hides_is_not_missing(written: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = HiddenTopic(written)
    monkeypatch.setattr("tokentrace.state.restore.TopicReader", lambda *_: topic)
    reader = StateReader(ScriptedClients(producer=ScriptedProducer), "state", "g")
    if written:
        assert reader.written_by("r") == PROCESS
    else:
        with pytest.raises(FatalError, match="The committed state of replica 'r' was removed from topic 'state'"):
            reader.written_by("r")
    assert topic.waited == [False, True]
