"""Errors that reach a user, each with what to do about it in its message.

A library caller catches `TokentraceError`; the command line turns one into a single line on stderr and its
`exit_code`. Anything else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations


class TokentraceError(Exception):
    """Base of every error that tokentrace raises on purpose. The message is one sentence for the user."""

    exit_code = 1


class ConfigError(TokentraceError):
    """The configuration is wrong: `problems` holds one line each, `path.to.key: what is wrong (line N)`."""

    exit_code = 2

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class UsageError(TokentraceError):
    """The command was called wrongly, or what it needs beside the configuration is missing."""

    exit_code = 2


class FatalError(TokentraceError):
    """The worker cannot go on: fenced, a topic with wrong settings, a broker that refuses."""


class SchemaError(TokentraceError):
    """A writer schema that cannot be read as a span, or cannot be found. `reason` is a word of `reasons`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class SchemaUnavailable(TokentraceError):
    """The schema registry does not answer: no fault of the message; pause and try again."""
