"""Totals beyond 64 bits: counted, restarted, expired and shown to the nano-dollar."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Message

from tests.harness import LAYOUT, Harness, cells_of
from tests.kafka.fakes import ScriptedClients, ScriptedProducer
from tests.services.packages import python, release_package
from tests.spanfactory import message, span
from tests.state.test_admin import PARTITIONS, StateTopic
from tests.state.test_expiry import IDLE_S
from tokentrace.alerts.rollup_reader import RollupReader
from tokentrace.exposition import Renderer
from tokentrace.kafka.producer import partition_of
from tokentrace.model.measures import Layout
from tokentrace.state import StateCodec, StateReader, cell_key, expired_key, replica_key
from tokentrace.state.admin import StateAdmin
from tokentrace.state.records import Progress, is_wide
from tokentrace.state.replica_totals import summed
from tokentrace.state.schemas import record_schemas

ABSURD_USD = 999_999.0
NANO = 999_999 * 10**9
COST = ("gpt-4o", "openai", "", "ok")


def absurd(count: int, **fields: object) -> list[bytes]:
    return [message(span(cost_usd=ABSURD_USD, latency_ms=1e9, **fields))] * count


def usd(nano: int) -> str:
    return f"{nano // 10**9}.{nano % 10**9:09d}"


def shown(rig: Harness, series: str) -> str:
    """The text of one sample: a float would not show whether it is exact."""
    text = Renderer().render(rig.ledger.snapshot, [], "openmetrics").decode()
    [value] = re.findall(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return str(value)


SERIES = 'tokentrace_cost_total{model="gpt-4o",provider="openai",caller=""}'


class OneReplica(StateTopic):
    """The state topic with the records of the replica `a`, all of which are in one partition."""

    def read_to_end(self, starts: Mapping[int, int], *, await_open: bool = True) -> Iterator[Message]:
        if partition_of("a", PARTITIONS) in starts:
            yield from super().read_to_end(dict.fromkeys(range(PARTITIONS), 0))


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> StateTopic:
    topic = OneReplica()
    monkeypatch.setattr("tokentrace.state.restore.TopicReader", lambda *_: topic)
    return topic


def write(topic: StateTopic, rig: Harness) -> None:
    """Write the totals of the replica `a`, as its commits have left them."""
    totals, codec = rig.ledger.totals, StateCodec(LAYOUT)
    topic.records.clear()
    for cell, value in enumerate(codec.cells(totals.values, totals.created_s, totals.carried)):
        group = rig.groups.groups[rig.groups.cell_group[cell]]
        topic.records[cell_key("a", group, int(rig.groups.cell_status[cell]))] = value
    for key, sums in totals.expired.items():
        topic.records[expired_key("a", key)] = codec.expired(sums)
    topic.records[replica_key("a")] = codec.replica("a", "spans", totals)


def restarted(topic: StateTopic) -> Harness:
    """A replica that has restored what is in the topic."""
    rig = Harness()
    reader = StateReader(ScriptedClients(producer=ScriptedProducer), "state", "g")
    totals = reader.restore("a", LAYOUT, rig.groups, "spans")
    assert totals is not None
    rig.state.restore(totals)
    return rig


@pytest.mark.parametrize("batches", [[10_000], [20_000], [10_000, 10_000, 1], [50_000] * 20])
def test_absurd_spans_in_one_commit_are_counted_exactly(batches: list[int]) -> None:
    rig = Harness()
    for batch in batches:
        rig.count(absurd(batch))
    rig.commit()
    spans = sum(batches)
    cell = cells_of(rig.ledger.snapshot)[COST]
    assert (cell["spans"], cell["cost_nano_usd"]) == (spans, spans * NANO)
    assert cell["histogram latency_ms"][1] == spans * 10**12
    assert shown(rig, SERIES) == usd(spans * NANO)
    assert shown(rig, 'tokentrace_latency_ms_sum{model="gpt-4o",provider="openai"}') == f"{spans * 10**9}.000"


def test_absurd_spans_in_many_commits_are_counted_exactly() -> None:
    rig = Harness()
    for commit in range(1, 41):
        rig.count(absurd(1000), offset=1000 * commit)
        rig.commit()
        assert cells_of(rig.ledger.snapshot)[COST]["cost_nano_usd"] == 1000 * commit * NANO
    assert shown(rig, SERIES) == usd(40_000 * NANO)


def test_series_that_sum_many_cells_are_exact() -> None:
    """No cell is wide, and their sum is."""
    rig = Harness()
    for caller in "abcd":
        rig.count(absurd(4000, caller=caller))
        rig.commit()
    assert not rig.ledger.snapshot.carried
    text = Renderer({"cost_total": ["model"]}).render(rig.ledger.snapshot, [], "text").decode()
    assert f'tokentrace_cost_total{{model="gpt-4o"}} {usd(16_000 * NANO)}\n' in text


def test_totals_far_beyond_64_bits_are_restored_and_go_on(topic: StateTopic) -> None:
    rig = Harness()
    rig.count([*absurd(1), message(span(model="small", cost_usd=1.0))])
    rig.commit()
    # As if it had counted for a very long time.
    carried = {0: {Layout.column("cost_nano_usd"): 2**10, Layout.column("prompt_tokens"): 3}}
    rig.state.restore(replace(rig.ledger.totals, carried=carried))
    expected = 2**72 + NANO
    for restart in range(1, 4):
        write(topic, rig)
        rig = restarted(topic)
        rig.count(absurd(20_000), offset=restart * 20_000)
        rig.commit()
        expected += 20_000 * NANO
        cell = cells_of(rig.ledger.snapshot)[COST]
        assert cell["cost_nano_usd"] == expected > 2**70
        assert cell["prompt_tokens"] == 3 * 2**62 + 100 * (1 + 20_000 * restart)
    assert shown(rig, SERIES) == usd(expected)
    assert cells_of(rig.ledger.snapshot)["small", "openai", "", "ok"]["cost_nano_usd"] == 10**9
    assert shown(rig, 'tokentrace_tokens_total{model="gpt-4o",provider="openai",caller="",token_type="prompt"}') == str(
        3 * 2**62 + 100 * 60_001
    )


def test_only_wide_cells_are_wide_records(topic: StateTopic) -> None:
    rig = Harness()
    rig.count([*absurd(20_000), message(span(model="small"))])
    rig.commit()
    write(topic, rig)
    wide = {key for key, value in topic.records.items() if value is not None and is_wide(value)}
    assert wide == {b'["a","gpt-4o","openai","","ok"]'}
    schemas = record_schemas()
    narrow = topic.records[b'["a","small","openai","","ok"]']
    assert narrow is not None
    assert schemas.name(narrow) == "state-cell"


def test_a_cell_that_release_0_1_0_wrote_just_below_64_bits_is_restored(topic: StateTopic) -> None:
    rig = Harness()
    rig.count(absurd(1))
    rig.commit()
    rig.ledger.totals.values[0, Layout.column("cost_nano_usd")] = 2**63 - 1
    write(topic, rig)
    again = restarted(topic)
    again.count(absurd(1), offset=1)
    again.commit()
    assert cells_of(again.ledger.snapshot)[COST]["cost_nano_usd"] == 2**63 - 1 + NANO


def test_wide_totals_expire_and_are_restored(topic: StateTopic) -> None:
    renderer = Renderer({"cost_total": ["model"]})
    rig = Harness(expire_after_s=IDLE_S, label_sets=renderer.label_sets)
    for number, caller in enumerate([*"stuvwxyz", "stays"]):
        rig.count(absurd(20_000, caller=caller), offset=number)
        rig.commit()
    for step in range(1, 4):
        rig.clock.now_s += IDLE_S / 2
        rig.count(absurd(1, caller="stays"), offset=9 + step)
        rig.commit()
    assert [group.caller for group in rig.groups.groups[1:]] == ["stays"]
    write(topic, rig)
    for shown_rig in (rig, restarted(topic)):
        text = Renderer({"cost_total": ["model"]}).render(shown_rig.ledger.snapshot, [], "text").decode()
        assert f'tokentrace_cost_total{{model="gpt-4o"}} {usd(180_003 * NANO)}\n' in text
        assert shown(shown_rig, SERIES.replace('caller=""', 'caller="stays"')) == usd(20_003 * NANO)


def test_positions_that_are_forgotten_leave_the_schema_of_wide_cells(topic: StateTopic) -> None:
    rig = Harness()
    rig.count(absurd(20_000))
    rig.commit()
    write(topic, rig)
    clients = ScriptedClients(producer=ScriptedProducer)
    StateAdmin(clients, topic="state", group_id="g", source_topic="spans").forget_positions("a")
    [record] = clients.made[-1].records
    assert wide_schema_travels(record)


def wide_schema_travels(record: dict[str, Any]) -> bool:
    """Return whether the record of a replica carries the schema of wide cells."""
    return record_schemas().headers_of(["state-cell-wide"])[0] in record["headers"]


def test_state_show_sums_wide_totals(topic: StateTopic) -> None:
    rig = Harness(expire_after_s=IDLE_S, label_sets=Renderer().label_sets)
    rig.count(absurd(20_000, caller="idle"))
    rig.commit()
    rig.clock.now_s += 2 * IDLE_S
    rig.count(absurd(20_000), offset=20_000)
    rig.commit()
    write(topic, rig)
    admin = StateAdmin(ScriptedClients(producer=ScriptedProducer), topic="state", group_id="g", source_topic="spans")
    sums = summed(admin.replicas(), "caller")
    assert {caller: row["cost_nano_usd"] for (caller,), row in sums.items()} == {
        "": 20_000 * NANO,
        "__expired__": 20_000 * NANO,
    }


def test_rollups_of_absurd_spans_add_up_to_what_was_counted() -> None:
    rig = Harness()
    rig.count(absurd(20_000))
    rows, codec = rig.delta.by_minute(), StateCodec(LAYOUT)
    cells = [(rig.groups.groups[1], 0)] * len(rows.minutes)
    values = list(codec.rollups("a", 5.0, rows.minutes, cells, rows.values, Progress(1, {0: 7}), rows.starts))
    reader = RollupReader(LAYOUT, np.array([Layout.column("cost_nano_usd")]), lambda _: 0)
    found = [reader.read(value) for value in values]
    assert sum(int(number) for rollup in found for number in rollup.values[:, 0]) == 20_000 * NANO
    assert [len(rollup.minutes) for rollup in found] == [1] * 5, "a minute and cell occurs once in a record"
    assert [dict(rollup.reached_us) for rollup in found] == [{}] * 4 + [{0: 7}]


def test_a_wide_cell_is_an_avro_record_of_its_schema() -> None:
    rig = Harness()
    rig.count(absurd(20_000))
    rig.commit()
    totals, codec = rig.ledger.totals, StateCodec(LAYOUT)
    [value] = codec.cells(totals.values, totals.created_s, totals.carried)
    record = record_schemas().decode(value, "state-cell-wide")
    assert record["carried"] == {"cost_nano_usd": 4}
    assert record["counts"]["cost_nano_usd"] + 4 * 2**62 == 20_000 * NANO
    assert value == record_schemas().encode("state-cell-wide", record)


def test_release_0_1_0_refuses_a_wide_cell_and_reads_the_others(tmp_path: Path) -> None:
    """A part of a sum would be a total that steps back."""
    rig = Harness()
    rig.count([*absurd(20_000), message(span(model="small"))])
    rig.commit()
    totals = rig.ledger.totals
    values = list(StateCodec(LAYOUT).cells(totals.values, totals.created_s, totals.carried))
    found = python(release_package("0.1.0", tmp_path), "-c", READ_BY_RELEASE, *[value.hex() for value in values])
    assert found.splitlines() == ["The state was written by a newer version of tokentrace", "1 spans"]


READ_BY_RELEASE = """
import sys
from tokentrace.measures import Layout
from tokentrace.state.codec import StateCodec
for value in sys.argv[1:]:
    try:
        print(StateCodec(Layout.build()).cell(bytes.fromhex(value))[0][Layout.column("spans")], "spans")
    except Exception as error:
        print(str(error).partition(",")[0])
"""
