"""`tokentrace ledger`."""

from __future__ import annotations

import json
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokentrace.cli.options import config_option

if TYPE_CHECKING:
    from tokentrace.config import Config
    from tokentrace.ledger.database import Database
    from tokentrace.ledger.follow import Follower
    from tokentrace.model.stop import StopSignal


@click.group()
def command() -> None:
    """Keep the hours of every group in a database, from the rollups. Requires the extra tokentrace[ledger]."""


@command.command()
@config_option
@click.option("--once", is_flag=True, help="End when all rollups are in the ledger that the topic has now.")
@click.option("--accept-gap", is_flag=True, help="Record rollups that are missing, and go on without them.")
def run(config_path: Path, once: bool, accept_gap: bool) -> None:
    """Read the rollups into the ledger until SIGTERM.

    It continues where it ended, exactly once. Where rollups expired before they were read, it ends and names the hours.
    """
    from tokentrace.errors import StopRequested
    from tokentrace.model.stop import StopSignal

    config = load(config_path)
    stop = StopSignal()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    follower = _follower(config, config_path, stop, accept_gap)
    with suppress(StopRequested):
        follower.run(until_end=once)
    click.echo(f"Added {follower.rows:,} rows of {follower.records:,} rollups to the ledger.", err=True)


@command.command()
@config_option
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def rebuild(config_path: Path, yes: bool) -> None:
    """Empty the hours, and read them again from the rollups.

    Only a ledger whose rollups the topic still has can be rebuilt. Corrections stay.
    """
    from tokentrace.model.stop import StopSignal

    config = load(config_path)
    follower = _follower(config, config_path, StopSignal(), accept_gap=False)
    if not yes:
        click.confirm("All hours of the ledger will be removed and read again. Continue?", abort=True)
    follower.rebuild()
    click.echo(f"Added {follower.rows:,} rows of {follower.records:,} rollups to the ledger.", err=True)


@command.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def status(config_path: Path, as_json: bool) -> None:
    """Show the position, the hours that the ledger has, and its gaps."""
    from tokentrace.ledger.status import status_of

    found = status_of(open_ledger(load(config_path), config_path))
    if as_json:
        click.echo(json.dumps(found.as_json()))
        return
    for line in found.lines():
        click.echo(line)


def open_ledger(config: Config, config_path: Path) -> Database:
    """Return the ledger's database. Raises UsageError where there is none, or the extra is missing."""
    database = _database(config, config_path)
    database.require_current()
    return database


def load(config_path: Path) -> Config:
    """Return the configuration, and set up the log as it says."""
    from tokentrace.config import load_config
    from tokentrace.runtime import log

    config = load_config(config_path)
    log.set_up(config.worker.log_level, config.worker.log_format)
    return config


def _database(config: Config, config_path: Path) -> Database:
    from tokentrace.config.ledger import DEFAULT_URL, absolute_url
    from tokentrace.errors import UsageError

    try:
        from tokentrace.ledger.database import Database
    except ModuleNotFoundError as error:
        raise UsageError(f"The ledger requires {error.name}: pip install 'tokentrace[ledger]'") from None
    url = config.ledger.url or absolute_url(DEFAULT_URL, config_path.parent)
    assert url is not None
    return Database(url)


def _follower(config: Config, config_path: Path, stop: StopSignal, accept_gap: bool) -> Follower:
    from tokentrace.errors import ConfigError
    from tokentrace.kafka.log_tail import LogTail
    from tokentrace.runtime.wiring import kafka_clients, layout_of

    database = _database(config, config_path)
    from tokentrace.ledger.follow import Follower

    if config.worker.guarantee != "exactly_once":
        raise ConfigError(
            ["worker.guarantee: the ledger requires exactly_once, which writes the rollups that it reads"]
        )
    tail = LogTail(kafka_clients(config, stop), config.kafka.rollups_topic, config.kafka.group_id)
    return Follower(tail=tail, database=database, layout=layout_of(config), stop=stop, accept_gap=accept_gap)
