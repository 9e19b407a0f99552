"""`tokentrace top`."""

from __future__ import annotations

import time

import click

from tokentrace.cli.options import DURATION


@click.command()
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@click.option("--token", envvar="TOKENTRACE_AUTH_TOKEN", help="Bearer token; or TOKENTRACE_AUTH_TOKEN.")
@click.option("--interval", type=DURATION, default="2s", show_default=True, help="Time between two looks.")
@click.option("--once", is_flag=True, help="Look once (twice, for the rates), print, and end.")
def command(urls: tuple[str, ...], token: str | None, interval: float, once: bool) -> None:
    """Watch the numbers of one or more replicas, summed.

    A URL may be as short as host:port; the path is /metrics/prometheus unless given.
    """
    from concurrent.futures import ThreadPoolExecutor

    from rich.console import Console
    from rich.live import Live

    from tokentrace.tools import top

    console = Console()
    addresses = [top.endpoint(url) for url in urls]
    with ThreadPoolExecutor(min(len(addresses), 16)) as pool:

        def look() -> list[top.Scrape]:
            scrapes = list(pool.map(lambda address: top.scrape(address, token), addresses))
            top.check(scrapes)
            return scrapes

        earlier = look()
        time.sleep(interval)
        if once or not console.is_terminal:
            console.print(top.draw(look(), earlier, width=console.width))
            return
        with Live(console=console, auto_refresh=False, screen=True) as live:
            while True:
                now = look()
                live.update(top.draw(now, earlier, width=console.width), refresh=True)
                earlier = now
                time.sleep(interval)
