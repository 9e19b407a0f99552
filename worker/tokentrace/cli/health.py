"""`tokentrace health`."""

from __future__ import annotations

from pathlib import Path

import click

from tokentrace.cli.options import config_option


@click.command()
@config_option
@click.option("--ready", is_flag=True, help="Ask whether it is ready, too, rather than alive.")
def command(config_path: Path, ready: bool) -> None:
    """Ask the worker of this configuration, on this machine, whether it is alive. Exit code 1 says no."""
    from tokentrace.config import load_config
    from tokentrace.tools.health import check

    click.echo(check(load_config(config_path).http_server, ready))
