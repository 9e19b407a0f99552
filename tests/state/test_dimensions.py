"""Dimensions in the durable state: older records and other configurations are read, and every sum stays."""

from __future__ import annotations

import io
import json
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import fastavro
import numpy as np
import pytest

from tests.aggregate.test_dimensions import attribute, by, field, recount
from tests.harness import LAYOUT, Harness
from tests.services import ROOT
from tests.spanfactory import message, random_span, span
from tests.state.test_appearance import Life, Prometheus, counters
from tests.state.test_label_sets import by_family, drain, seen
from tests.state.test_tally import OWN
from tests.state.test_wide_totals import topic
from tokentrace.alerts.rollup_reader import RollupReader
from tokentrace.exposition import Renderer
from tokentrace.model.dimensions import Dimension
from tokentrace.model.snapshot import Group
from tokentrace.state import StateCodec, cell_key, replica_key
from tokentrace.state.keys import parse_key
from tokentrace.state.records import Progress, decode_rollup
from tokentrace.state.schemas import PREFIX_BYTES, decode_record, record_schemas

__all__ = ["topic"]

TEAM, USER, RETRY = (Dimension(name, f"attributes.{name}") for name in ("team", "user", "retry"))
SPANS = LAYOUT.column("spans")
PROGRESS = Progress(3, {0: 5}, 0)


@pytest.mark.parametrize("dimensions", [(("team", "a"),), (("a", 'quo"te'), ("team", "日本"))])
def test_key_of_a_cell_with_dimensions_comes_back(dimensions: tuple[tuple[str, str], ...]) -> None:
    group = Group("m", "p", "c", dimensions)
    assert parse_key(cell_key("r", group, 1)) == ("r", (group, 1))
    assert json.loads(cell_key("r", group, 1)) == ["r", "m", "p", "c", dict(dimensions), "error"]


@pytest.mark.parametrize("part", ["1", "[]", '""', "null", '{"a": 1}', '{"a": ""}', '{"a": null}'])
def test_key_with_anything_else_is_not_ours(part: str) -> None:
    assert parse_key(f'["r", "m", "p", "c", {part}, "ok"]'.encode()) is None


def test_replica_without_dimensions_writes_the_bytes_of_the_first_release() -> None:
    rig = Harness()
    rig.count([message(random_span(random.Random(1))) for _ in range(50)])
    rig.commit()
    codec = StateCodec(LAYOUT)
    value = codec.replica("r", "spans", rig.ledger.totals, rig.groups.dimension_names)
    schema = json.loads((ROOT / "schemas" / "history" / "0.1.0" / "state-replica.avsc").read_text())
    stream = io.BytesIO(value[PREFIX_BYTES:])
    record = fastavro.schemaless_reader(stream, fastavro.parse_schema(schema), None)
    assert stream.read() == b""
    assert isinstance(record, dict)
    assert value[:PREFIX_BYTES] == record_schemas().first_prefix("state-replica")
    assert decode_record(value, "state-replica")["dimensions"] == []
    # With dimensions 0.1.0, which would overlook their cells, refuses the record.
    other = codec.replica("r", "spans", rig.ledger.totals, {"team", "agent"})
    assert other[:PREFIX_BYTES] == record_schemas().prefix("state-replica") != value[:PREFIX_BYTES]
    assert decode_record(other, "state-replica")["dimensions"] == ["agent", "team"]


def test_rollups_have_the_dimensions_and_are_read_as_arrays() -> None:
    rig = Harness(dimensions=[TEAM, USER, RETRY])
    rng = random.Random(4)
    records = [random_span(rng) for _ in range(400)]
    for record in records:
        record["attributes"]["team"] = rng.choice(["a", "b" * 130, None, "日本"])
    rig.count(list(map(message, records)))
    rows, groups = rig.delta.by_minute(), rig.groups
    cells = [(groups.groups[groups.cell_group[cell]], int(groups.cell_status[cell])) for cell in rows.cells]
    codec, numbered = StateCodec(LAYOUT), list[Group]()

    def number(group: Group) -> int:
        numbered.append(group)
        return len(numbered) - 1

    reader = RollupReader(LAYOUT, np.arange(LAYOUT.width), number)
    reader._resolved = lambda _: pytest.fail("It is as tokentrace writes it.")  # type: ignore[method-assign]
    found: Counter[Any] = Counter()
    decoded: Counter[Any] = Counter()
    for value in codec.rollups("r", 5.0, rows.minutes, cells, rows.values, PROGRESS):
        rollup = reader.read(value)
        for minute, group, status, spans in zip(
            rollup.minutes.tolist(),
            rollup.groups.tolist(),
            rollup.statuses.tolist(),
            rollup.values[:, SPANS],
            strict=True,
        ):
            found[minute, numbered[group], status] += int(spans)
        for row, (group_, status) in zip(
            decode_rollup(value)["rows"], codec.rollup_rows(decode_rollup(value))[1], strict=True
        ):
            decoded[row["minute"], group_, status] += row["counts"]["spans"]
    expected: Counter[Any] = Counter()
    for minute, cell, spans in zip(rows.minutes.tolist(), cells, rows.values[:, SPANS].tolist(), strict=True):
        expected[minute, *cell] += spans
    assert found == expected == decoded
    assert sum(found.values()) == len(records)


