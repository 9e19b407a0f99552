"""`tokentrace version`."""

from __future__ import annotations

import click

from tokentrace import __version__


@click.command()
def command() -> None:
    """Print the version."""
    click.echo(f"tokentrace {__version__}")
