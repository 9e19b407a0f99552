"""`tokentrace top`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokentrace.cli.options import DURATION, TOKEN_VARIABLES, config_option

if TYPE_CHECKING:
    from rich.console import Console

    from tokentrace.tools.top import ReplicaScrape
    from tokentrace.tools.top_choices import View

#: Longest time between two looks at what was read.
_LOOK_S = 0.2
#: Time without an answer after which the view says so.
_SILENT_S = 5.0

_SORTS = ("cost", "spans", "spans/s", "errors", "p95", "name")


@click.command()
@click.argument("urls", nargs=-1, metavar="[URL...]")
@click.option("--prometheus", default="", metavar="URL", help="Read this Prometheus instead of replicas.")
@click.option(
    "--selector", default="", metavar="MATCHERS", help='With --prometheus: matchers for every query, such as job="a".'
)
@click.option(
    "--kafka", is_flag=True, help="Read the totals that the replicas keep in Kafka, of the group in --config."
)
@config_option
@click.option(
    "--window",
    type=DURATION,
    default="5m",
    show_default=True,
    help="With --prometheus or --kafka: range of the rates.",
)
@click.option("--token", envvar=TOKEN_VARIABLES, help=f"Bearer token; {' or '.join(TOKEN_VARIABLES)} if unset.")
@click.option("--interval", type=DURATION, default="2s", show_default=True, help="Time between scrapes.")
@click.option("--by", default="model", show_default=True, help="Label of the rows: model, provider, caller, ...")
@click.option("--sort", type=click.Choice(_SORTS), default="cost", show_default=True, help="Order of the rows.")
@click.option("--filter", "filter_", default="", help="Only rows whose name has this part, or matches this glob.")
@click.option("--once", is_flag=True, help="Print once and exit; replicas are scraped twice for the rates.")
@click.option("--json", "as_json", is_flag=True, help="With --once: print one JSON object.")
def command(
    urls: tuple[str, ...],
    prometheus: str,
    selector: str,
    kafka: bool,
    config_path: Path,
    window: float,
    token: str | None,
    interval: float,
    by: str,
    sort: str,
    filter_: str,
    once: bool,
    as_json: bool,
) -> None:
    """Watch the metrics of replicas, summed: from them, from the Prometheus that scrapes them, or from Kafka.

    A URL may be as short as host:port; the default path of a replica is /metrics/prometheus. A Prometheus with a login
    takes TOKENTRACE_PROMETHEUS_TOKEN, or TOKENTRACE_PROMETHEUS_USER and TOKENTRACE_PROMETHEUS_PASSWORD, from the
    environment.

    --kafka reaches no replica: its totals are all-time, also of replicas that are stopped or gone. What Kafka does not
    tell is shown as -, with the reason.

    Keys: b changes the rows, s the order, r reverses it, / filters, space pauses, arrows scroll, q quits.
    """
    from rich.console import Console

    from tokentrace.errors import UsageError
    from tokentrace.tools import top, top_prometheus, top_rows, top_view
    from tokentrace.tools.prometheus_api import PrometheusApi
    from tokentrace.tools.top_choices import View

    if bool(urls) + bool(prometheus) + kafka != 1:
        raise UsageError("top takes the URL of one or more replicas, or --prometheus URL, or --kafka: one of these.")
    if as_json and not once:
        raise UsageError("--json requires --once.")
    console = Console()
    metrics_urls = [top.metrics_url(url) for url in urls]
    view = View(by=by, sort=sort, filter=filter_)
    api = PrometheusApi.at(prometheus, os.environ) if prometheus else None
    watch = not once and console.is_terminal
    of_kafka = _kafka_reader(config_path, window, quiet=watch) if kafka else None
    if watch:
        read = of_kafka or (
            partial(top_prometheus.read, api, window, selector)
            if api
            else partial(top.scrape_each, metrics_urls, token)
        )
        _watch(console, read, interval, view)
        return
    earlier: list[ReplicaScrape] = []
    if of_kafka:
        latest = of_kafka()
    elif api:
        latest = top_prometheus.read_once(api, window, selector)
    else:
        earlier = top.scrape_all(metrics_urls, token)
        time.sleep(interval)
        latest = top.scrape_all(metrics_urls, token)
    labels = top_rows.row_labels(top.Totals(latest))
    if by != "model" and by not in labels:
        raise UsageError(f"No metric has the label {by!r}; --by takes one of {', '.join(labels)}.")
    if as_json:
        click.echo(json.dumps(top_view.as_json(latest, earlier, view)))
        return
    console.print(top_view.render(latest, earlier, width=console.width, view=view))


def _kafka_reader(config_path: Path, window_s: float, *, quiet: bool) -> Callable[[], list[ReplicaScrape]]:
    """Return what reads the figures from Kafka. quiet: log nothing, since a view fills the terminal."""
    from contextlib import closing

    from tokentrace.config import load_config

    config = load_config(config_path)
    if sys.stderr.isatty():
        click.echo(f"Reading group {config.kafka.group_id} at {config.kafka.bootstrap_servers} ...", err=True)
    from tokentrace.kafka.probe import ClusterProbe
    from tokentrace.runtime import log
    from tokentrace.runtime.wiring import kafka_clients
    from tokentrace.tools.top_kafka import KafkaFigures

    log.set_up("critical" if quiet else "warning", "text")
    clients = kafka_clients(config)
    # A reader would wait for brokers that may be about to start.
    with closing(ClusterProbe(clients, config.kafka.group_id)) as probe:
        probe.brokers()
    return KafkaFigures(config, clients, window_s).read


def _watch(console: Console, read: Callable[[], list[ReplicaScrape]], interval_s: float, view: View) -> None:
    """Show the view until q. A replica that does not answer is a line in it, also where none does."""
    from rich.live import Live

    from tokentrace.cli.keys import read_keys, single_keys
    from tokentrace.tools import top, top_rows, top_view
    from tokentrace.tools.top_reading import BackgroundReading

    latest = earlier = read()
    reading = BackgroundReading(read, interval_s)
    with single_keys(), Live(console=console, auto_refresh=False, screen=True) as live:
        while not view.done:
            live.update(
                top_view.render(latest, earlier, _title(view, reading.waiting_s), console.width, console.height, view),
                refresh=True,
            )
            labels = top_rows.row_labels(top.Totals(latest))
            for key in read_keys(_LOOK_S):
                view.press(key, labels, page=max(console.height - 8, 1))
            found = reading.take()
            if found is not None and not view.paused:
                earlier, latest = latest, found
                view.note(top_rows.rows_of(top.Totals(latest), top.Rates(latest, earlier), view.by))


def _title(view: View, waiting_s: float) -> str:
    order = f"{view.sort}{' reversed' if view.reverse else ''}"
    filter_ = f" · filter {view.filter}{'_' if view.entering else ''}" if view.filter or view.entering else ""
    silent = f" · NO ANSWER for {waiting_s:.0f} s" if waiting_s >= _SILENT_S else ""
    return f"tokentrace · by {view.by} · sort {order}{filter_}{' · PAUSED' if view.paused else ''}{silent}"
