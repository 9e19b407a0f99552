"""Options shared by several commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

#: Environment variables with the bearer token of the endpoint, the first that is set.
TOKEN_VARIABLES: Final = ("TOKENTRACE_AUTH_TOKEN", "TOKENTRACE_API_TOKEN")

F = TypeVar("F", bound=Callable[..., Any])


class FullSummaries(click.Group):
    """Command group whose help cuts no summary."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the name and the first sentence of every command."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, command.get_short_help_str(1000)) for name, command in commands if command is not None]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def file_option(name: str, parameter: str, help_: str) -> Callable[[F], F]:
    """Return what adds an option for a configuration file, by default ./tokentrace.yml."""
    return click.option(
        name,
        parameter,
        type=click.Path(path_type=Path, dir_okay=False),
        default=Path("tokentrace.yml"),
        show_default=True,
        help=help_,
    )


def config_option(function: F) -> F:
    """Add the option `--config PATH`."""
    return file_option("--config", "config_path", "Configuration file.")(function)


def source_option(function: F) -> F:
    """Add the option `--from`, of the past spans that rules or budgets are tried on."""
    return click.option("--from", "source", required=True, help="Avro file of spans, or name of a topic.")(function)


def period_options(function: F) -> F:
    """Add the options of a period of bills; see `repricing.period_of`."""
    options = [
        click.option("--month", help="Calendar month, such as 2026-10."),
        click.option("--from", "begin", help="First moment of the period, a date or time in --zone."),
        click.option("--to", "end", help="First moment behind the period, a date or time in --zone."),
        click.option(
            "--zone", default="UTC", show_default=True, help="Time zone of the period, such as Europe/Berlin."
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


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
