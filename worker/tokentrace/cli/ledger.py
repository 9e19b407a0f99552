"""`tokentrace ledger`."""

from __future__ import annotations

import json
import signal
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokentrace.cli.options import FullSummaries, config_option, period_options
from tokentrace.cli.repricing import period_of, repricing_of

if TYPE_CHECKING:
    from tokentrace.config import Config
    from tokentrace.ledger.database import Database
    from tokentrace.ledger.follow import Follower
    from tokentrace.model.stop import StopSignal


@click.group(cls=FullSummaries)
def command() -> None:
    """Keep the hours of every group in a database, from the rollups. Requires the extra tokentrace[ledger]."""


@command.command()
@config_option
@click.option("--once", is_flag=True, help="End when all rollups are in the ledger that the topic has now.")
@click.option("--accept-gap", is_flag=True, help="Record rollups that are missing, and go on without them.")
def run(config_path: Path, once: bool, accept_gap: bool) -> None:
    """Read the rollups into the ledger until SIGTERM.

    It continues where it ended, exactly once. Where rollups expired before they were read, it ends and names the hours.
    With ledger.addr, it serves its metrics and health there.
    """
    from tokentrace.config import load_config
    from tokentrace.errors import StopRequested
    from tokentrace.model.stop import StopSignal
    from tokentrace.runtime import log

    config = load_config(config_path)
    log.set_up(config.worker.log_level, config.worker.log_format)
    stop = StopSignal()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    follower = _follower(config, config_path, stop, accept_gap)
    from tokentrace.runtime.ledger_service import serving_ledger

    # A command that ends by itself would take the port of the one that runs.
    with nullcontext() if once else serving_ledger(config, follower, stop.clock), suppress(StopRequested):
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
    database = open_ledger(load(config_path), config_path)
    from tokentrace.ledger.status import status_of

    found = status_of(database)
    if as_json:
        click.echo(json.dumps(found.as_json()))
        return
    for line in found.lines():
        click.echo(line)


@command.command()
@config_option
@period_options
@click.option(
    "--reprice",
    "prices",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Configuration file whose section pricing has the prices to bill by.",
)
@click.option("--reported", is_flag=True, help="Also correct the costs that applications reported.")
@click.option("--reason", required=True, help="Why, for whoever reads the ledger later.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def correct(
    config_path: Path,
    month: str | None,
    begin: str | None,
    end: str | None,
    zone: str,
    prices: Path,
    reported: bool,
    reason: str,
    yes: bool,
) -> None:
    """Enter the difference to other prices as a dated correction.

    Nothing is overwritten: bills include the correction from today on, and --as-of shows them without it.
    """
    if not reason.strip():
        raise click.UsageError("--reason is empty; say why, for whoever reads the ledger later.")
    config = load(config_path)
    database = open_ledger(config, config_path)
    from tokentrace.ledger.corrections import correction_of, enter
    from tokentrace.ledger.formats import usd
    from tokentrace.ledger.period_cells import cells_in

    period = period_of(month, begin, end, zone)
    repricing = repricing_of(config, prices, (), reported)
    correction = correction_of((cell for _, cell in cells_in(database, period)), repricing)
    error = f", an estimate that is wrong by at most {usd(correction.error)} USD" if correction.error else ""
    click.echo(f"{usd(correction.cost_nano_usd)} USD for {correction.spans:,} spans{error}.")
    if not yes and correction.cells:
        click.confirm("It will be in every bill of the period from today on. Continue?", abort=True)
    number = enter(database, correction, period, reason, f"{prices.name}{error}", round(time.time() * 1e6))
    click.echo(f"Entered correction {number}.")


def open_ledger(config: Config, config_path: Path) -> Database:
    """Return the ledger's database. Raises UsageError where there is none, or the extra is missing."""
    database = _database(config, config_path)
    database.require_current()
    return database


def load(config_path: Path) -> Config:
    """Return the configuration, and set up the log of a command that prints."""
    from tokentrace.config import load_config
    from tokentrace.runtime import log

    log.set_up("warning", "text")
    return load_config(config_path)


def _database(config: Config, config_path: Path) -> Database:
    from tokentrace.config.ledger import DEFAULT_URL, absolute_url
    from tokentrace.errors import UsageError

    try:
        from tokentrace.ledger.database import Database
    except ModuleNotFoundError as error:
        raise UsageError(f"The ledger requires {error.name}: pip install 'tokentrace[ledger]'") from None
    url = config.ledger.url or absolute_url(DEFAULT_URL, config_path.parent.absolute())
    assert url is not None
    return Database(url)


def _follower(config: Config, config_path: Path, stop: StopSignal, accept_gap: bool) -> Follower:
    from tokentrace.errors import ConfigError
    from tokentrace.kafka.log_tail import LogTail
    from tokentrace.runtime.settings import layout_of
    from tokentrace.runtime.wiring import kafka_clients

    database = _database(config, config_path)
    from tokentrace.ledger.follow import Follower
    from tokentrace.ledger.parts import Parts

    if config.worker.guarantee != "exactly_once":
        raise ConfigError(
            ["worker.guarantee: the ledger requires exactly_once, which writes the rollups that it reads"]
        )
    tail = LogTail(kafka_clients(config, stop), config.kafka.rollups_topic, config.kafka.group_id)
    parts = Parts(config.ledger_zones)
    return Follower(
        tail=tail, database=database, layout=layout_of(config), stop=stop, parts=parts, accept_gap=accept_gap
    )
