"""`tokentrace doctor`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import click

from tokentrace.cli.options import config_option
from tokentrace.cli.output import echo


@click.command()
@config_option
@click.option("--prometheus", default="", metavar="URL", help="Also compare the replicas with what it scrapes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def command(config_path: Path, prometheus: str, as_json: bool) -> None:
    """Look at brokers, rights, topics, registry, spans, prices, clock, port and Prometheus, and say what to do.

    Nothing is changed. The exit code is 1 if anything fails.
    """
    from tokentrace.config.reading import read_config
    from tokentrace.runtime import log
    from tokentrace.tools.doctor import examine

    reading = read_config(config_path)
    log.set_up("error", "text")
    failed = False
    if sys.stderr.isatty() and not as_json:
        echo(f"Asking {reading.config.kafka.bootstrap_servers}: up to 20 s if no broker answers.", err=True)
    for found in examine(reading, prometheus, time.time):
        failed |= found.level == "fail"
        if as_json:
            fields = {"level": found.level, "area": found.area, "what": found.what, "todo": found.todo or None}
            click.echo(json.dumps(fields))
            continue
        echo(f"{found.level:<5} {found.area:<24} {found.what}")
        if found.todo:
            echo(f"      -> {found.todo}")
    sys.exit(1 if failed else 0)
