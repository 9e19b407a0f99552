"""State admin: what is shown of the durable state, and which records a change of it writes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pytest
from confluent_kafka import KafkaError, Message

from tests.harness import LAYOUT, Harness
from tests.kafka.fakes import ScriptedClients, ScriptedProducer, failure
from tests.spanfactory import message, random_span
from tokentrace.errors import FatalError, UsageError
from tokentrace.kafka.moves import LogBounds
from tokentrace.kafka.offsets import Committed
from tokentrace.kafka.producer import partition_of
from tokentrace.state import StateCodec, admin, cell_key, replica_key
from tokentrace.state.admin import StateAdmin
from tokentrace.state.claim import Process, process_of
from tokentrace.state.headers import Header
from tokentrace.state.offset_mark import mark_of
from tokentrace.state.offset_moves import OffsetMove
from tokentrace.state.replica_totals import summed
from tokentrace.state.schemas import decode_record

PARTITIONS = 12
STATE_ID, OTHER_ID = "AjqRLwqYRoWmxd", "K1psQw0wSCe3QA"
#: The process that wrote the state before the command.
WORKER = Process("host-1", 42, 1_790_000_000_000_000)


class StateTopic:
    """The state topic, in the place of its reader; what a transaction has written is there the next time."""

    def __init__(self) -> None:
        self.records: dict[bytes, bytes | None] = {}
        self.headers: dict[bytes, list[Header]] = {}
        self.missing = False

    def topic_id(self) -> str:
        return STATE_ID

    def exists(self) -> bool:
        return not self.missing

    def partition_count(self) -> int:
        return PARTITIONS

    def read_to_end(self, starts: Mapping[int, int], *, await_open: bool = True) -> Iterator[Message]:
        assert starts == dict.fromkeys(range(PARTITIONS), 0)
        for offset, (key, value) in enumerate(self.records.items()):
            yield Message(
                topic="state", partition=0, offset=offset, key=key, value=value, timestamp=(1, 5000),
                headers=self.headers.get(key),
            )  # fmt: skip


class Offsets:
    """The group's offsets, in the place of GroupOffsets."""

    def __init__(self) -> None:
        self.offsets: dict[int, int] = {}
        self.metadata = ""

    def committed(self) -> dict[int, Committed]:
        return {partition: Committed(offset, None, self.metadata) for partition, offset in self.offsets.items()}

    def alter(self, offsets: Mapping[int, int]) -> None:
        self.offsets, self.metadata = self.offsets | offsets, ""


class Bounds:
    """The bounds of the topic's logs, in the place of TopicBounds. since: the first offset since the last commit."""

    def __init__(self) -> None:
        self.logs = {0: LogBounds(0, 100)}
        self.since = 70

    def bounds(self, partitions: Iterable[int]) -> dict[int, LogBounds]:
        return {partition: self.logs[partition] for partition in partitions if partition in self.logs}

    def first_since(self, times_s: Mapping[int, float]) -> dict[int, int]:
        return dict.fromkeys(times_s, self.since)


Parts = tuple[StateAdmin, StateTopic, Offsets, ScriptedClients]


@pytest.fixture
def bounds(monkeypatch: pytest.MonkeyPatch) -> Bounds:
    found = Bounds()
    monkeypatch.setattr(admin, "TopicBounds", lambda *_: found)
    return found


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Parts:
    """The state of the replicas a and b, each of which has counted the same 50 spans of partition 0."""
    topic, offsets = StateTopic(), Offsets()
    monkeypatch.setattr("tokentrace.state.restore.TopicReader", lambda *_: topic)
    monkeypatch.setattr(admin, "GroupOffsets", lambda *_: offsets)
    rig = Harness()
    rng = random.Random(3)
    rig.count([message(random_span(rng)) for _ in range(50)])
    rig.commit()
    totals, codec = rig.ledger.totals, StateCodec(LAYOUT)
    cells = list(zip(rig.groups.cell_group.tolist(), rig.groups.cell_status.tolist(), strict=True))
    values = list(codec.cells(totals.values, totals.created_s))
    for replica in ("a", "b"):
        for (group, status), value in zip(cells[: len(values)], values, strict=True):
            topic.records[cell_key(replica, rig.groups.groups[group], status)] = value
        topic.records[replica_key(replica)] = codec.replica(replica, "spans", totals)
        topic.headers[replica_key(replica)] = [WORKER.header()]
    clients = ScriptedClients(producer=ScriptedProducer)
    return StateAdmin(clients, topic="state", group_id="g", source_topic="spans"), topic, offsets, clients


