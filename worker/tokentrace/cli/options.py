"""Options shared by several commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

#: Environment variables with the bearer token of the endpoint, the first that is set.
TOKEN_VARIABLES: Final = ("TOKENTRACE_AUTH_TOKEN", "TOKENTRACE_API_TOKEN")

F = TypeVar("F", bound=Callable[..., Any])


def config_option(function: F) -> F:
    """Add the option `--config PATH`, by default ./tokentrace.yml."""
    return click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path, dir_okay=False),
        default=Path("tokentrace.yml"),
        show_default=True,
        help="Configuration file.",
    )(function)


class _DurationType(click.ParamType):  # type: ignore[type-arg]
    """Duration as in the configuration, such as `500ms`, `15s`, `5m` or `1h`; converted to seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from tokentrace.model.durations import positive_duration

        if isinstance(value, float):
            return value
        try:
            return positive_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = _DurationType()


def place_of(text: str, name: str) -> tuple[int, int]:
    """Return (partition, offset) of `partition:offset`. name: of the option, for the UsageError."""
    from tokentrace.errors import UsageError

    partition, colon, offset = text.partition(":")
    if not colon or not partition.isdecimal() or not offset.isdecimal():
        raise UsageError(f"{name}: {text!r} is not PARTITION:OFFSET, such as 0:42.")
    return int(partition), int(offset)
