"""Write the golden records of 0.1.0.

Run in a checkout of that release, commit 75bf0d7: python make.py FOLDER

`records.json` holds what the release wrote, as (key, value in base64) by topic; `expected.json` what is in it, taken
from the numbers before they were encoded. Neither is ever written again: later releases read them as they are.
"""

from __future__ import annotations

import base64
import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tests.alerts.helpers import FIRST, rule
from tests.engine.helpers import LAYOUT, Rig
from tests.recount import recount
from tests.spanfactory import message, random_span, span
from tokentrace.alerts.journal import entry, rule_record
from tokentrace.ledger import Ledger
from tokentrace.measures import SUMS
from tokentrace.seen import SeenSpans
from tokentrace.snapshot import Folded
from tokentrace.spans import STATUSES
from tokentrace.state.chunks import chunk_key, encode_chunk
from tokentrace.state.codec import Progress, StateCodec, cell_key, folded_key, replica_key

from tokentrace.alerts.evaluation import Event, Instance, Standing
from tokentrace.alerts.payload import alert_record

REPLICA = "tokentrace-0"
Records = list[tuple[str, str]]


def named(row: Any) -> dict[str, Any]:
    return {
        "sums": {name: int(row[column]) for column, name in enumerate(SUMS)},
        "histograms": {
            name: [row[item.buckets].tolist(), int(row[item.sum])]
            for name, item in LAYOUT.histograms.items()
            if row[item.buckets].any()
        },
    }


def record(key: bytes, value: bytes) -> tuple[str, str]:
    return key.decode(), base64.b64encode(value).decode()


def alerts() -> tuple[Records, list[Any]]:
    spend = rule("spend", metric="total_cost", threshold=1.5, window="10m", group_by=["model"],
                 filter={"provider": "open*"}, delivery={"type": "http", "url": "http://hook"})  # fmt: skip
    score = rule("poor", metric="quality_score", op="lt", threshold=0.75, severity="critical")
    at_s = (FIRST + 1) * 60
    standing = Standing(firings=2, fired_at_s=at_s, instances={("gpt-4o",): Instance(True, at_s)})
    fired = alert_record(Event("firing", spend, ("gpt-4o",), at_s, 2.25, 41), "llm", at_s + 1.5, silenced=False)
    over = alert_record(Event("resolved", score, (), at_s + 60, float("nan"), 0), "llm", at_s + 61.25, silenced=True)
    evaluator = {
        "replica": REPLICA, "version": "0.1.0", "at": at_s * 1_000_000 + 7, "heard_at": at_s * 1_000_000,
        "position": 12345, "minute": FIRST, "source_partitions": 2, "reached": {"0": at_s * 1_000_000, "1": 5},
        "late": 3, "clamped": 4, "values": {"spend": 2.25},
    }  # fmt: skip
    entries = [
        ("alert", fired["id"], fired), ("alert", over["id"], over),
        ("delivery", fired["id"], {"outcome": "delivered", "at": at_s * 1_000_000 + 9, "tries": 2}),
        ("rule", "spend", rule_record(spend, standing, 3)),
        ("silence", "poor", {"until": at_s * 1_000_000 + 60, "asked_at": at_s * 1_000_000}),
        ("evaluator", None, evaluator),
    ]  # fmt: skip
    return [record(*entry(*item)) for item in entries], [list(item) for item in entries]


