"""Past spans for the commands that try rules and budgets on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokentrace.alerts.backtest import Backtest
    from tokentrace.config import Config


def backtest_over(config: Config, source: str) -> Backtest:
    """Count the spans of an Avro file or a topic. Raises UsageError for a file that does not exist."""
    from tokentrace.alerts.history import from_file, from_topic
    from tokentrace.errors import UsageError
    from tokentrace.runtime.schema_sources import writer_schemas
    from tokentrace.runtime.wiring import build_backtest, kafka_clients

    path = Path(source)
    if path.is_file():
        batches, schemas = from_file(path)
    elif path.suffix == ".avro" or "/" in source:
        raise UsageError(f"File not found: {source}. Set --from to an Avro file or a topic.")
    else:
        batches = from_topic(kafka_clients(config), source, config.kafka.group_id)
        schemas = writer_schemas(config)
    backtest = build_backtest(config, schemas)
    backtest.take(batches)
    return backtest


def counted_text(backtest: Backtest) -> str:
    """Return how many spans were counted, and which were not."""
    counted = f"{backtest.spans:,} spans"
    if backtest.rejected:
        counted += "; not counted: " + ", ".join(f"{n:,} {reason}" for reason, n in backtest.rejected.most_common())
    if backtest.left_out:
        counted += f"; ignored: {backtest.left_out:,} without a plausible time"
    if backtest.unpriced:
        counted += f"; {backtest.unpriced:,} of them without a cost or a price, which count as 0 USD"
    return counted
