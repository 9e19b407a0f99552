"""`tokentrace bill`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokentrace.cli.options import config_option, period_options
from tokentrace.cli.output import echo, opened, print_table, writing
from tokentrace.cli.repricing import period_of, repricing_of

if TYPE_CHECKING:
    from rich.table import Table

    from tokentrace.ledger.database import Database
    from tokentrace.ledger.period import Period
    from tokentrace.ledger.query import Bill
    from tokentrace.ledger.repriced_formats import RepricedBill

_FORMATS = ("table", "csv", "json", "parquet", "focus")
_SORT = ("cost", "spans", "tokens", "name")


@click.command()
@config_option
@period_options
@click.option(
    "--by",
    default="model",
    show_default=True,
    help="Labels to sum by, comma-separated: model, provider, caller, status, source, hour, day, month, booked, or a "
    "dimension; the first has subtotals.",
)
@click.option("--units", is_flag=True, help="Also show every other unit, and how many costs have which source.")
@click.option("--sort", type=click.Choice(_SORT), default="cost", show_default=True, help="Order of the rows.")
@click.option("--limit", type=click.IntRange(1), help="Most rows of the table; the sums are of all of them.")
@click.option("--format", "format_", type=click.Choice(_FORMATS), default="table", show_default=True, help="Format.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="File to write instead of stdout.")
@click.option("--as-of", help="The bill as it was at the end of a day (UTC), such as 2026-11-03.")
@click.option(
    "--reprice",
    "prices",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Compare with other prices: a configuration file whose section pricing has them.",
)
@click.option("--what-if", "swaps", multiple=True, help="Compare with another model, such as gpt-4o=claude-sonnet-4-5.")
@click.option("--reported", is_flag=True, help="With --reprice: also the costs that applications reported.")
@click.option("--proof", is_flag=True, help="Compare the whole ledger with the all-time totals of the workers.")
def command(
    config_path: Path,
    month: str | None,
    begin: str | None,
    end: str | None,
    zone: str,
    by: str,
    units: bool,
    sort: str,
    limit: int | None,
    format_: str,
    output: Path | None,
    as_of: str | None,
    prices: Path | None,
    swaps: tuple[str, ...],
    reported: bool,
    proof: bool,
) -> None:
    """Sum the ledger over a period, exactly. Requires the extra tokentrace[ledger].

    For example, October by caller and model: tokentrace bill --month 2026-10 --by caller,model
    """
    if proof:
        if month or begin or end or as_of or prices or swaps or output or format_ not in ("table", "json"):
            raise click.UsageError("--proof is of the whole ledger: it takes --format table or json, and no period.")
        _prove(config_path, as_json=format_ == "json")
        return
    from tokentrace.cli.ledger import load, open_ledger

    config = load(config_path)
    database = open_ledger(config, config_path)
    from tokentrace.ledger.period import last_day
    from tokentrace.ledger.query import Billing
    from tokentrace.tools.state_table import in_order

    period, day = period_of(month, begin, end, zone), None if as_of is None else last_day(as_of)
    labels = [name.strip() for name in by.split(",") if name.strip()]
    if not labels or len(set(labels)) != len(labels):
        raise click.UsageError("--by needs different labels, comma-separated, such as caller,model.")
    if prices is not None or swaps:
        if format_ in ("parquet", "focus"):
            raise click.UsageError("--reprice and --what-if take --format table, csv or json.")
        from tokentrace.ledger.period_cells import cells_in
        from tokentrace.ledger.repriced_formats import RepricedBill

        repricing = repricing_of(config, prices, swaps, reported)
        repriced = RepricedBill(period, labels, repricing.sums(cells_in(database, period, labels, day)))
        repricing.require_used()
        _print_repriced(repriced, format_, limit, output)
        return
    if format_ == "focus":
        _write_focus(database, period, day, config.kafka.group_id, output)
        return
    found = Billing(database, day).bill(period, labels, units=units)
    rows = in_order(found.rows, sort)
    if format_ == "parquet":
        from tokentrace.ledger.formats import write_parquet

        if output is None:
            raise click.UsageError("--format parquet requires --output FILE.")
        with writing(output):
            write_parquet(found, rows, output)
        return
    if format_ == "table":
        _print_table(found, rows, units, limit, output)
        return
    from tokentrace.ledger.formats import as_csv, as_json

    text = as_csv(found, rows) if format_ == "csv" else json.dumps(as_json(found, rows)) + "\n"
    _write(text, output)


def _write(text: str, output: Path | None) -> None:
    with opened(output) as out:
        click.echo(text, file=out, nl=False)


def _write_focus(database: Database, period: Period, day: int | None, account: str, output: Path | None) -> None:
    from tokentrace.ledger.focus import write_focus
    from tokentrace.ledger.period_cells import cells_in

    cells = (cell for _, cell in cells_in(database, period, as_of=day))
    with opened(output) as out:
        write_focus(cells, period, account, out)


def _print_repriced(bill: RepricedBill, format_: str, limit: int | None, output: Path | None) -> None:
    from tokentrace.ledger.repriced_formats import as_csv, as_json, notes

    if format_ != "table":
        _write(as_csv(bill) if format_ == "csv" else json.dumps(as_json(bill)) + "\n", output)
        return
    from tokentrace.tools.repriced_table import repriced_table

    _print(repriced_table(bill, limit), notes(bill), output)


def _print_table(
    bill: Bill,
    rows: list[tuple[tuple[str, ...], Mapping[str, int]]],
    units: bool,
    limit: int | None,
    output: Path | None,
) -> None:
    from tokentrace.ledger.words import notes
    from tokentrace.tools.state_table import table

    subtotals = bill.subtotals if len(bill.by) > 1 else {}
    _print(table(bill.by, rows, subtotals, bill.total, units=units, limit=limit), notes(bill), output)


def _print(table: Table, lines: Iterable[str], output: Path | None) -> None:
    with opened(output) as out:
        print_table(table, out)
        for line in lines:
            click.echo(line, file=out)


def _prove(config_path: Path, *, as_json: bool) -> None:
    from tokentrace.cli.ledger import load, open_ledger

    config = load(config_path)
    database = open_ledger(config, config_path)
    from tokentrace.kafka.log_tail import LogTail
    from tokentrace.ledger.proof import ledger_sums, prove
    from tokentrace.ledger.words import proof_json, proof_lines
    from tokentrace.runtime.settings import layout_of
    from tokentrace.runtime.wiring import kafka_clients
    from tokentrace.state.admin import StateAdmin

    kafka, clients = config.kafka, kafka_clients(config)
    tail = LogTail(clients, kafka.rollups_topic, kafka.group_id)
    admin = StateAdmin(clients, topic=kafka.state_topic, group_id=kafka.group_id, source_topic=kafka.topic)
    ledger = ledger_sums(database)
    proof = prove(database, tail, layout_of(config), admin.replicas(), ledger)
    if as_json:
        click.echo(json.dumps(proof_json(proof)))
    else:
        for line in proof_lines(proof):
            echo(line)
    if not proof.holds:
        sys.exit(1)