def written(clients: ScriptedClients, topic: StateTopic) -> list[dict[str, Any]]:
    """The records of the one transaction that was committed."""
    [producer] = clients.made
    assert [call for call in producer.calls if call.endswith(("transaction", "transactions"))] == [
        "init_transactions", "begin_transaction", "commit_transaction",
    ]  # fmt: skip
    topic.records |= {record["key"]: record["value"] for record in producer.records}
    found: list[dict[str, Any]] = producer.records
    return found


def test_admin_shows_all_replicas(parts: Parts) -> None:
    state, *_ = parts
    replicas = state.replicas()
    assert [totals.replica for totals in replicas] == ["a", "b"]
    assert [totals.positions for totals in replicas] == [{("spans", 0): 50}] * 2
    assert summed(replicas)[()]["spans"] == 100
    assert summed(replicas, "replica")["b",]["spans"] == 50
    assert state.counted_up_to() == {0: 50}


def test_admin_needs_the_topic(parts: Parts) -> None:
    state, topic, *_ = parts
    topic.missing = True
    with pytest.raises(UsageError, match="Topic 'state' does not exist; an exactly-once worker creates it"):
        state.replicas()


@pytest.mark.parametrize(("committed", "before"), [({0: 20}, 20), ({}, 0), ({0: 60}, None)])
def test_admin_sets_offsets_forward_only(
    parts: Parts, bounds: Bounds, committed: dict[int, int], before: int | None
) -> None:
    state, _, offsets, clients = parts
    offsets.offsets = dict(committed)
    moves = state.offset_moves()
    assert moves == ({} if before is None else {0: OffsetMove(before, 50, "")})
    state.move_offsets(moves)
    assert offsets.offsets == {0: max(50, committed.get(0, 0))}
    assert clients.made == [], "the positions stay"


@pytest.mark.parametrize(("state_id", "moves"), [(OTHER_ID, {0: OffsetMove(60, 50, "")}), (STATE_ID, {})])
def test_admin_sets_offsets_back_to_what_a_restored_copy_of_the_state_has(
    parts: Parts, bounds: Bounds, state_id: str, moves: dict[int, OffsetMove]
) -> None:
    state, _, offsets, _ = parts
    offsets.offsets, offsets.metadata = {0: 60, 1: 9}, mark_of(state_id)
    assert state.offset_moves() == moves


def test_admin_lets_totals_begin_at_the_offsets_of_a_state_that_is_gone(parts: Parts) -> None:
    state, _, offsets, _ = parts
    offsets.offsets, offsets.metadata = {0: 60, 1: 9}, mark_of(STATE_ID)
    assert state.adopt_offsets() == {}
    assert offsets.metadata == mark_of(STATE_ID)
    offsets.metadata = mark_of(OTHER_ID)
    assert state.adopt_offsets() == {0: 60, 1: 9}
    assert (offsets.offsets, offsets.metadata) == ({0: 60, 1: 9}, "")


@pytest.mark.parametrize(
    ("log", "since", "move"),
    [
        pytest.param((0, 13), 0, (13, "ends at offset 13"), id="a shorter log, recreated or an older copy"),
        pytest.param((0, 13), -1, (13, "ends at offset 13"), id="an older copy"),
        pytest.param((0, 100), 0, (50, "has no record from before"), id="recreated, and longer by now"),
        pytest.param((0, 0), -1, (0, ""), id="recreated, and empty"),
        pytest.param((20, 100), 51, (50, ""), id="the offsets alone were lost"),
        pytest.param((0, 50), -1, (50, ""), id="nothing was published since"),
        pytest.param((70, 100), 70, (50, ""), id="retention has removed what is counted"),
    ],
)
def test_admin_doubts_an_offset_before_which_records_could_be_uncounted(
    parts: Parts, bounds: Bounds, log: tuple[int, int], since: int, move: tuple[int, str]
) -> None:
    state, *_ = parts
    bounds.logs, bounds.since = {0: LogBounds(*log)}, since
    [found] = state.offset_moves().values()
    assert found.to == move[0]
    assert found.doubt.startswith(move[1]) if move[1] else found.doubt == ""