CONFIGURATIONS: list[Sequence[Dimension]] = [
    (),
    (TEAM,),
    (USER, TEAM),
    (TEAM, USER, RETRY),
    (Dimension("squad", "attributes.team"), Dimension("team", "attributes.user", mapping=(("u*1", "ones"),), limit=3)),
]
BASE = ("model", "provider", "caller")


@pytest.mark.parametrize("seed", range(4))
def test_totals_stay_exact_as_the_dimensions_change(topic: Any, seed: int) -> None:
    """Every process has other dimensions, or none, and continues from what the one before has written."""
    rng = random.Random(seed)
    records: list[dict[str, Any]] = []
    known: Counter[tuple[str, ...]] = Counter()
    for _ in range(8):
        dimensions = rng.choice(CONFIGURATIONS)
        life = Life(topic, dimensions=dimensions)
        assert by(life.state.snapshot, *BASE) == recount(records, *map(field, BASE))
        assert by(life.state.snapshot, "team") == known
        more = [random_span(rng) for _ in range(60)]
        for record in more:
            record["attributes"]["team"] = rng.choice(["a", "b", None])
        life.counted(list(map(message, more)))
        life.write()
        records += more
        if any(dimension.source == "attributes.team" and dimension.name == "team" for dimension in dimensions):
            known += recount(more, attribute("team"))
        else:
            known = by(life.state.snapshot, "team")
        assert by(life.state.snapshot, *BASE) == recount(records, *map(field, BASE))
        assert by(life.state.snapshot, "team") == known
    stored = [parse_key(key) for key in topic.records]
    assert len(stored) == len(set(map(str, stored)))


def test_dimension_that_comes_back_finds_its_values(topic: Any) -> None:
    for dimensions in ([TEAM], [], [TEAM]):
        life = Life(topic, dimensions=dimensions)
        life.counted([message(span(attributes={"team": "a"}))])
        life.write()
    assert by(life.state.snapshot, "team") == {("a",): 2, ("",): 1}
    assert sum(parse_key(key) is not None and key != OWN for key in topic.records) == 2
    assert replica_key("a") == OWN


def test_membership_outlives_a_restart(topic: Any) -> None:
    small = [Dimension("user", "attributes.user", limit=2)]
    spans = [span(attributes={"user": name}) for name in "abc"]
    for turn in range(3):
        life = Life(topic, dimensions=small)
        # Another order would let others in.
        life.counted([message(record) for record in (spans if turn == 0 else spans[::-1])])
        life.write()
    assert by(life.state.snapshot, "user") == {("a",): 3, ("b",): 3, ("__overflow__",): 3}
    assert life.state.snapshot.dimensions["user"] == (2, 2, 3)


MODEL = ["model", "provider"]
LABELS: list[dict[str, list[str]]] = [
    {"cost_total": MODEL, "latency_ms": [*MODEL, "team"]},
    {"cost_total": [*MODEL, "team"], "latency_ms": ["team", "user"], "spans_total": ["status", "team"]},
    {"cost_total": ["team"], "latency_ms": MODEL},
]


@pytest.mark.parametrize("seed", range(3))
def test_increases_over_changes_of_labels_and_dimensions_are_what_was_counted(topic: Any, seed: int) -> None:
    rng = random.Random(seed)
    choice = (LABELS[0], [TEAM, USER])
    life, prometheus = Life(topic, labels=choice[0], dimensions=choice[1]), Prometheus()
    for _ in range(120):
        life.clock.now_s += rng.choice([0.2, 1.0])
        step = rng.choices(["count", "write", "scrape", "kill", "change"], [5, 4, 4, 1, 1])[0]
        if step == "count":
            attributes = {"team": rng.choice(["a", "b", None]), "user": rng.choice(["x", "y"])}
            latency = rng.choice([None, 7.0])
            life.counted([message(span(cost_usd=0.25, latency_ms=latency, attributes=attributes))])
        elif step == "write":
            life.write()
        elif step == "scrape":
            prometheus.add(seen(life.scrape()))
        else:
            if step == "change":
                drain(life, prometheus)
                choice = (rng.choice(LABELS), rng.choice([[TEAM, USER], [USER, TEAM], [TEAM, USER, RETRY]]))
            life = Life(topic, life.clock.now_s, *choice)
            if step == "change":
                prometheus.add(seen(life.scrape()))
    drain(life, prometheus)
    truth = by_family(counters(Renderer(choice[0]).render(life.state.snapshot, [], "text")))
    found: Counter[tuple[str, str]] = Counter()
    for (name, series), amount in prometheus.increases.items():
        found[name, dict(series).get("le", "")] += amount
    assert found == truth
