"""Errors for users. Every message says how to fix the problem.

A library caller catches `TokentraceError`. The command line prints the error as one line on stderr and exits with its
`exit_code`. Any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class TokentraceError(Exception):
    """Base of all errors that tokentrace raises intentionally. The message is one sentence for the user."""

    exit_code = 1


class ConfigError(TokentraceError):
    """The configuration is invalid. Every problem is one line: `path.to.key: what is wrong (line N)`."""

    exit_code = 2

    def __init__(self, problems: list[str], file: str = "") -> None:
        """file: the configuration that has the problems; the command line names it before each."""
        super().__init__("\n".join(problems))
        self.problems = problems
        self.file = file


class CheckFailed(ConfigError):
    """The configuration is valid, but something that it names does not answer or refuses. Problems as above."""

    exit_code = 1


class UsageError(TokentraceError):
    """The command was used incorrectly, or something that it needs besides the configuration is missing."""

    exit_code = 2


class Unreachable(UsageError):
    """No broker answers: an outage for a worker, a wrong address for a command."""


class FatalError(TokentraceError):
    """The worker cannot continue: it is fenced or unauthorized, or a topic has wrong settings."""


class ClientFailed(FatalError):
    """Kafka accepts a client of this process no longer; a new client may continue from what is committed."""


class MemberFailed(ClientFailed):
    """The same for the member of the consumer group; without it, a producer alone has failed, or a read."""


class ReplicaIdTaken(FatalError):
    """Another process works with this worker's replica id."""


class UnreadableRecord(FatalError):
    """A record of one of tokentrace's own topics cannot be decoded: it is damaged, or something else wrote it."""


class StopRequested(TokentraceError):
    """The worker is asked to stop while it waits. An orderly end, not a failure."""


class Unanswered(TokentraceError):
    """Kafka gave no usable answer in time. It may later."""


class SchemaError(TokentraceError):
    """A writer schema is missing or cannot be read as a span. `reason` is a key of `reasons`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class SchemaUnavailable(TokentraceError):
    """A writer schema cannot be had now. The message is not at fault; pause its partition and retry.

    rows: int64[k], ascending, the messages of the batch that need such a schema; None if unknown.
    pending: True while the schema is only being fetched; False if the registry is unavailable.
    """

    def __init__(self, message: str, *, rows: NDArray[np.int64] | None = None, pending: bool = False) -> None:
        super().__init__(message)
        self.rows = rows
        self.pending = pending
