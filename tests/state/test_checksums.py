"""Checksums of tokentrace's own records: no flipped bit is read as another number, and old records are read as ever."""

from __future__ import annotations

import random
import zlib
from dataclasses import replace
from typing import Any

import pytest

from tests.aggregate.test_dedup import NOW_S
from tests.alerts.helpers import rule
from tests.commit.test_commit import committer_of
from tests.golden import golden
from tests.harness import LAYOUT, Harness
from tests.kafka.fakes import ScriptedClients, ScriptedProducer
from tests.spanfactory import message, random_span, span
from tests.state.test_admin import Parts, parts
from tests.state.test_positions import StateTopic, offsets_of, positions, state
from tests.state.test_unreadable import DedupTopic, of_kind, records_of_every_kind
from tests.state.test_wide_totals import absurd, topic, write
from tokentrace.aggregate.dedup import DedupChanges, DedupChunk
from tokentrace.alerts.evaluation import RuleState
from tokentrace.alerts.store import AlertStore, rule_record, topic_record
from tokentrace.commit.exactly_once import ExactlyOnceSettings
from tokentrace.errors import UnreadableRecord
from tokentrace.model.snapshot import ExpiredKey, ExpiredTotals
from tokentrace.state import StateReader, replica_key
from tokentrace.state.checksums import CHECKSUM_HEADER, checksum_header, is_intact, record_headers, require_intact
from tokentrace.state.dedup_records import DedupReader, dedup_key, encode_dedup_chunk
from tokentrace.state.positions import CountedPositions
from tokentrace.state.totals import Expiry

__all__ = ["parts", "positions", "state", "topic"]


def flips(data: bytes) -> list[bytes]:
    """The data with one byte damaged, for each byte, in three ways."""
    return [
        data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :]
        for place in range(len(data))
        for flip in (0x01, 0x80, 0xFF)
    ]


@pytest.mark.parametrize("name", sorted(records_of_every_kind()))
def test_checksum_notices_every_damaged_byte_of_key_and_value(name: str) -> None:
    key, value = b'["a","b"]', records_of_every_kind()[name]
    headers = record_headers(key, value)
    require_intact(key, value, headers)
    damaged = [(key, found) for found in [*flips(value), value[:-1], value + b"\0", b""]]
    damaged += [(found, value) for found in [*flips(key), b""]]
    assert not [pair for pair in damaged if is_intact(*pair, headers)]
    with pytest.raises(UnreadableRecord, match=r"do not give the checksum in the header tokentrace\.crc32"):
        require_intact(key, value[:-1], headers)


def test_checksum_of_records_of_the_first_release_is_not_asked_for() -> None:
    for pairs in golden("0.1.0")[0].values():
        for key, value in pairs:
            require_intact(key, value, None)
            require_intact(key, value, [("other", b"header")])


@pytest.mark.parametrize("found", [b"", None, b"\0\0\0", "text", b"\0\0\0\0\0"])
def test_checksum_of_another_form_is_a_damaged_record(found: Any) -> None:
    assert not is_intact(b"k", b"v", [(CHECKSUM_HEADER, found)])


def test_checksum_is_the_published_one() -> None:
    """Other readers can check it: CRC-32 over the key and then the value, big-endian."""
    assert checksum_header(b"key", b"value") == ("tokentrace.crc32", zlib.crc32(b"keyvalue").to_bytes(4, "big"))
    assert record_headers(b"key", None) == []


def test_checksum_is_in_each_record_of_a_commit_but_tombstones_and_dead_letters() -> None:
    rig = Harness()
    rig.count([message(span()), b"junk"])
    rig.commit()
    rig.count([message(span(model="other")), b"junk"], offset=2)
    settings = ExactlyOnceSettings(
        group_id="workers", replica="r0", source_topic="spans", dead_letter_topic="dead", state_topic="state",
        rollups_topic="rollups", ids_topic="ids",
    )  # fmt: skip
    committer, _ = committer_of(rig, settings)
    ids: Any = committer._ids
    ids._count = 1
    proposal: Any = rig.state.prepare()
    chunk = DedupChunk(0, 3, 0, NOW_S, proposal.totals.values[0].astype("u8"))
    sums = ExpiredTotals(proposal.totals.values[0], 5.0)
    keys = [ExpiredKey("m", "p", 0), ExpiredKey(None, None, 0)]
    expiry = Expiry(proposal.expiry.keep, proposal.changes.cells, {keys[0]: sums}, keys[:1], keys[1:])
    records = list(committer._records(replace(proposal, dedup=DedupChanges([chunk], [chunk]), expiry=expiry)))
    carried = [record.topic for record in records if CHECKSUM_HEADER in dict(record.headers)]
    assert carried == ["state", "state", "state", "rollups", "ids"]
    assert all(is_intact(record.key, record.value or b"", list(record.headers)) for record in records)
    assert {record.topic for record in records if CHECKSUM_HEADER not in dict(record.headers)} == {
        "state", "dead", "ids",
    }  # fmt: skip
    assert {record.value for record in records if record.topic == "state" and not record.headers} == {None}


