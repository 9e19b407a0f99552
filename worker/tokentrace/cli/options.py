"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def config_option(function: F) -> F:
    """`--config PATH`, by default ./tokentrace.yml."""
    return click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path, dir_okay=False),
        default=Path("tokentrace.yml"),
        show_default=True,
        help="The configuration file.",
    )(function)


class _DurationType(click.ParamType):  # type: ignore[type-arg]
    """`500ms`, `15s`, `5m`, `1h`, as in the configuration; a number of seconds after parsing."""

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
