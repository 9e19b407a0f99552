"""`tokentrace top`."""

from __future__ import annotations

import time

import click

from tokentrace.cli.options import DURATION, TOKEN_VARIABLES


@click.command()
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@click.option("--token", envvar=TOKEN_VARIABLES, help=f"Bearer token; {' or '.join(TOKEN_VARIABLES)} if unset.")
@click.option("--interval", type=DURATION, default="2s", show_default=True, help="Time between scrapes.")
@click.option("--once", is_flag=True, help="Print once and exit, after two scrapes for the rates.")
def command(urls: tuple[str, ...], token: str | None, interval: float, once: bool) -> None:
    """Watch the metrics of one or more replicas, summed.

    A URL may be as short as host:port; the default path is /metrics/prometheus.
    """
    from rich.console import Console
    from rich.live import Live

    from tokentrace.tools import top

    console = Console()
    metrics_urls = [top.metrics_url(url) for url in urls]
    earlier = top.scrape_all(metrics_urls, token)
    time.sleep(interval)
    if once or not console.is_terminal:
        console.print(top.render(top.scrape_all(metrics_urls, token), earlier, width=console.width))
        return
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            latest = top.scrape_all(metrics_urls, token)
            live.update(top.render(latest, earlier, width=console.width), refresh=True)
            earlier = latest
            time.sleep(interval)