@pytest.mark.parametrize("kind", ["replica", "cell", "wide cell", "expired"])
def test_restore_reads_no_flipped_byte_as_another_number(topic: Any, kind: str) -> None:
    rig = Harness()
    rig.count(absurd(20_000))
    rig.count(absurd(1, model="small"))
    rig.commit()
    rig.ledger.totals.expired[ExpiredKey("m", "p", 0)] = ExpiredTotals(rig.ledger.totals.values[0], 5.0)  # type: ignore[index]
    write(topic, rig)
    topic.headers = {key: [checksum_header(key, value)] for key, value in topic.records.items()}
    reader = StateReader(ScriptedClients(producer=ScriptedProducer), "the.state", "g")
    reader.restore("a", LAYOUT, Harness().groups, "spans")
    key = of_kind(topic.records, kind)
    value = topic.records[key]
    for damaged in random.Random(kind).sample(flips(value), 30):
        topic.records[key] = damaged
        with pytest.raises(UnreadableRecord, match=r"tokentrace state reset --totals --replica a"):
            reader.restore("a", LAYOUT, Harness().groups, "spans")


def test_restore_notices_a_record_under_the_key_of_another(topic: Any) -> None:
    rig = Harness()
    rng = random.Random(4)
    rig.count([message(random_span(rng)) for _ in range(30)])
    rig.commit()
    write(topic, rig)
    topic.headers = {key: [checksum_header(key, value)] for key, value in topic.records.items()}
    first, second = list(topic.records)[:2]
    for column in (topic.records, topic.headers):
        column[first], column[second] = column[second], column[first]
    reader = StateReader(ScriptedClients(producer=ScriptedProducer), "the.state", "g")
    with pytest.raises(UnreadableRecord, match="do not give the checksum"):
        reader.restore("a", LAYOUT, Harness().groups, "spans")


def test_state_admin_reports_a_flipped_byte_and_writes_checksums(parts: Parts) -> None:
    admin, topic, _, clients = parts
    key = replica_key("a")
    admin.forget_positions("a")
    [record] = clients.made[0].records
    assert is_intact(key, record["value"], record["headers"])
    assert CHECKSUM_HEADER in dict(record["headers"])
    topic.headers[key] = [checksum_header(key, b"what was written")]
    with pytest.raises(UnreadableRecord, match="do not give the checksum"):
        admin.replicas()


def test_positions_pass_over_a_flipped_byte_of_another_replica(
    state: StateTopic, positions: CountedPositions, caplog: pytest.LogCaptureFixture
) -> None:
    state.commit("good", {0: 5})
    state.commit("bad", {0: 9})
    (value,) = [value for log in state.logs for key, value, _ in log if key == replica_key("bad")]
    key = replica_key("bad")
    state.put("bad", key, value, [checksum_header(key, value or b"")])
    assert offsets_of(positions) == {0: 9}
    for damaged in flips(value or b""):
        state.put("bad", key, damaged, [checksum_header(key, value or b"")])
        assert offsets_of(positions) == {0: 9}, "what the replica has counted before is still compared"
    assert len(caplog.records) == len(flips(value or b""))


def test_dedup_reader_reads_no_flipped_byte_as_another_id(monkeypatch: pytest.MonkeyPatch) -> None:
    chunk = DedupChunk(0, 3, 0, NOW_S, Harness().ledger.totals.created_s.astype("u8"))
    key, value = dedup_key("spans", chunk), encode_dedup_chunk(chunk)
    found = DedupTopic({key: value})
    found.headers = record_headers(key, value)
    monkeypatch.setattr("tokentrace.state.dedup_records.TopicReader", lambda *_: found)
    reader = DedupReader(ScriptedClients(producer=ScriptedProducer), "ids", "g")
    assert len(reader.read("spans", [0])[0]) == 1
    for damaged in flips(value):
        found.records[key] = damaged
        with pytest.raises(UnreadableRecord, match="restore the topic from a copy, or delete it"):
            reader.read("spans", [0])


def records_of_alerts() -> list[tuple[bytes, bytes]]:
    busy = rule("busy", metric="span_count", op="gt", threshold=5.0, window="5m")
    silence = topic_record("silence", "busy", {"until": 9, "asked_at": 5})
    state = topic_record("rule", "busy", rule_record(busy, RuleState(), 0))
    return [(key, value) for key, value in (silence, state) if value is not None]


@pytest.mark.parametrize("pair", records_of_alerts(), ids=["silence", "rule"])
def test_store_of_alerts_reads_no_flipped_byte_as_another_record(pair: tuple[bytes, bytes]) -> None:
    key, value = pair
    headers = record_headers(key, value)
    store = AlertStore()
    store.apply(key, value, headers)
    before = (dict(store.silences), dict(store.rules))
    assert before != ({}, {})
    for damaged in flips(value):
        with pytest.raises(UnreadableRecord):
            store.apply(key, damaged, headers)
    assert (store.silences, store.rules) == before
