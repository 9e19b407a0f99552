"""`tokentrace state`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokentrace.cli.options import config_option

if TYPE_CHECKING:
    from tokentrace.state.admin import StateAdmin

_BY = ("replica", "model", "provider", "caller", "status")


@click.group()
def command() -> None:
    """Show or mend the durable totals of all replicas."""


@command.command()
@config_option
@click.option("--by", multiple=True, type=click.Choice(_BY), help="Sum by these labels; by model unless given.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object; money in nano-USD.")
def show(config_path: Path, by: tuple[str, ...], as_json: bool) -> None:
    """The exact all-time totals over every replica that ever counted, running or not."""
    from tokentrace.state.admin import summed

    admin = _admin(config_path)
    replicas = admin.replicas()
    by = by or ("model",)
    rows = sorted(summed(replicas, *by).items(), key=lambda row: -row[1]["cost_nano_usd"])
    everything = summed(replicas)
    total: Mapping[str, int] = everything.get((), {})
    if as_json:
        document = {
            "totals": dict(total),
            "rows": [{**dict(zip(by, labels, strict=True)), **sums} for labels, sums in rows],
            "replicas": {each.replica: {"committed_at": each.committed_at_s} for each in replicas},
            "counted_up_to": {str(partition): offset for partition, offset in sorted(admin.counted_up_to().items())},
        }
        click.echo(json.dumps(document))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for name in by:
        table.add_column(name)
    for name in ("spans", "cost USD", "prompt tokens", "completion tokens"):
        table.add_column(name, justify="right")
    for labels, sums in [*rows, (("all", *[""] * (len(by) - 1)), total)]:
        cost = sums.get("cost_nano_usd", 0)
        table.add_row(
            *labels,
            f"{sums.get('spans', 0):,}",
            f"{cost // 10**9:,}.{cost % 10**9:09d}",
            f"{sums.get('prompt_tokens', 0):,}",
            f"{sums.get('completion_tokens', 0):,}",
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)


@command.command()
@config_option
@click.option("--offsets", is_flag=True, help="Set the group's offsets forward to what is counted already.")
@click.option("--positions", is_flag=True, help="Let --replica be given spans again that it has counted.")
@click.option("--totals", is_flag=True, help="Forget everything that --replica has counted.")
@click.option("--replica", help="The replica, by its worker.replica_id.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def reset(config_path: Path, offsets: bool, positions: bool, totals: bool, replica: str | None, yes: bool) -> None:
    """Mend the state after offsets were set back, a topic was made anew, or buckets were changed.

    Stop the workers first. --offsets keeps every counter exact; the other two do what they say.
    """
    if offsets + positions + totals != 1:
        raise click.UsageError("Give one of --offsets, --positions and --totals.")
    if not offsets and replica is None:
        raise click.UsageError("--positions and --totals need --replica.")
    admin = _admin(config_path)
    if offsets:
        moved = admin.set_offsets_forward()
        for partition, (before, after) in sorted(moved.items()):
            click.echo(f"Partition {partition}: offset {before} -> {after}.")
        if not moved:
            click.echo("The group's offsets are not behind what is counted.")
        return
    assert replica is not None
    if positions:
        _confirm(yes, f"Replica {replica} may then count spans again that it has counted. Go on?")
        admin.forget_positions(replica)
        click.echo(f"Replica {replica} goes on from the group's offsets, whatever they are.")
    else:
        _confirm(yes, f"The totals of replica {replica} will be gone for good. Go on?")
        click.echo(f"Removed {admin.forget_totals(replica):,} records of replica {replica}.")


def _confirm(yes: bool, question: str) -> None:
    if not yes:
        click.confirm(question, abort=True)


def _admin(config_path: Path) -> StateAdmin:
    from tokentrace.config import load_config
    from tokentrace.runtime import log
    from tokentrace.runtime.wiring import kafka_clients
    from tokentrace.state.admin import StateAdmin

    config = load_config(config_path)
    log.set_up("warning", "text")
    kafka = config.kafka
    return StateAdmin(kafka_clients(config), topic=kafka.state_topic, group_id=kafka.group_id, source_topic=kafka.topic)
