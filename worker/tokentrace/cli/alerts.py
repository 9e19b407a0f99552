"""`tokentrace alerts`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokentrace.cli.options import FullSummaries, config_option, file_option, source_option
from tokentrace.cli.output import echo

if TYPE_CHECKING:
    from tokentrace.alerts.evaluation import AlertTransition
    from tokentrace.config import Config


@click.group(cls=FullSummaries)
def command() -> None:
    """Backtest the built-in alert rules, or show their state."""


@command.command()
@file_option("--rules", "rules_path", "Configuration file with the rules.")
@source_option
@click.option("--json", "as_json", is_flag=True, help="Print one alert payload per line.")
@click.option("--resolved", is_flag=True, help="Also print when alerts would have been resolved.")
def test(rules_path: Path, source: str, as_json: bool, resolved: bool) -> None:
    """Run the rules over past spans. Prints the alerts that would have fired, with time and value."""
    from tokentrace.alerts.payload import alert_record, payload
    from tokentrace.cli.backtest import backtest_over, counted_text
    from tokentrace.runtime import log

    config = _load_with_rules(rules_path)
    log.set_up("warning", "text")
    backtest = backtest_over(config, source)
    events = [event for event in backtest.events() if resolved or event.status == "firing"]
    for event in events:
        if as_json:
            record = alert_record(event, config.kafka.group_id, time.time(), silenced=False)
            click.echo(json.dumps(payload(record)))
        else:
            echo(_transition_line(event))
    counted = counted_text(backtest)
    firings = sum(event.status == "firing" for event in events)
    click.echo(f"{firings:,} firings of {len(config.alerts):,} rules over {counted}.", err=as_json)


@command.command("list")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print the JSON of GET /alerts.")
def list_(config_path: Path, as_json: bool) -> None:
    """Show the state, value and last firing of every rule, and the groups that fire."""
    from tokentrace.alerts.payload import group_text
    from tokentrace.alerts.rules import Rule
    from tokentrace.alerts.status import AlertStatus
    from tokentrace.errors import UsageError
    from tokentrace.kafka.reader import TopicReader
    from tokentrace.runtime import log
    from tokentrace.runtime.alerting import evaluator_settings
    from tokentrace.runtime.wiring import kafka_clients

    config = _load_with_rules(config_path)
    log.set_up("warning", "text")
    clients, topic = kafka_clients(config), config.kafka.alerts_topic
    if not TopicReader(clients, topic, config.kafka.group_id).exists():
        raise UsageError(f"Topic {topic!r} does not exist; a worker with alert rules creates it when it starts.")
    status = AlertStatus(
        settings=evaluator_settings(config),
        clients=clients,
        rules=[Rule.of(rule) for rule in config.alerts],
    ).describe()
    if as_json:
        click.echo(json.dumps(status))
        return
    for rule in status["alerts"]:
        echo(_rule_line(rule))
        for instance in rule["instances"]:
            if instance["group"]:
                echo(f"        {group_text(instance['group']).strip()}: firing since {instance['fired_at']}")
    click.echo(
        f"Evaluated by {status['evaluator'] or 'nobody yet'}, up to {status['evaluated_until'] or 'no time yet'}."
    )


def _load_with_rules(path: Path) -> Config:
    """Load the configuration. Raises ConfigError if it has no alert rules."""
    from tokentrace.config import load_config
    from tokentrace.errors import ConfigError

    config = load_config(path)
    if not config.alerts:
        raise ConfigError([f"alerts: {path} has no rules; add some, such as those in its comments (docs/alerts.md)"])
    return config


def _transition_line(event: AlertTransition) -> str:
    from tokentrace.alerts.payload import group_text, moment
    from tokentrace.model.durations import format_duration

    rule = event.rule
    group = group_text(dict(zip(rule.selection.group_by, event.labels, strict=True)))
    return (
        f"{moment(event.at_s)}  {event.status}  {rule.name}{group}  {rule.metric} = {event.value:.10g} "
        f"({rule.op} {rule.threshold:g} over {format_duration(rule.window * 60.0)}), {event.spans:,} spans"
    )


def _rule_line(rule: dict[str, Any]) -> str:
    value = "no value" if rule["value"] is None else f"{rule['value']:.10g}"
    fired = f"{rule['firings']:,} firings, the last at {rule['last_fired_at']}" if rule["firings"] else "never fired"
    silenced = f"; silenced until {rule['silenced_until']}" if rule["silenced_until"] else ""
    return (
        f"{rule['state']:6}  {rule['name']}  {rule['metric']} = {value} "
        f"({rule['op']} {rule['threshold']:g} over {rule['window']}); {fired}{silenced}"
    )
