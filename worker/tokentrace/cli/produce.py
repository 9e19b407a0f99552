"""`tokentrace produce`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import click

from tokentrace.cli.options import config_option


@click.command()
@config_option
@click.option("--rate", type=click.IntRange(0), default=100, show_default=True, help="Spans per second; 0: no limit.")
@click.option("--count", type=click.IntRange(1), help="Number of spans; until Ctrl-C if unset.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same spans.")
def command(config_path: Path, rate: int, count: int | None, seed: int) -> None:
    """Publish realistic synthetic spans to kafka.topic."""
    import threading

    from tokentrace.config import load_config
    from tokentrace.runtime import log
    from tokentrace.runtime.wiring import kafka_clients
    from tokentrace.tools.produce import produce

    config = load_config(config_path)
    log.set_up("warning", "text")
    stopping = threading.Event()

    def on_signal(*_: Any) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    done = produce(kafka_clients(config), config.kafka.topic, rate, count, seed, stopping.is_set)
    click.echo(
        f"Produced {done.spans:,} spans to {config.kafka.topic} in {done.seconds:.1f} s "
        f"({done.spans / max(done.seconds, 1e-9):,.0f} per second)."
    )
