"""`tokentrace budgets`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokentrace.cli.options import FullSummaries, config_option, file_option, source_option
from tokentrace.cli.output import echo

if TYPE_CHECKING:
    from tokentrace.budgets.budget import BudgetFiring
    from tokentrace.config import Config


@click.group(cls=FullSummaries)
def command() -> None:
    """Show what is spent of the budgets, or try budgets on past spans."""


@command.command("list")
@config_option
@click.option("--all", "all_periods", is_flag=True, help="Also show periods that are over.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdicts, one a line.")
def list_(config_path: Path, all_periods: bool, as_json: bool) -> None:
    """Show the verdict on every budget and group, from the topic that gateways read."""
    from rich.console import Console

    from tokentrace.budgets.records import goes_on
    from tokentrace.budgets.store import BudgetStore
    from tokentrace.kafka.reader import TopicReader
    from tokentrace.runtime import log
    from tokentrace.runtime.wiring import kafka_clients
    from tokentrace.tools.budget_table import in_order, table

    config = _load_with_budgets(config_path)
    log.set_up("warning", "text")
    clients, topic, group_id = kafka_clients(config), config.kafka.budgets_topic, config.kafka.group_id
    there = TopicReader(clients, topic, group_id).exists()
    store = BudgetStore.read(clients, topic, group_id) if there else BudgetStore()
    now_s = time.time()
    verdicts = [
        verdict
        for section in config.budgets
        for verdict in in_order(store.verdicts.get(section.name, {}).values())
        if all_periods or goes_on(verdict, now_s)
    ]
    if as_json:
        for verdict in verdicts:
            click.echo(json.dumps(verdict, ensure_ascii=False))
    elif verdicts:
        Console().print(table(verdicts))
    if not verdicts:
        click.echo("No verdicts yet: nothing was spent, or no worker with these budgets has run.", err=as_json)


@command.command()
@file_option("--budgets", "budgets_path", "Configuration file with the budgets.")
@source_option
@click.option("--json", "as_json", is_flag=True, help="Print one alert payload per line.")
def test(budgets_path: Path, source: str, as_json: bool) -> None:
    """Sum past spans up. Prints the thresholds that would have been reached, with time and sum."""
    from tokentrace.alerts.payload import budget_alert_record, payload
    from tokentrace.cli.backtest import backtest_over, counted_text
    from tokentrace.runtime import log

    config = _load_with_budgets(budgets_path)
    log.set_up("warning", "text")
    backtest = backtest_over(config, source)
    firings = sorted(backtest.budget_firings(), key=lambda firing: firing.at_s)
    for firing in firings:
        if as_json:
            record = budget_alert_record(firing, config.kafka.group_id, time.time(), silenced=False)
            click.echo(json.dumps(payload(record)))
        else:
            echo(_line(firing))
    reached, counted = f"{len(firings):,} thresholds reached", counted_text(backtest)
    click.echo(f"{reached} of {len(config.budgets):,} budgets over {counted}.", err=as_json)


def _line(firing: BudgetFiring) -> str:
    from tokentrace.alerts.payload import group_text, moment
    from tokentrace.budgets.budget import group_of, usd

    budget, spent, limit = firing.budget, usd(firing.spent_nano_usd), usd(firing.limit_nano_usd)
    group = group_text(group_of(budget.group_by, firing.labels))
    return (
        f"{moment(firing.at_s)}  {budget.name}{group}  {firing.period.name}: {firing.percent} %, {spent} of {limit} USD"
    )


def _load_with_budgets(path: Path) -> Config:
    """Load the configuration. Raises ConfigError if it has no budgets."""
    from tokentrace.config import load_config
    from tokentrace.errors import ConfigError

    config = load_config(path)
    if not config.budgets:
        raise ConfigError(
            [f"budgets: {path} has no budgets; add some, such as the one in its comments (docs/budgets.md)"]
        )
    return config
