"""`tokentrace top`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import click

from tokentrace.cli.options import DURATION, TOKEN_VARIABLES

if TYPE_CHECKING:
    from rich.console import Console

    from tokentrace.tools.top import ReplicaScrape
    from tokentrace.tools.top_choices import View

_SORTS = ("cost", "spans", "spans/s", "errors", "p95", "name")


@click.command()
@click.argument("urls", nargs=-1, metavar="[URL...]")
@click.option("--prometheus", default="", metavar="URL", help="Read this Prometheus instead of replicas.")
@click.option(
    "--selector", default="", metavar="MATCHERS", help='With --prometheus: matchers for every query, such as job="a".'
)
@click.option("--window", type=DURATION, default="5m", show_default=True, help="With --prometheus: range of the rates.")
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
    window: float,
    token: str | None,
    interval: float,
    by: str,
    sort: str,
    filter_: str,
    once: bool,
    as_json: bool,
) -> None:
    """Watch the metrics of one or more replicas, summed: from the replicas, or from the Prometheus that scrapes them.

    A URL may be as short as host:port; the default path of a replica is /metrics/prometheus. A Prometheus with a login
    takes TOKENTRACE_PROMETHEUS_TOKEN, or TOKENTRACE_PROMETHEUS_USER and TOKENTRACE_PROMETHEUS_PASSWORD, from the
    environment.

    Keys: b changes the rows, s the order, r reverses it, / filters, space pauses, arrows scroll, q quits.
    """
    from rich.console import Console

    from tokentrace.errors import UsageError
    from tokentrace.tools import top, top_prometheus, top_rows, top_view
    from tokentrace.tools.prometheus_api import PrometheusApi
    from tokentrace.tools.top_choices import View

    if bool(urls) == bool(prometheus):
        raise UsageError("top takes the URL of one or more replicas, or --prometheus URL: one of the two.")
    if as_json and not once:
        raise UsageError("--json requires --once.")
    console = Console()
    metrics_urls = [top.metrics_url(url) for url in urls]
    view = View(by=by, sort=sort, filter=filter_)
    api = PrometheusApi.at(prometheus, os.environ) if prometheus else None
    if not once and console.is_terminal:
        read = (
            partial(top_prometheus.read, api, window, selector)
            if api
            else partial(top.scrape_each, metrics_urls, token)
        )
        _watch(console, read, interval, view)
        return
    if api:
        earlier, latest = [], top_prometheus.read_once(api, window, selector)
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


def _watch(console: Console, read: Callable[[], list[ReplicaScrape]], interval_s: float, view: View) -> None:
    """Show the view until q. A replica that does not answer is a line in it, also where none does."""
    from rich.live import Live

    from tokentrace.cli.keys import read_keys, single_keys
    from tokentrace.tools import top, top_rows, top_view

    latest = earlier = read()
    scrape_at_s = time.monotonic() + interval_s
    with single_keys(), Live(console=console, auto_refresh=False, screen=True) as live:
        while not view.done:
            live.update(
                top_view.render(latest, earlier, _title(view), console.width, console.height, view), refresh=True
            )
            labels = top_rows.row_labels(top.Totals(latest))
            for key in read_keys(max(scrape_at_s - time.monotonic(), 0.0)):
                view.press(key, labels, page=max(console.height - 8, 1))
            if time.monotonic() >= scrape_at_s:
                scrape_at_s = time.monotonic() + interval_s
                if not view.paused:
                    earlier, latest = latest, read()
                    view.note(top_rows.rows_of(top.Totals(latest), top.Rates(latest, earlier), view.by))


def _title(view: View) -> str:
    order = f"{view.sort}{' reversed' if view.reverse else ''}"
    filter_ = f" · filter {view.filter}{'_' if view.entering else ''}" if view.filter or view.entering else ""
    return f"tokentrace · by {view.by} · sort {order}{filter_}{' · PAUSED' if view.paused else ''}"
