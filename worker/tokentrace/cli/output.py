"""Output of lines that contain text from spans and records."""

from __future__ import annotations

import click

from tokentrace.model.text import printable


def echo(line: str, err: bool = False) -> None:
    """Print one line, with everything escaped that a terminal would interpret."""
    click.echo(printable(line), err=err)
