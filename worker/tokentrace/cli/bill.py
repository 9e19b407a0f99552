"""`tokentrace bill`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokentrace.cli.options import config_option
from tokentrace.cli.output import echo

if TYPE_CHECKING:
    from tokentrace.ledger.period import Period
    from tokentrace.ledger.query import Bill

_FORMATS = ("table", "csv", "json", "parquet")
_SORT = ("cost", "spans", "tokens", "name")


@click.command()
@config_option
@click.option("--month", help="Calendar month, such as 2026-10.")
@click.option("--from", "begin", help="First moment of the period, a date or time in --zone.")
@click.option("--to", "end", help="First moment behind the period, a date or time in --zone.")
@click.option("--zone", default="UTC", show_default=True, help="Time zone of the period, such as Europe/Berlin.")
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
    proof: bool,
) -> None:
    """Sum the ledger over a period, exactly. Requires the extra tokentrace[ledger].

    For example, October by caller and model: tokentrace bill --month 2026-10 --by caller,model
    """
    if proof:
        _prove(config_path, as_json=format_ == "json")
        return
    from tokentrace.cli.ledger import load, open_ledger

    database = open_ledger(load(config_path), config_path)
    from tokentrace.ledger.period import last_day
    from tokentrace.ledger.query import Billing
    from tokentrace.tools.state_table import in_order

    labels = [name.strip() for name in by.split(",") if name.strip()]
    if not labels or len(set(labels)) != len(labels):
        raise click.UsageError("--by needs different labels, comma-separated, such as caller,model.")
    billing = Billing(database, None if as_of is None else last_day(as_of))
    found = billing.bill(_period(month, begin, end, zone), labels, units=units)
    rows = in_order(found.rows, sort)
    if format_ == "parquet":
        from tokentrace.ledger.formats import write_parquet

        if output is None:
            raise click.UsageError("--format parquet requires --output FILE.")
        write_parquet(found, rows, output)
        return
    if format_ == "table":
        _print_table(found, rows, units, limit, output)
        return
    from tokentrace.ledger.formats import as_csv, as_json

    text = as_csv(found, rows) if format_ == "csv" else json.dumps(as_json(found, rows)) + "\n"
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, newline="")


def _period(month: str | None, begin: str | None, end: str | None, zone: str) -> Period:
    from tokentrace.ledger import period

    if month is not None and begin is None and end is None:
        return period.month(month, period.find_zone(zone))
    if month is None and begin is not None and end is not None:
        return period.between(begin, end, period.find_zone(zone))
    raise click.UsageError("Set --month, or --from and --to.")


def _print_table(
    bill: Bill,
    rows: list[tuple[tuple[str, ...], Mapping[str, int]]],
    units: bool,
    limit: int | None,
    output: Path | None,
) -> None:
    from rich.console import Console

    from tokentrace.ledger.words import notes
    from tokentrace.tools.state_table import table

    subtotals = bill.subtotals if len(bill.by) > 1 else {}
    shown = table(bill.by, rows, subtotals, bill.total, units=units, limit=limit)
    with output.open("w") if output is not None else sys.stdout as out:
        Console(file=out, width=None if out.isatty() else 240).print(shown)
        for line in notes(bill):
            click.echo(line, file=out)


def _prove(config_path: Path, *, as_json: bool) -> None:
    from tokentrace.cli.ledger import load, open_ledger

    config = load(config_path)
    database = open_ledger(config, config_path)
    from tokentrace.kafka.log_tail import LogTail
    from tokentrace.ledger.proof import ledger_sums, prove
    from tokentrace.ledger.words import proof_json, proof_lines
    from tokentrace.runtime.wiring import kafka_clients, layout_of
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
    if not proof.agrees:
        sys.exit(1)
