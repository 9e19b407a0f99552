"""Claim: the process that works with a replica id, named in a header of the replica's own record.

Each process writes its claim before it joins the group, in a transaction that fences the process before it. So the
record names the process that came last, and one that Kafka fences finds out whether another has taken its place.
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, NamedTuple

from tokentrace.errors import UnreadableRecord
from tokentrace.state.headers import Header, Headers, read_header

#: Header of a replica's own record. Release 0.1.0 neither writes nor reads it.
PROCESS_HEADER: Final = "tokentrace.process"


class Process(NamedTuple):
    """A process: its host, its process id there, and the Unix time at which it started, in microseconds.

    command: whether it is a `tokentrace state` command, which works with the replica id only while it writes.
    """

    host: str
    pid: int
    started_at: int
    command: bool = False

    @classmethod
    def this(cls, now_s: float, *, command: bool = False) -> Process:
        """Return the running process, as one that starts now."""
        return cls(socket.gethostname(), os.getpid(), round(now_s * 1e6), command)

    def header(self) -> Header:
        """Return the header that names this process."""
        return PROCESS_HEADER, json.dumps(self._asdict(), separators=(",", ":")).encode()

    def __str__(self) -> str:
        started = datetime.fromtimestamp(self.started_at // 1_000_000, UTC)
        kind = "the command `tokentrace state`, " if self.command else ""
        return f"{kind}process {self.pid} on host {self.host}, started at {started:%Y-%m-%dT%H:%M:%SZ}"


def process_of(headers: Headers) -> Process | None:
    """Return the process that a record's headers name, None if they name none."""
    with suppress(UnreadableRecord):
        return read_header(headers, PROCESS_HEADER, _decode)
    return None


def _decode(value: bytes) -> Process:
    fields = json.loads(value)
    command = bool(fields.get("command", False))
    return Process(str(fields["host"]), int(fields["pid"]), int(fields["started_at"]), command)
