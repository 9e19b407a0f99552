"""`tokentrace worker`."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType

import click

from tokentrace.cli.options import config_option


@click.command()
@config_option
def command(config_path: Path) -> None:
    """Consume spans, count them, and serve the metrics.

    SIGTERM commits, leaves the group, and waits for a scrape of the final values. Ctrl-C does not wait.
    """
    from tokentrace.runtime import process

    process.before_imports()
    from tokentrace.config import load_config
    from tokentrace.runtime import log
    from tokentrace.runtime.service import Service

    config = load_config(config_path)
    log.set_up(config.worker.log_level, config.worker.log_format)
    service = Service(config)

    def on_signal(number: int, _: FrameType | None) -> None:
        service.stop(drain=number == signal.SIGTERM)

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    process.tune_gc()
    service.run()
