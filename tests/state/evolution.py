"""Writes state with one version of the package, and reads it with another: a program that both run.

python -m tests.state.evolution write < SPANS: counts spans, and prints the records of a commit.
python -m tests.state.evolution read < RECORDS: prints what is in such records.
"""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

import numpy as np

from tests.harness import Harness
from tests.spanfactory import datum, single_object_header
from tokentrace.alerts.rollup_reader import RollupReader
from tokentrace.decode.schemas.files import bundled_schema
from tokentrace.exposition import Renderer
from tokentrace.model.measures import SUMS, Layout
from tokentrace.model.snapshot import Group
from tokentrace.state import StateCodec, cell_key, replica_key
from tokentrace.state.keys import parse_key
from tokentrace.state.records import Progress, replica_headers
from tokentrace.state.schemas import record_schemas, schema_headers

Record = tuple[bytes, bytes, list[tuple[str, bytes]]]
REPLICA = "r0"


def write(spans: list[dict[str, Any]]) -> dict[str, Any]:
    """Count spans; return the records of the commit by topic, and the exposition."""
    harness = Harness()
    schema = bundled_schema("span")
    harness.count([single_object_header(schema) + datum(span, schema) for span in spans])
    rows, groups = harness.delta.by_minute(), harness.groups
    harness.commit()
    totals = harness.ledger.totals
    codec = StateCodec(Layout.build())

    def cell(number: int) -> tuple[Group, int]:
        return groups.groups[groups.cell_group[number]], int(groups.cell_status[number])

    state = [
        (cell_key(REPLICA, *cell(number)), value, [])
        for number, value in enumerate(codec.cells(totals.values, totals.created_s))
    ]
    of_replica = codec.replica(REPLICA, "spans", totals)
    state.append((replica_key(REPLICA), of_replica, replica_headers(of_replica)))
    cells = [cell(number) for number in rows.cells.tolist()]
    rollups = [
        (replica_key(REPLICA), value, schema_headers(value))
        for value in codec.rollups(REPLICA, 5.0, rows.minutes, cells, rows.values, Progress(1, {0: 7}, 0))
    ]
    text = Renderer({}, zero_first=False).render(harness.ledger.snapshot, [], "text").decode()
    return {"state": _packed(state), "rollups": _packed(rollups), "text": text}


def read(document: dict[str, Any]) -> dict[str, Any]:
    """Return the sums by cell and over the rollups, and the headers that a next commit has to carry."""
    layout = Layout.build()
    codec = StateCodec(layout)
    state = _unpacked(document["state"])
    of_replica = next((value, headers) for key, value, headers in state if parse_key(key) == (REPLICA, None))
    record_schemas().learn(of_replica[1])
    codec.require_same_bounds(of_replica[0])
    cells = {key.decode(): _named(codec.cell(value)[0], layout) for key, value, _ in state if value != of_replica[0]}
    reader = RollupReader(layout, np.arange(layout.width), lambda _: 0)
    rows = [reader.read(value, headers).values for _, value, headers in _unpacked(document["rollups"])]
    return {
        "cells": cells,
        "rollups": _named(np.concatenate(rows).sum(axis=0), layout),
        "headers": len(replica_headers(of_replica[0])),
        # What a replica of this version would write next.
        "again": _packed(
            [(key, value, replica_headers(value) if value == of_replica[0] else []) for key, value, _ in state]
        ),
    }


def _named(row: Any, layout: Layout) -> dict[str, Any]:
    named: dict[str, Any] = {name: int(row[layout.column(name)]) for name in SUMS}
    for name, histogram in layout.histograms.items():
        named[f"histogram of {name}"] = [[int(count) for count in row[histogram.buckets]], int(row[histogram.sum])]
    return named


def _packed(records: list[Any]) -> list[Any]:
    def text(data: bytes) -> str:
        return base64.b64encode(data).decode()

    return [
        [text(key), text(value), [[name, text(header)] for name, header in headers]] for key, value, headers in records
    ]


def _unpacked(records: list[Any]) -> list[Record]:
    data = base64.b64decode
    return [
        (data(key), data(value), [(name, data(header)) for name, header in headers]) for key, value, headers in records
    ]


if __name__ == "__main__":
    json.dump({"write": write, "read": read}[sys.argv[1]](json.load(sys.stdin)), sys.stdout)
