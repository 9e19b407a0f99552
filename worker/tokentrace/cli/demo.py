"""`tokentrace demo`."""

from __future__ import annotations

import signal
import sys
import time
from collections import deque
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import click

from tokentrace.cli.options import DURATION

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from tokentrace.config import Config
    from tokentrace.exposition.http.listener import Listener
    from tokentrace.tools.demo import Comparison, Demo

#: Preferred port of the endpoint, which the documentation uses.
PORT = 9090


@click.command()
@click.option("--duration", type=DURATION, default="30s", show_default=True, help="Duration of the traffic.")
@click.option("--rate", type=click.IntRange(1, 20_000), default=500, show_default=True, help="Spans per second.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed gives the same traffic.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as a JSON object on stdout.")
def command(duration: float, rate: int, seed: int, as_json: bool) -> int:
    """Run a broker, traffic and a worker in one process, and show the metrics.

    At the end, the command compares the counted values with the produced ones, series by series. The exit code is 1
    if they differ. Ctrl-C ends the traffic early.
    """
    from rich.console import Console

    from tokentrace.runtime import log
    from tokentrace.tools.demo import Demo

    log.set_up("warning", "text")
    # A pipe has no width.
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 120)
    listener = _listen()
    demo = Demo(_config(listener), rate, seed, listener)
    with demo.running():
        _introduce(console, demo)
        _watch(console, demo, duration)
        comparison = demo.finish()
    _conclude(console, comparison)
    if as_json:
        click.echo(comparison.as_json())
    return 0 if comparison.exact else 1


def _config(listener: Listener) -> Config:
    from tokentrace.config import Config

    return Config.model_validate(
        {
            "worker": {"replica_id": "demo", "guarantee": "at_least_once", "commit_interval": "500ms"},
            "http_server": {"addr": f"127.0.0.1:{listener.getsockname()[1]}"},
        }
    )


def _listen() -> Listener:
    """Take the preferred port, or else a free one, before the broker starts: nothing can take it meanwhile."""
    from tokentrace.exposition.http.listener import listen

    try:
        return listen("127.0.0.1", PORT)
    except OSError:
        return listen("127.0.0.1", 0)


def _introduce(console: Console, demo: Demo) -> None:
    console.print("[bold]tokentrace demo[/]: an embedded broker, synthetic traffic, the real worker.")
    console.print("The embedded broker has no real transactions, so this worker counts at least once.\n")
    console.print(f"The endpoint is {demo.url} - try, in another terminal:\n")
    console.print(f"    curl -s {demo.url} | grep tokentrace_cost_total\n", highlight=False, soft_wrap=True)
    console.print(f"or open the live page in a browser: {urljoin(demo.url, '/ui')}\n", highlight=False, soft_wrap=True)


def _watch(console: Console, demo: Demo, duration_s: float) -> None:
    """Show the metrics until the duration ends or Ctrl-C."""
    from rich.live import Live

    from tokentrace.tools import top, top_view

    stopped = False

    def on_signal(*_: Any) -> None:
        nonlocal stopped
        stopped = True

    handlers = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    deadline_s = time.monotonic() + duration_s
    scrapes: deque[top.ReplicaScrape] = deque(maxlen=6)
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None
    printed_s = 0.0

    def view() -> RenderableType:
        earlier = [scrapes[0]] if len(scrapes) > 1 else []
        return top_view.render([scrapes[-1]], earlier, demo.url, console.width)

    try:
        with live or nullcontext():
            while not stopped and (left_s := deadline_s - time.monotonic()) > 0:
                time.sleep(min(left_s, 0.5))
                scrapes.append(demo.scrape())
                if live is not None:
                    live.update(view(), refresh=True)
                elif time.monotonic() - printed_s >= 2.0:
                    printed_s = time.monotonic()
                    console.print(top.summary_line(scrapes[-1]), highlight=False)
        if live is None and scrapes:
            console.print(view())
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _conclude(console: Console, comparison: Comparison) -> None:
    figures = comparison.summary()
    cost = figures["cost_counted_nano_usd"] / 1e9
    console.print(
        f"\nProduced {figures['produced']:,} messages; counted {figures['counted']:,} spans and "
        f"{figures['rejected']:,} rejects, {figures['tokens_counted']:,} tokens, ${cost:,.9f}."
    )
    if comparison.exact:
        console.print("[green bold]Exact:[/] every counter equals what was produced, to the nano-dollar.")
        return
    console.print("[red bold]Not exact:[/] these series differ (produced, counted):")
    for name, (produced, counted) in list(comparison.differences.items())[:20]:
        console.print(f"  {name}: {produced:,} {counted:,}", highlight=False, markup=False)
