"""`tokentrace version`."""

from __future__ import annotations

import click

from tokentrace import __version__


@click.command()
def command() -> None:
    """Print the version, and the commit that it was built from."""
    from tokentrace.tools.commit import commit

    built_from = commit()
    click.echo(f"tokentrace {__version__}" + (f" (commit {built_from})" if built_from else ""))
