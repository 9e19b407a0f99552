"""`tokentrace state`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokentrace.cli.options import FullSummaries, config_option
from tokentrace.cli.output import print_table

if TYPE_CHECKING:
    from tokentrace.state.admin import StateAdmin
    from tokentrace.state.replica_totals import ReplicaTotals

_NAME = re.compile("[a-z][a-z0-9_]*")
_BY = ("replica", "model", "provider", "caller", "status")
_SORT = ("cost", "spans", "tokens", "name")

_RECREATED = (
    "If the topic was recreated, answer no: `tokentrace state reset --positions` counts everything that it holds. If "
    "it is an older copy of the topic, answer yes."
)


@click.group(cls=FullSummaries)
def command() -> None:
    """Show or repair the durable totals of all replicas."""


@command.command()
@config_option
@click.option(
    "--by",
    multiple=True,
    help=f"Labels to sum by: {', '.join(_BY)} or a dimension; the first has subtotals; model if unset.",
)
@click.option("--units", is_flag=True, help="Also show every other unit that was counted, such as cache writes.")
@click.option(
    "--sort", type=click.Choice(_SORT), default="cost", show_default=True, help="Order of the rows, largest first."
)
@click.option("--limit", type=click.IntRange(1), help="Most rows; all unless set. The sums are of all of them.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with costs in nano-USD.")
def show(config_path: Path, by: tuple[str, ...], units: bool, sort: str, limit: int | None, as_json: bool) -> None:
    """Show the exact all-time totals over all replicas, running or not.

    For example, callers with their models: tokentrace state show --by caller --by model
    """
    from tokentrace.state.replica_totals import summed
    from tokentrace.tools.state_table import in_order, table

    admin = _admin(config_path)
    by = by or ("model",)
    for name in by:
        if not _NAME.fullmatch(name):
            raise click.UsageError(f"--by {name} is not a label: these have lower-case letters, digits and _.")
    replicas = admin.replicas()
    _require_known(by, config_path, replicas)
    rows = in_order(summed(replicas, *by), sort)
    total: Mapping[str, int] = summed(replicas).get((), {})
    if as_json:
        document = {
            "totals": dict(total),
            "rows": [{**dict(zip(by, labels, strict=True)), **sums} for labels, sums in rows[:limit]],
            "replicas": {replica.replica: {"committed_at": replica.committed_at_s} for replica in replicas},
            "counted_up_to": {str(partition): offset for partition, offset in sorted(admin.counted_up_to().items())},
        }
        click.echo(json.dumps(document))
        return
    subtotals = summed(replicas, by[0]) if len(by) > 1 else {}
    shown = table(by, rows, subtotals, total, units=units, limit=limit)
    print_table(shown, sys.stdout)


@command.command()
@config_option
@click.option("--offsets", is_flag=True, help="Set the group's offsets to the counted positions.")
@click.option("--positions", is_flag=True, help="Let spans be counted again, which may double-count.")
@click.option("--totals", is_flag=True, help="Delete the totals of --replica.")
@click.option("--replica", help="worker.replica_id of the replica; every one for --positions if unset.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def reset(config_path: Path, offsets: bool, positions: bool, totals: bool, replica: str | None, yes: bool) -> None:
    """Repair the state after a reset of offsets, a recreated topic, or changed buckets.

    Stop the workers first. --offsets keeps every counter exact after offsets were set back, expired or were deleted.
    --positions counts everything in a recreated topic, and otherwise spans twice. --totals deletes counted spans.
    """
    if offsets + positions + totals != 1:
        raise click.UsageError("Set exactly one of --offsets, --positions and --totals.")
    if totals and replica is None:
        raise click.UsageError("--totals requires --replica.")
    admin = _admin(config_path)
    if offsets:
        _set_offsets_forward(admin, yes)
        return
    if positions:
        # A partition is compared with the positions of all replicas, so one alone rarely helps.
        replicas = [replica] if replica is not None else [totals_.replica for totals_ in admin.replicas()]
        _confirm(yes, f"{f'Replica {replica}' if replica else 'Every replica'} may then count spans twice. Continue?")
        if replica is None:
            for partition, offset in sorted(admin.adopt_offsets().items()):
                click.echo(f"Partition {partition} continues from offset {offset}; its state is lost.")
        for name in replicas:
            admin.forget_positions(name)
            click.echo(f"Replica {name} continues from the group's offsets.")
    else:
        assert replica is not None
        _confirm(yes, f"The totals of replica {replica} will be deleted permanently. Continue?")
        click.echo(f"Removed {admin.forget_totals(replica):,} records of replica {replica}.")


@command.command()
@config_option
@click.option("--dimension", required=True, help="Name of the dimension.")
@click.option("--value", required=True, help="Value to forget; in clear, also where its hash is kept.")
@click.option("--replica", help="worker.replica_id of the replica; every one if unset.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def forget(config_path: Path, dimension: str, value: str, replica: str | None, yes: bool) -> None:
    """Fold the totals of one value of a dimension into the value __forgotten__.

    Stop the workers first. Every sum that does not name the dimension stays exact. The rollups, alerts and spans that
    name the value stay until their topics' retention ends, and so do the series in Prometheus.
    """
    from tokentrace.aggregate.dimensions import DimensionRules
    from tokentrace.config import load_config
    from tokentrace.runtime.settings import dimensions_of, layout_of
    from tokentrace.state.records import StateCodec

    config = load_config(config_path)
    values = {value}
    values |= {
        DimensionRules(known).value(value.encode())
        for known in dimensions_of(config)
        if known.name == dimension and known.hash_key and value
    }
    admin, codec = _admin(config_path), StateCodec(layout_of(config))
    replicas = [replica] if replica is not None else [totals.replica for totals in admin.replicas()]
    _confirm(yes, f"The totals of {dimension}={value} will be folded permanently. Continue?")
    folded = {name: admin.forget_value(name, dimension, values, codec) for name in replicas}
    for name, cells in folded.items():
        if cells:
            click.echo(f"Replica {name}: folded {cells:,} totals.")
    if not any(folded.values()):
        click.echo(f"No totals have {dimension}={value}.")
    click.echo(f"Rollups, alerts and spans that name {value!r} stay until the retention of their topics ends.")


def _require_known(by: Sequence[str], config_path: Path, replicas: Sequence[ReplicaTotals]) -> None:
    """Raises click.UsageError for a label that is none, and no dimension that is configured or was ever counted."""
    from tokentrace.config import load_config

    counted = {name for totals in replicas for group, _ in totals.sums for name, _ in group.dimensions}
    known = [*_BY, *sorted(counted.union(load_config(config_path).dimensions))]
    for name in by:
        if name not in known:
            raise click.UsageError(f"--by {name} is not a label; use one of {', '.join(known)}.")


def _set_offsets_forward(admin: StateAdmin, yes: bool) -> None:
    moves = admin.offset_moves()
    if not moves:
        click.echo("The group's offsets are not behind the counted positions.")
        return
    doubts = [f"Partition {partition} {move.doubt}." for partition, move in moves.items() if move.doubt]
    if doubts:
        click.echo("\n".join([*doubts, _RECREATED]), err=True)
        _confirm(yes, "The records that these partitions hold will then not be counted. Continue?")
    admin.move_offsets(moves)
    for partition, move in moves.items():
        click.echo(f"Partition {partition}: offset {move.before} -> {move.to}.")


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
