"""`tokentrace alerts`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokentrace.cli.options import config_option

if TYPE_CHECKING:
    from tokentrace.alerts.evaluation import AlertTransition
    from tokentrace.config import Config


@click.group()
def command() -> None:
    """Try the built-in alert rules on history, or see where they stand."""


@command.command()
@click.option(
    "--rules",
    "rules_path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("tokentrace.yml"),
    show_default=True,
    help="The configuration with the rules.",
)
@click.option("--from", "source", required=True, help="An Avro file of spans, or the name of a topic.")
@click.option("--json", "as_json", is_flag=True, help="One alert payload a line.")
@click.option("--resolved", is_flag=True, help="Also when alerts would have been over.")
def test(rules_path: Path, source: str, as_json: bool, resolved: bool) -> None:
    """Run the rules over past spans, and print what would have fired, when, and with which value."""
    from tokentrace.alerts.backtest import Backtest
    from tokentrace.alerts.history import from_file, from_topic
    from tokentrace.alerts.payload import alert_record, payload
    from tokentrace.errors import UsageError
    from tokentrace.runtime import log
    from tokentrace.runtime.wiring import kafka_clients, pricer, writer_schemas

    config = _load_with_rules(rules_path)
    log.set_up("warning", "text")
    replay = Backtest(config, pricer(config))
    path = Path(source)
    if path.is_file():
        replay.take(*from_file(path))
    elif path.suffix == ".avro" or "/" in source:
        raise UsageError(f"There is no file {source}.")
    else:
        replay.take(from_topic(kafka_clients(config), source, config.kafka.group_id), writer_schemas(config))
    events = [event for event in replay.events() if resolved or event.status == "firing"]
    for event in events:
        if as_json:
            record = alert_record(event, config.kafka.group_id, time.time(), silenced=False)
            click.echo(json.dumps(payload(record), ensure_ascii=False))
        else:
            click.echo(_transition_line(event))
    counted = f"{replay.spans:,} spans"
    if replay.rejected:
        counted += "; not counted: " + ", ".join(f"{n:,} {reason}" for reason, n in replay.rejected.most_common())
    if replay.left_out:
        counted += f"; left out: {replay.left_out:,} without a time that can be true"
    firings = sum(event.status == "firing" for event in events)
    click.echo(f"{firings:,} firings of {len(config.alerts):,} rules over {counted}.", err=as_json)


@command.command("list")
@config_option
@click.option("--json", "as_json", is_flag=True, help="As GET /alerts answers.")
def list_(config_path: Path, as_json: bool) -> None:
    """Where every rule stands: its state, value and last firing."""
    from tokentrace.alerts.rules import Rule
    from tokentrace.alerts.status import AlertStatus
    from tokentrace.runtime import log
    from tokentrace.runtime.wiring import evaluator_settings, kafka_clients

    config = _load_with_rules(config_path)
    log.set_up("warning", "text")
    told = AlertStatus(
        settings=evaluator_settings(config),
        clients=kafka_clients(config),
        rules=[Rule.of(rule) for rule in config.alerts],
    ).describe()
    if as_json:
        click.echo(json.dumps(told))
        return
    for each in told["alerts"]:
        click.echo(_rule_line(each))
    click.echo(f"Evaluated by {told['evaluator'] or 'nobody yet'}, up to {told['evaluated_until'] or 'no time yet'}.")


def _load_with_rules(path: Path) -> Config:
    """The configuration; one without rules is a mistake here."""
    from tokentrace.config import load_config
    from tokentrace.errors import ConfigError

    config = load_config(path)
    if not config.alerts:
        raise ConfigError([f"alerts: {path} has no rules"])
    return config


def _transition_line(event: AlertTransition) -> str:
    from tokentrace.alerts.payload import moment
    from tokentrace.model.durations import format_duration

    rule = event.rule
    group = "".join(f" {name}={value}" for name, value in zip(rule.selection.group_by, event.labels, strict=True))
    return (
        f"{moment(event.at_s)}  {event.status}  {rule.name}{group}  {rule.metric} = {event.value:.10g} "
        f"({rule.op} {rule.threshold:g} over {format_duration(rule.window * 60.0)}), {event.spans:,} spans"
    )


def _rule_line(each: dict[str, Any]) -> str:
    value = "no value" if each["value"] is None else f"{each['value']:.10g}"
    fired = f"{each['firings']:,} firings, the last at {each['last_fired_at']}" if each["firings"] else "never fired"
    silenced = f"; silenced until {each['silenced_until']}" if each["silenced_until"] else ""
    return (
        f"{each['state']:6}  {each['name']}  {each['metric']} = {value} "
        f"({each['op']} {each['threshold']:g} over {each['window']}); {fired}{silenced}"
    )
