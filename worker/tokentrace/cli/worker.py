"""`tokentrace worker`."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import click

from tokentrace.cli.options import config_option


@click.command()
@config_option
def command(config_path: Path) -> None:
    """Consume spans, count them, and serve the metrics.

    SIGTERM commits, leaves the group, and waits for a scrape of the final values. Ctrl-C does not wait.
    """
    # First: each thread inherits the mask. A signal's own handler would wait for the end of whatever call the main
    # thread is in, and the Kafka library's can take long.
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    from tokentrace.runtime import process

    process.before_imports()
    from tokentrace.config import load_config
    from tokentrace.runtime import log
    from tokentrace.runtime.service import Service

    config = load_config(config_path)
    log.set_up(config.worker.log_level, config.worker.log_format)
    service = Service(config)

    def await_signals() -> None:
        while True:
            service.stop(drain=signal.sigwait(signals) == signal.SIGTERM)

    threading.Thread(target=await_signals, name="signals", daemon=True).start()
    process.tune_gc()
    service.run()