def test_admin_leaves_out_partitions_that_the_topic_does_not_have(parts: Parts, bounds: Bounds) -> None:
    state, *_ = parts
    bounds.logs = {}
    assert state.offset_moves() == {}


def test_admin_lowers_every_position_to_the_end_of_a_log_that_ends_before_it(parts: Parts, bounds: Bounds) -> None:
    state, topic, offsets, clients = parts
    bounds.logs = {0: LogBounds(0, 13)}
    state.move_offsets(state.offset_moves())
    for producer in clients.made:
        topic.records |= {record["key"]: record["value"] for record in producer.records}
    assert [totals.positions for totals in state.replicas()] == [{("spans", 0): 13}] * 2
    assert offsets.offsets == {0: 13}
    assert summed(state.replicas())[()]["spans"] == 100
    assert state.offset_moves() == {}


def test_admin_forgets_positions_and_keeps_totals(parts: Parts) -> None:
    state, topic, _, clients = parts
    state.forget_positions("a")
    [record] = written(clients, topic)
    assert (record["topic"], record["key"], record["partition"]) == ("state", replica_key("a"), partition_of("a", 12))
    assert [partition["offset"] for partition in decode_record(record["value"], "state-replica")["partitions"]] == [0]
    assert summed(state.replicas())[()]["spans"] == 100
    assert clients.made[0].config["transactional.id"] == "g.a", "a running worker of that name is fenced"
    process = process_of(record["headers"])
    assert process is not None
    assert process.command
    assert str(process).startswith("the command `tokentrace state`, process ")


@pytest.mark.parametrize("change", [StateAdmin.forget_positions, StateAdmin.forget_totals])
def test_admin_fences_a_worker_of_release_0_1_0_by_its_own_id_before_it_writes(
    parts: Parts, change: Callable[[StateAdmin, str], object]
) -> None:
    state, topic, _, clients = parts
    topic.headers.clear()
    change(state, "a")
    assert [producer.config["transactional.id"] for producer in clients.made] == ["a", "g.a"]
    old, new = clients.made
    assert (old.calls, old.records) == (["init_transactions", "purge", "flush"], [])
    assert new.calls[:2] == ["init_transactions", "begin_transaction"]


def test_admin_fences_a_worker_of_release_0_1_0_once(parts: Parts) -> None:
    state, topic, _, clients = parts
    topic.headers.clear()
    state.forget_positions("a")
    [record] = clients.made[1].records
    topic.records[record["key"]], topic.headers[record["key"]] = record["value"], record["headers"]
    state.forget_totals("a")
    assert [producer.config["transactional.id"] for producer in clients.made] == ["a", "g.a", "g.a"]


def test_admin_forgets_totals_of_one_replica(parts: Parts) -> None:
    state, topic, _, clients = parts
    expected = {key for key in topic.records if key.startswith(b'["a"')}
    assert state.forget_totals("a") == len(expected)
    records = written(clients, topic)
    assert {record["key"] for record in records} == expected
    assert {record["value"] for record in records} == {None}
    assert [totals.replica for totals in state.replicas()] == ["b"]


def test_admin_rejects_an_unknown_replica(parts: Parts) -> None:
    state, _, _, clients = parts
    with pytest.raises(UsageError, match="No replica 'c' has ever committed; those that have: a, b"):
        state.forget_totals("c")
    assert clients.made == []


def test_admin_reports_an_aborted_change(parts: Parts) -> None:
    state, *_ = parts

    class Failing(ScriptedProducer):
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            self.errors["commit_transaction"] = [failure(KafkaError.MSG_SIZE_TOO_LARGE, abort=True)]

    clients = state._clients = ScriptedClients(producer=Failing)
    with pytest.raises(FatalError, match="replica 'a' was not changed: the transaction was aborted"):
        state.forget_totals("a")
    assert clients.made[0].calls[-3:] == ["abort_transaction", "purge", "flush"]
