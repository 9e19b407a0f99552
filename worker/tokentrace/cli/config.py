"""`tokentrace config check` and `tokentrace config schema`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokentrace.cli.options import FullSummaries, config_option
from tokentrace.cli.output import echo

if TYPE_CHECKING:
    from tokentrace.config.reading import Reading


@click.group(cls=FullSummaries)
def command() -> None:
    """Check the configuration, or print its JSON Schema."""


@command.command()
@config_option
@click.option("--print", "print_", is_flag=True, help="Print the effective configuration; secrets are hidden.")
@click.option("--connect", is_flag=True, help="Also try the brokers, topics, rights, registry and webhooks.")
@click.option("--estimate", is_flag=True, help="Also read the last spans of the topic, and print what they come to.")
@click.option("--spans", default=100_000, type=click.IntRange(1), help="Spans to read for --estimate.")
def check(config_path: Path, print_: bool, connect: bool, estimate: bool, spans: int) -> None:
    """Check the configuration, and print what a worker would do with it.

    --connect changes nothing: it creates no topic and sends no alert.
    """
    from tokentrace.config.reading import read_config
    from tokentrace.errors import ConfigError
    from tokentrace.tools.config_check import every_problem
    from tokentrace.tools.config_warnings import warnings

    reading = read_config(config_path)
    # The effective configuration can be printed where its files are not.
    problems = reading.problems if print_ else every_problem(reading)
    for warning in () if print_ else warnings(reading):
        echo(f"tokentrace: {config_path}: warning: {warning.text(config_path)}", err=True)
    if problems:
        raise ConfigError([problem.text(config_path) for problem in problems], str(config_path))
    config = reading.config
    if print_:
        import yaml

        click.echo(
            yaml.safe_dump(config.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True), nl=False
        )
        return
    if connect:
        _connect(reading)
    kafka, http = config.kafka, config.http_server
    where = f"{http.addr}{http.prometheus_path}" if http.enabled else "nowhere (http_server.enabled is false)"
    click.echo(
        f"{config_path}: OK. Replica {config.worker.replica_id} reads {kafka.topic} at {kafka.bootstrap_servers} in "
        f"group {kafka.group_id}, {config.worker.guarantee.replace('_', '-')}, and serves its metrics at {where}."
    )
    if estimate:
        from tokentrace.alerts.history import from_topic
        from tokentrace.runtime import log
        from tokentrace.runtime.schema_sources import writer_schemas
        from tokentrace.runtime.wiring import kafka_clients
        from tokentrace.tools.estimate import estimate as estimated
        from tokentrace.tools.estimate import lines_of

        log.set_up("error", "text")
        batches = from_topic(kafka_clients(config), kafka.topic, kafka.group_id, spans)
        click.echo("\n".join(lines_of(estimated(config, batches, writer_schemas(config)), config)))


def _connect(reading: Reading) -> None:
    """Try what the configuration names. Raises CheckFailed with every problem."""
    from tokentrace.errors import CheckFailed
    from tokentrace.runtime import log
    from tokentrace.tools.config_connect import try_out

    log.set_up("error", "text")
    problems = []
    for finding in try_out(reading.config):
        text = reading.problem(finding.path, finding.what).text(reading.path)
        if finding.good:
            echo(f"ok       {text}")
        else:
            echo(f"problem  {text}")
            problems.append(text)
    if problems:
        raise CheckFailed([f"{len(problems)} of the things that the configuration names cannot be used."])


@command.command()
def schema() -> None:
    """Print the JSON Schema of tokentrace.yml."""
    from tokentrace.config.docs import json_schema

    click.echo(json_schema(), nl=False)
