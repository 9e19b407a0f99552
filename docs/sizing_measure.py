"""Measure the constants of `docs/sizing.py` on this machine.

Run `python docs/sizing_measure.py`.

Spans by the traffic generator, over as many groups as asked for; the package's own engine, codec and renderer. One
core, no Kafka: what a commit writes is encoded and measured, not sent.
"""

from __future__ import annotations

import gc
import random
import resource
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import numpy as np

from tokentrace.aggregate.delta import Delta
from tokentrace.aggregate.groups import GroupIndex
from tokentrace.aggregate.pipeline import Pipeline, StageTimer
from tokentrace.decode import SpanDecoder
from tokentrace.decode.schemas.store import WriterSchemas
from tokentrace.exposition.render import Renderer
from tokentrace.model.measures import Layout
from tokentrace.model.messages import Envelope, RawBatch
from tokentrace.model.span_encoder import span_message
from tokentrace.model.worker_stats import STAGES
from tokentrace.pricing import Pricer
from tokentrace.state.keys import cell_key
from tokentrace.state.ledger import Ledger
from tokentrace.state.records import Progress, StateCodec, decode_record
from tokentrace.tools.traffic import Traffic

Result = TypeVar("Result")
BATCH, BATCHES = 10_000, 12


def timed(what: Callable[[], Result]) -> tuple[Result, float]:
    """(its result, seconds)."""
    began = time.perf_counter()
    return what(), time.perf_counter() - began


def rss_bytes() -> int:
    gc.collect()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def decode(codec: StateCodec, rollups: list[bytes]) -> None:
    """Read a commit's increments as the alert evaluator does."""
    for rollup in rollups:
        codec.rollup_rows(decode_record(rollup, "rollup"))


def messages(groups: int, count: int) -> list[bytes]:
    """Messages of `count` calls, by a tenth as many models as groups and ten callers each."""
    rng, traffic = random.Random(groups), Traffic(groups)
    models = max(1, groups // 10)
    found = []
    for _ in range(count):
        number = rng.randrange(groups)
        span: dict[str, Any] = traffic.span()
        model = number % models
        labels = {
            "model": f"model-{model}",
            "provider": f"provider-{model % 5}",
            "caller": f"caller-{number // models}",
        }
        found.append(span_message({**span, **labels}))
    return found


def measure(groups: int) -> None:
    """Print the constants with this many groups."""
    sent = messages(groups, BATCH * BATCHES)
    layout, index, seconds = Layout.build(), GroupIndex(1_000_000), dict.fromkeys(STAGES, 0.0)
    delta, ledger = Delta(layout), Ledger(layout=layout, groups=index, quality_window_s=300.0)
    decoder = SpanDecoder(WriterSchemas())
    engine = Pipeline(decoder=decoder, groups=index, pricer=Pricer({}), layout=layout, timer=StageTimer(seconds))
    codec, renderer = StateCodec(layout), Renderer()

    def envelope(row: int) -> Envelope:
        return Envelope("spans", 0, row, None, sent[row], (), 0)

    spent, rows = 0.0, 0
    state_bytes = rollup_bytes = encode_s = decode_s = 0.0
    before = rss_bytes()
    for batch in range(BATCHES):
        values = sent[batch * BATCH : (batch + 1) * BATCH]
        published_ms = (int(time.time() * 1000),) * 2
        raw = RawBatch(
            values,
            np.zeros(BATCH, np.int32),
            {0: (batch + 1) * BATCH},
            envelope,
            {0: published_ms},
            lambda rows: np.full(len(rows), int(time.time() * 1000)),
        )
        _, once = timed(partial(engine.count, raw, delta))
        totals, changes = ledger.preview(delta)
        names = [(index.groups[g], s) for g, s in zip(index.cell_group, index.cell_status, strict=False)]
        minutes = delta.by_minute()
        cells = [names[cell] for cell in minutes.cells.tolist()]

        def encode(
            totals: Any = totals, changes: Any = changes, minutes: Any = minutes, cells: Any = cells, names: Any = names
        ) -> Any:
            keys = [cell_key("tokentrace-0", *names[cell]) for cell in changes.cells.tolist()]
            state = list(codec.cells(totals.values[changes.cells], totals.created_s[changes.cells]))
            rollups = codec.rollups("tokentrace-0", 0.0, minutes.minutes, cells, minutes.values, Progress())
            return keys, state, list(rollups)

        (keys, state, rollups), encoded = timed(encode)
        _, decoded = timed(partial(decode, codec, rollups))
        if batch >= 2:  # the first ones meet every group for the first time
            spent += once
            rows += len(cells)
            encode_s, decode_s = encode_s + encoded, decode_s + decoded
            state_bytes += sum(map(len, keys)) + sum(map(len, state))
            rollup_bytes += sum(map(len, rollups))
        ledger.apply(totals, changes)
        delta.clear()
    text, render_s = timed(lambda: renderer.render(ledger.snapshot, [], "text"))
    series = sum(1 for line in text.splitlines() if not line.startswith(b"#"))
    counted, met = (BATCHES - 2) * BATCH, len(index.groups)
    print(
        f"{groups:6} groups, {rows / (BATCHES - 2):.0f} of {len(ledger.snapshot.values)} cells in a commit of {BATCH}",
        f"{sum(map(len, sent)) / len(sent):.0f} bytes a span, {counted / spent / 1e6:.2f} million spans/s",
        f"state {state_bytes / rows:.0f} and rollup {rollup_bytes / rows:.0f} bytes a cell",
        f"encode {encode_s / rows * 1e6:.1f} us and decode {decode_s / rows * 1e6:.1f} us a cell",
        f"{series / met:.1f} series and {len(text) / met:.0f} bytes of text a group, a scrape {render_s * 1e3:.0f} ms",
        f"{(rss_bytes() - before) / met / 1e3:.1f} kB of memory a group",
        sep="\n         ",
    )


if __name__ == "__main__":
    print(f"{rss_bytes() / 1e6:.0f} MB with nothing counted")
    for groups in (100, 1000, 10_000):
        measure(groups)
