"""`tokentrace reconcile`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokentrace.cli.options import config_option
from tokentrace.cli.output import echo, writing

if TYPE_CHECKING:
    from tokentrace.ledger.reconcile import Comparison

_PROVIDERS = ("openai", "anthropic", "csv")


@click.command()
@config_option
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--provider", required=True, type=click.Choice(_PROVIDERS), help="Whose export the file is.")
@click.option("--of", "glob", help="Glob over the ledger's providers; --provider unless set, and any for csv.")
@click.option("--zone", default="UTC", show_default=True, help="Time zone of a CSV's days, such as Asia/Kolkata.")
@click.option("--tolerance", default="0.01", show_default=True, help="Difference of costs that is none, in USD.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--metrics",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write the drift to, for the textfile collector of Prometheus' node exporter.",
)
def command(
    config_path: Path,
    file: Path,
    provider: str,
    glob: str | None,
    zone: str,
    tolerance: str,
    as_json: bool,
    metrics: Path | None,
) -> None:
    """Compare a provider's usage or cost export with the ledger, by day and model.

    Exit code 1 means that something does not match.
    """
    from tokentrace.cli.ledger import load, open_ledger

    try:
        tolerance_usd = Decimal(tolerance)
    except ArithmeticError:
        tolerance_usd = Decimal("nan")
    if not tolerance_usd.is_finite() or tolerance_usd < 0:
        raise click.UsageError("--tolerance is not an amount in USD, such as 0.05.")
    if zone != "UTC" and provider != "csv":
        raise click.UsageError(f"--zone is for --provider csv: the exports of {provider} have days of UTC.")
    database = open_ledger(load(config_path), config_path)
    from tokentrace.ledger.exports import nano_usd, read_export
    from tokentrace.ledger.period import find_zone
    from tokentrace.ledger.reconcile import compare, exported, ledger_days

    export = exported(read_export(provider, file))
    of = glob or ("*" if provider == "csv" else provider)
    ledger = ledger_days(database, {day for day, _ in export}, of, find_zone(zone))
    found = compare(export, ledger, nano_usd(tolerance_usd))
    counts = Counter(one.verdict for one in found)
    if metrics is not None:
        _write_metrics(metrics, provider, found)
    if as_json:
        click.echo(json.dumps({"counts": dict(counts), "rows": [_as_json(one) for one in found]}))
    else:
        click.echo("Figures are the export's : the ledger's.")
        for one in found:
            echo(_line(one))
        click.echo(", ".join(f"{number:,} {verdict}" for verdict, number in counts.most_common()) + ".")
    if set(counts) - {"matched"}:
        sys.exit(1)


def _as_json(one: Comparison) -> dict[str, object]:
    return {
        "day": one.day, "model": one.model, "verdict": one.verdict, "reason": one.reason,
        "export": dict(one.export), "ledger": dict(one.ledger), "drift_nano_usd": one.drift_nano_usd,
    }  # fmt: skip


def _line(one: Comparison) -> str:
    from tokentrace.ledger.formats import usd

    parts = []
    for name in one.export or one.ledger:
        if name == "unpriced":
            continue
        values = [amounts.get(name, 0) for amounts in (one.export, one.ledger)]
        texts = [usd(value) if name == "cost_nano_usd" else f"{value:,}" for value in values]
        parts.append(f"{name.replace('_nano_usd', ' USD').replace('_', ' ')} {texts[0]} : {texts[1]}")
    reason = f" ({one.reason})" if one.reason else ""
    return f"{one.day}  {one.verdict:9}  {one.model or 'no model'}: {', '.join(parts)}{reason}"


def _write_metrics(path: Path, provider: str, found: Sequence[Comparison]) -> None:
    from tokentrace.ledger.formats import usd

    drift = sum(abs(one.drift_nano_usd) for one in found)
    open_ = sum(one.verdict != "matched" for one in found)
    lines = [
        "# HELP tokentrace_reconcile_drift_usd Costs of days and models that differ from the provider's, without sign.",
        "# TYPE tokentrace_reconcile_drift_usd gauge",
        f'tokentrace_reconcile_drift_usd{{provider="{provider}"}} {usd(drift)}',
        "# HELP tokentrace_reconcile_differences Days and models that do not match the provider's export.",
        "# TYPE tokentrace_reconcile_differences gauge",
        f'tokentrace_reconcile_differences{{provider="{provider}"}} {open_}',
    ]
    # The collector may read at any moment.
    written = path.with_name(f"{path.name}.tmp")
    with writing(path):
        written.write_text("\n".join(lines) + "\n")
        written.replace(path)
