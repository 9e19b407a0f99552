"""`tokentrace assets`."""

from __future__ import annotations

from pathlib import Path

import click

from tokentrace.cli.options import FullSummaries


@click.group(cls=FullSummaries)
def command() -> None:
    """List or export the files that ship with tokentrace."""


@command.command("list")
def list_() -> None:
    """List the files: configuration, schemas, Prometheus rules, dashboards, manifests."""
    from tokentrace.tools.assets import assets

    for path, content in assets().items():
        click.echo(f"{len(content):>9,}  {path}")


@command.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--only", multiple=True, metavar="PREFIX", help="Only files whose path begins so, such as deploy/prometheus."
)
@click.option("--runbook-url", help="Address of your copy of the runbook, for the annotations of the rules.")
@click.option(
    "--fleet-labels",
    metavar="A,B",
    help="Labels that tell fleets apart in rules and dashboards: job,namespace unless given.",
)
@click.option("--selector", default="", metavar="MATCHERS", help='Matchers for every query, such as cluster="eu".')
@click.option("--force", is_flag=True, help="Replace files that differ.")
def export(
    folder: Path, only: tuple[str, ...], runbook_url: str | None, fleet_labels: str | None, selector: str, force: bool
) -> None:
    """Write the configuration, schemas, Prometheus rules, dashboards and manifests into a folder."""
    from tokentrace.errors import UsageError
    from tokentrace.tools.assets import assets, with_runbook, write
    from tokentrace.tools.mixin import SHIPPED_FLEET, Mixin

    files = assets(only or ("",))
    if not files:
        raise UsageError(f"No file begins with {' or '.join(only)}; `tokentrace assets list` names them.")
    if runbook_url:
        files = with_runbook(files, runbook_url)
    files = Mixin.of(fleet_labels or ",".join(SHIPPED_FLEET), selector).apply(files)
    written = write(folder, files, replace=force)
    click.echo(f"Wrote {len(written):,} files to {folder}.")
