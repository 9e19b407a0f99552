"""A process that counts a sample as a worker does: `python -m tests.tools.counting_process CONFIG SAMPLE`.

Counts the sample three times, with a commit of all of it after each, and scrapes twice. Prints by how many bytes the
highest resident size exceeds that of a process which has counted a few spans.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

from tests.harness import peak_rss_bytes, raw_batch
from tests.spanfactory import message, span
from tokentrace.aggregate.delta import Delta
from tokentrace.aggregate.pipeline import Pipeline, StageTimer
from tokentrace.config import Config, load_config
from tokentrace.decode import SpanDecoder
from tokentrace.decode.schemas.store import WriterSchemas
from tokentrace.exposition.render import Renderer
from tokentrace.model.dimensions import decoded_sources
from tokentrace.runtime.allocator import tune_malloc
from tokentrace.runtime.price_rules import pricer
from tokentrace.runtime.settings import dimensions_of, layout_of, series_budget
from tokentrace.runtime.wiring import group_index
from tokentrace.state.keys import cell_key
from tokentrace.state.ledger import Ledger
from tokentrace.state.records import Progress, StateCodec

BATCH = 10_000


def count(config: Config, batches: list[list[bytes]]) -> None:
    """Count, commit and scrape."""
    layout, dimensions = layout_of(config), dimensions_of(config)
    index, delta, codec = group_index(config, series_budget(config, layout)), Delta(layout), StateCodec(layout)
    ledger = Ledger(layout=layout, groups=index, quality_window_s=config.metrics.quality_window)
    engine = Pipeline(
        decoder=SpanDecoder(WriterSchemas(), texts=decoded_sources(dimensions)),
        groups=index,
        pricer=pricer(config),
        layout=layout,
        timer=StageTimer(defaultdict(float)),
    )
    for _ in range(3):
        for values in batches:
            engine.count(raw_batch(values), delta)
        totals, changes = ledger.preview(delta)
        cells = [
            (index.groups[group], status) for group, status in zip(index.cell_group, index.cell_status, strict=True)
        ]
        rows = delta.by_minute()
        keys = [cell_key("replica-0", *cells[cell]) for cell in changes.cells.tolist()]
        state = list(codec.cells(totals.values[changes.cells], totals.created_s[changes.cells]))
        names = [cells[cell] for cell in rows.cells.tolist()]
        rollups = list(codec.rollups("replica-0", 0.0, rows.minutes, names, rows.values, Progress()))
        assert len(keys) == len(state)
        assert rollups
        ledger.apply(totals, changes)
        delta.clear()
        del totals, changes, rows, keys, state, rollups
    renderer = Renderer(config.metrics.labels)
    text = renderer.render(ledger.snapshot, [], "text")
    for _ in range(2):
        text = renderer.render(ledger.snapshot, [], "text")
    assert text


def main(config_path: Path, sample: Path) -> None:
    """Print the memory of the sample's groups."""
    tune_malloc()  # As a worker does.
    config, values = load_config(config_path, {}), [bytes.fromhex(line) for line in sample.read_text().split()]
    batches = [values[first : first + BATCH] for first in range(0, len(values), BATCH)]
    del values
    # All code has run once, over messages of the sample's number.
    count(config, [[message(span())] * BATCH])
    before = peak_rss_bytes()
    count(config, batches)
    print(json.dumps(peak_rss_bytes() - before))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