def main(folder: Path) -> None:
    rng = random.Random(1)
    rig = Rig(seen=SeenSpans(3600.0, 1_000_000))
    rig.ledger = Ledger(LAYOUT, rig.groups, 300.0, rig.clock, 600.0, [frozenset({"model", "provider", "caller"})])
    idle = [span(model="retired", provider="lab", caller="old", cost_usd=0.25, latency_ms=7.5, trace_id=f"{i}")
            for i in range(3)]  # fmt: skip
    spans = [random_span(rng) for _ in range(120)]
    codec = StateCodec(LAYOUT)
    state: dict[bytes, bytes | None] = {}
    rollups: Records = []
    rows_of_rollups = []
    chunks: Records = []
    keys_of_chunks = []
    position = 0
    for part in (idle, spans[:80], spans[80:]):
        rig.count([*map(message, part), b"junk"], [0, 1] * (len(part) // 2) + [1] * (len(part) % 2 + 1), position)
        position += len(part) + 1
        totals, changes = rig.ledger.after(rig.delta)
        memory = rig.seen.after(rig.delta)
        ended = rig.ledger.expiry(totals)
        cells_of = lambda cells: [  # noqa: E731
            (rig.groups.groups[rig.groups.cell_group[cell]], int(rig.groups.cell_status[cell])) for cell in cells
        ]
        values = codec.cells(totals.values[changes.cells], totals.created_s[changes.cells])
        for (group, status), value in zip(cells_of(changes.cells), values, strict=True):
            state[cell_key(REPLICA, group, status)] = value
        for group, status in cells_of(ended.gone):
            del state[cell_key(REPLICA, group, status)]
        for key in ended.written:
            state[folded_key(REPLICA, key)] = codec.folded(ended.folded[key])
        state[replica_key(REPLICA)] = codec.replica(REPLICA, "spans", totals)
        rows = rig.delta.by_minute()
        progress = Progress(2, dict(rig.delta.event_times_us), rig.delta.clamped)
        cells = cells_of(rows.cells)
        for value in codec.rollups(REPLICA, totals.committed_at_s, rows.minutes, cells, rows.values, progress):
            rollups.append(record(replica_key(REPLICA), value))
        rows_of_rollups.append({
            "committed_at": round(totals.committed_at_s * 1e6), "source_partitions": 2, "clamped": progress.clamped,
            "reached": {str(partition): at for partition, at in progress.reached_us.items()},
            "rows": [[minute, *group, STATUSES[status], named(row)]
                     for minute, (group, status), row in zip(rows.minutes.tolist(), cells, rows.values, strict=True)],
        })  # fmt: skip
        for chunk in memory.kept:
            chunks.append(record(chunk_key("spans", chunk), encode_chunk(chunk)))
            keys_of_chunks.append([chunk.partition, chunk.position, chunk.piece, chunk.stamp_s, chunk.keys.tolist()])
        rig.ledger.accept(totals, changes, ended)
        rig.seen.accept(memory)
        rig.delta.clear()
        rig.clock.now_s += 700.0
    totals = rig.ledger.totals
    expired = {
        folded_key(REPLICA, key).decode(): {"created_at": round(item.created_s * 1e6), **named(item.values)}
        for key, item in totals.folded.items()
    }
    assert expired
    assert isinstance(next(iter(totals.folded)), Folded)
    groups = rig.groups
    counted = {
        cell_key(REPLICA, groups.groups[groups.cell_group[cell]], int(groups.cell_status[cell])).decode(): {
            "created_at": round(totals.created_s[cell] * 1e6), **named(totals.values[cell])
        }
        for cell in np.flatnonzero(totals.values.any(axis=1)).tolist()
    }  # fmt: skip
    # What was encoded is what an independent recount finds in the spans.
    sums = {name: sum(item["sums"][name] for item in [*counted.values(), *expired.values()]) for name in SUMS}
    found: dict[str, int] = {}
    for (name, _), value in recount([*idle, *spans]).items():
        found[name] = found.get(name, 0) + value
    assert sums["cost_nano_usd"] == found["tokentrace_cost_total"]
    assert sums["prompt_tokens"] + sums["completion_tokens"] == found["tokentrace_tokens_total"]
    assert sums["spans"] == 123
    alert_records, alert_values = alerts()
    records = {
        "state": [record(key, value) for key, value in state.items() if value is not None],
        "rollups": rollups, "seen": chunks, "alerts": alert_records,
        "spans": [record(b"", message(item)) for item in spans[:20]],
    }  # fmt: skip
    expected = {
        "replica": REPLICA, "bounds": {name: item.bounds for name, item in LAYOUT.histograms.items()},
        "cells": counted, "expired": expired, "sums": sums,
        "partitions": {str(key): list(item) for key, item in totals.partitions.items()},
        "positions": {str(key): item for key, item in totals.positions.items()},
        "rejected": dict(totals.rejected),
        "rejected_created_at": {key: round(item * 1e6) for key, item in totals.rejected_created_s.items()},
        "committed_at": round(totals.committed_at_s * 1e6),
        "rollups": rows_of_rollups, "seen": keys_of_chunks, "alerts": alert_values,
        "spans": [[item["model"], item["prompt_tokens"], item["completion_tokens"]] for item in spans[:20]],
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "records.json").write_text(json.dumps(records, indent=0, ensure_ascii=False) + "\n")
    (folder / "expected.json").write_text(json.dumps(expected, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
