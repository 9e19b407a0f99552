"""Records of every release are readable, with equal totals."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from tests.golden import RELEASES, golden
from tokentrace.alerts.rollup_reader import RollupReader
from tokentrace.alerts.store import AlertStore, parse_key
from tokentrace.decode import SpanDecoder
from tokentrace.decode.schemas.files import fingerprint_of, released_schemas
from tokentrace.decode.schemas.store import WriterSchemas
from tokentrace.model.measures import SUMS, Layout
from tokentrace.model.snapshot import Group
from tokentrace.model.spans import STATUSES
from tokentrace.state.dedup_records import _parse_key, decode_dedup_chunk
from tokentrace.state.keys import parse_key as parse_state_key
from tokentrace.state.records import StateCodec
from tokentrace.state.schemas import RECORDS

pytestmark = pytest.mark.parametrize("release", RELEASES)

Row = dict[str, Any]


def layout_of(expected: Any) -> Layout:
    """With the bounds that the release counted with; histograms that came later have today's."""
    return Layout.build({name: tuple(bounds) for name, bounds in expected["bounds"].items()})


def named(row: Any, layout: Layout) -> Row:
    return {
        "sums": {name: int(row[layout.column(name)]) for name in SUMS},
        "histograms": {
            name: [list(map(int, row[histogram.buckets])), int(row[histogram.sum])]
            for name, histogram in layout.histograms.items()
            if any(row[histogram.buckets])
        },
    }


def with_later_sums(row: Row) -> Row:
    """A sum that came after the release is 0 in what it wrote."""
    return {**row, "sums": {**dict.fromkeys(SUMS, 0), **row["sums"]}}


def test_state_codec_reads_the_totals_of_a_release(release: str) -> None:
    records, expected = golden(release)
    layout = layout_of(expected)
    codec = StateCodec(layout)
    state = dict(records["state"])
    replica_record = next(value for key, value in state.items() if parse_state_key(key) == (expected["replica"], None))
    found = {}
    for key, value in state.items():
        if value != replica_record:
            row, created_s = codec.cell(value)
            found[key.decode()] = {"created_at": round(created_s * 1e6), **named(row, layout)}
    written = {**expected["cells"], **expected["expired"]}
    assert found == {key: with_later_sums(row) for key, row in written.items()}
    summed = Counter[str]()
    for row in found.values():
        summed.update(row["sums"])
    assert {name: summed[name] for name in expected["sums"]} == expected["sums"]
    nothing = np.zeros((0, layout.width), np.int64)
    totals = codec.totals(replica_record, nothing, np.zeros(0), np.zeros(0), "spans")
    assert {str(key): list(audit[:4]) for key, audit in totals.partitions.items()} == expected["partitions"]
    assert {str(key): offset for key, offset in totals.positions.items()} == expected["positions"]
    assert totals.rejected == expected["rejected"]
    created = {reason: round(at_s * 1e6) for reason, at_s in totals.rejected_created_s.items()}
    assert created == expected["rejected_created_at"]
    assert round(totals.committed_at_s * 1e6) == expected["committed_at"]


def test_rollup_reader_reads_the_rollups_of_a_release(release: str) -> None:
    records, expected = golden(release)
    layout = layout_of(expected)
    groups: list[Group] = []

    def number(group: Group) -> int:
        if group not in groups:
            groups.append(group)
        return groups.index(group)

    reader = RollupReader(layout, np.arange(layout.width), number)
    found = [reader.read(value) for _, value in records["rollups"]]
    assert len(found) == len(expected["rollups"])
    for rollup, wanted in zip(found, expected["rollups"], strict=True):
        rows = [
            [minute, *groups[group].base, STATUSES[status], named(row, layout)]
            for minute, group, status, row in zip(
                rollup.minutes.tolist(),
                rollup.groups.tolist(),
                rollup.statuses.tolist(),
                rollup.values,
                strict=True,
            )
        ]
        assert rows == [[*row[:-1], with_later_sums(row[-1])] for row in wanted["rows"]]
        assert rollup.committed_at_us == wanted["committed_at"]
        assert (rollup.source_partitions, rollup.clamped) == (wanted["source_partitions"], wanted["clamped"])
        assert {str(partition): at for partition, at in rollup.reached_us.items()} == wanted["reached"]


def test_dedup_chunks_of_a_release_are_read(release: str) -> None:
    records, expected = golden(release)
    found = []
    for key, value in records["seen"]:
        name = _parse_key("spans", key)
        assert name is not None
        chunk = decode_dedup_chunk(*name, value)
        found.append([chunk.partition, chunk.position, chunk.piece, chunk.stamp_s, chunk.keys.tolist()])
    assert found == expected["seen"]


def test_alert_store_reads_the_records_of_a_release(release: str) -> None:
    records, expected = golden(release)
    store = AlertStore()
    for key, value in records["alerts"]:
        store.apply(key, value)
    kept = {"alert": store.alerts, "delivery": store.deliveries, "rule": store.rules, "silence": store.silences}
    for (kind, name, wanted), (key, _) in zip(expected["alerts"], records["alerts"], strict=True):
        assert parse_key(key) == (kind, name or "")
        found = store.evaluator if kind == "evaluator" else kept[kind][name]
        assert found is not None
        assert {field: found[field] for field in wanted} == wanted


#: Schemas that came after a release.
LATER = {"0.1.0": {"state-cell-wide", "rollup-dimensions", "budget-alert"}}


def test_schemas_of_a_release_are_kept(release: str) -> None:
    """A file in the history is never edited: what the release wrote names it by fingerprint."""
    kept = {name: schema for (of, name), schema in released_schemas().items() if of == release}
    assert kept.keys() == {*RECORDS, "span"} - LATER[release]
    records, _ = golden(release)
    written = {value[2:10] for pairs in records.values() for _, value in pairs}
    assert {name for name, schema in kept.items() if fingerprint_of(schema) not in written} == set()


def test_span_decoder_reads_the_spans_of_a_release(release: str) -> None:
    records, expected = golden(release)
    found = SpanDecoder(WriterSchemas()).decode([value for _, value in records["spans"]]).spans
    models = [
        found.buffer[at : at + length].tobytes().decode()
        for at, length in zip(found.model.offset, found.model.length, strict=True)
    ]
    counts = found.prompt_tokens.values.tolist(), found.completion_tokens.values.tolist()
    assert [list(row) for row in zip(models, *counts, strict=True)] == expected["spans"]
