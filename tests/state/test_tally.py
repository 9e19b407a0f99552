"""The tally of a replica's totals: a record that was deleted or replaced from outside is noticed, nothing else is."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.commit.test_commit import Source
from tests.commit.test_dead_letters import topic_of
from tests.harness import LAYOUT, Harness
from tests.kafka.fakes import ScriptedClients, ScriptedProducer
from tests.spanfactory import message, span
from tests.state.test_expiry import IDLE_S, LABELS, Expiring
from tests.state.test_wide_totals import absurd, topic
from tokentrace.commit import Outcome
from tokentrace.commit.exactly_once import ExactlyOnce, ExactlyOnceSettings
from tokentrace.errors import FatalError, UnreadableRecord
from tokentrace.model.dimensions import Dimension
from tokentrace.model.wide import LIMIT
from tokentrace.state import StateReader, replica_key
from tokentrace.state.admin import StateAdmin
from tokentrace.state.keys import parse_key
from tokentrace.state.records import decode_cell
from tokentrace.state.tally import TOTALS_HEADER, Tally, tally_of
from tokentrace.state.totals import Totals

__all__ = ["topic"]

OWN = replica_key("a")


class Replica(Expiring):
    """A replica `a` whose commits are written to a state topic, which keeps the last record of each key."""

    def __init__(self, topic: Any, dimensions: Sequence[Dimension] = ()) -> None:
        super().__init__(LABELS["none"], dimensions=dimensions)
        self.topic = topic
        self.next_offset = 0
        #: Records that were there before, by key.
        self.older: dict[bytes, Any] = {}
        source: Any = Source()
        self.clients = ScriptedClients(producer=ScriptedProducer)
        settings = ExactlyOnceSettings(
            group_id="g", replica="a", source_topic="spans", dead_letter_topic="dead", state_topic="the.state",
            rollups_topic="rollups",
        )  # fmt: skip
        self.committer = ExactlyOnce(
            settings, clients=self.clients, source=source, dead_letters=topic_of(None)[0], groups=self.groups,
            layout=LAYOUT,
        )  # fmt: skip

    def counted(self, values: list[bytes]) -> None:
        self.count(values, offset=self.next_offset)
        self.next_offset += len(values)

    def write(self) -> None:
        """Commit to the topic."""
        proposal = self.state.prepare()
        assert self.committer.commit(proposal) is Outcome.COMMITTED
        self.state.apply(proposal)
        self.keep_written()

    def keep_written(self) -> None:
        """Write to the topic what was committed."""
        keep(self.topic, self.clients.made[0].records, self.older)
        self.clients.made[0].records.clear()


def keep(topic: Any, written: Iterable[dict[str, Any]], older: dict[bytes, Any]) -> None:
    """Write records to the state topic."""
    for record in written:
        key = record["key"]
        if record["topic"] != "the.state":
            continue
        if key in topic.records:
            older[key] = topic.records.pop(key), topic.headers.pop(key)
        if record["value"] is not None:
            topic.records[key], topic.headers[key] = record["value"], record["headers"]


def restore() -> Totals | None:
    reader = StateReader(ScriptedClients(producer=ScriptedProducer), "the.state", "g")
    return reader.restore("a", LAYOUT, Harness().groups, "spans")


def some(rng: random.Random) -> list[bytes]:
    model, caller = rng.choice("mn"), rng.choice("abcdefgh")
    if rng.random() < 0.1:
        return absurd(9_300, model=model, caller=caller)
    return [message(span(model=model, caller=caller)) for _ in range(rng.randint(1, 3))]


@pytest.mark.parametrize("seed", range(4))
def test_tally_fits_what_commits_have_left_and_nothing_else(topic: Any, seed: int) -> None:
    """Over expiry, wide sums, discarded deltas and restarts; each record that is deleted or set back is noticed."""
    rng = random.Random(seed)
    replica = Replica(topic)
    kinds = set()
    for _ in range(25):
        replica.counted(some(rng))
        if rng.random() < 0.2:
            replica.state.discard()
            continue
        replica.clock.now_s += rng.choice([1.0, 1.0, IDLE_S / 3, IDLE_S])
        replica.write()
        restored = restore()
        assert restored is not None
        assert Tally.of(restored) == tally_of(topic.headers[OWN])
        if rng.random() < 0.2:
            replica.groups.clear()
            replica.ledger.restart(restored)
            replica.groups.adopt(*cells_of(topic))
        key = rng.choice([key for key in topic.records if key != OWN])
        kinds.add(type((parse_key(key) or ("", None))[1]).__name__)
        value = topic.records.pop(key)
        with pytest.raises(FatalError, match="were deleted or replaced from outside"):
            restore()
        if key in replica.older and decode_cell(replica.older[key][0])[0] != decode_cell(value)[0]:
            topic.records[key] = replica.older[key][0]
            headers, topic.headers[key] = topic.headers[key], replica.older[key][1]
            with pytest.raises(FatalError, match="were deleted or replaced from outside"):
                restore()
            topic.headers[key] = headers
        topic.records[key] = value
    assert kinds == {"tuple", "ExpiredKey"}, "cells and expired groups"


def cells_of(topic: Any) -> tuple[Any, Any]:
    """Groups and statuses of the cells, in their order in the topic."""
    cells: list[Any] = [parsed[1] for parsed in map(parse_key, topic.records) if parsed and type(parsed[1]) is tuple]
    return [group for group, _ in cells], np.array([status for _, status in cells], np.uint8)


def two_groups(topic: Any) -> Replica:
    replica = Replica(topic)
    replica.counted([message(span(model="m", cost_usd=0.5))] * 3 + [message(span(model="n", cost_usd=2.0))])
    replica.write()
    return replica


def test_restore_says_which_replica_lost_how_many_cells_and_what_sums_and_the_remedy(topic: Any) -> None:
    two_groups(topic)
    [key] = [key for key in topic.records if b'"n"' in key]
    del topic.records[key]
    with pytest.raises(FatalError) as failure:
        restore()
    line = str(failure.value)
    assert line.startswith(
        "Totals of replica 'a' were deleted or replaced from outside in topic 'the.state', partition 0 (cells: 2 "
        "committed, 1 found; spans: 4 committed, 3 found; cost_nano_usd: 3500000000 committed, 1500000000 found; "
    )
    assert line.endswith("tokentrace state reset --totals --replica a.")
    assert "\n" not in line


def test_restore_refuses_cells_without_the_own_record_of_their_replica(topic: Any) -> None:
    two_groups(topic)
    del topic.records[OWN]
    with pytest.raises(FatalError, match=r"The own record of replica 'a' was deleted .* has 2 cells .* --totals"):
        restore()


def test_restore_compares_nothing_that_the_first_release_has_written_last(topic: Any) -> None:
    """After a roll-back, its own record has no tally."""
    two_groups(topic)
    topic.headers[OWN] = None
    topic.records.pop(next(key for key in topic.records if key != OWN))
    assert restore() is not None


def test_restore_compares_the_sums_that_both_releases_know(topic: Any) -> None:
    two_groups(topic)
    headers = dict(topic.headers[OWN])
    tally = json.loads(headers[TOTALS_HEADER])
    tally["sums"] = {"spans": tally["sums"]["spans"], "sum of a later release": "7"}
    topic.headers[OWN] = [*(headers | {TOTALS_HEADER: json.dumps(tally).encode()}).items()]
    assert restore() is not None
    tally["sums"]["spans"] = "5"
    topic.headers[OWN] = [*(headers | {TOTALS_HEADER: json.dumps(tally).encode()}).items()]
    with pytest.raises(FatalError, match=r"\(spans: 5 committed, 4 found\)"):
        restore()


@pytest.mark.parametrize(
    "header", [b"", b"[]", b"\xff", b'{"cells":1}', b'{"cells":1,"expired":0,"sums":[]}', b'{"cells":"x"}']
)
def test_restore_names_a_damaged_header(topic: Any, header: bytes) -> None:
    two_groups(topic)
    topic.headers[OWN] = [*(dict(topic.headers[OWN]) | {TOTALS_HEADER: header}).items()]
    with pytest.raises(UnreadableRecord, match=r"key '\[\"a\"\]' cannot be read: The header tokentrace\.totals"):
        restore()


def test_tally_is_exact_beyond_64_bits() -> None:
    totals = Totals.empty(LAYOUT)
    values = np.full((5, LAYOUT.width), LIMIT - 1, np.int64)
    totals = replace(totals, values=values, created_s=np.ones(5), carried={2: {LAYOUT.column("spans"): 3}})
    tally = Tally.of(totals)
    assert tally.sums["spans"] == 5 * (LIMIT - 1) + 3 * LIMIT
    assert tally.sums["cost_nano_usd"] == 5 * (LIMIT - 1)
    assert tally_of([tally.header()]) == tally
    assert tally_of(None) is None


@pytest.mark.parametrize("deleted", [False, True])
def test_state_admin_keeps_the_tally_with_the_totals_of_another_position(topic: Any, deleted: bool) -> None:
    replica = two_groups(topic)
    if deleted:
        topic.records.pop(next(key for key in topic.records if key != OWN))
    clients = ScriptedClients(producer=ScriptedProducer)
    admin = StateAdmin(clients, topic="the.state", group_id="g", source_topic="spans")
    admin.forget_positions("a")
    keep(topic, clients.made[0].records, {})
    if deleted:
        with pytest.raises(FatalError, match="were deleted or replaced from outside"):
            restore()
    else:
        restored = restore()
        assert restored is not None
        assert (restored.positions, Tally.of(restored)) == ({0: 0}, Tally.of(replica.ledger.totals))


def test_state_admin_changes_what_a_running_worker_has_committed_last(topic: Any) -> None:
    """It reads once the worker is fenced: a position of an earlier commit would not fit the cells of a later one."""
    replica = two_groups(topic)

    class Fencing(ScriptedProducer):
        def __getattr__(self, name: str) -> Any:
            if name == "init_transactions":
                replica.counted([message(span(model=f"new-{replica.next_offset}"))])
                replica.write()
            return super().__getattr__(name)

    clients = ScriptedClients(producer=Fencing)
    admin = StateAdmin(clients, topic="the.state", group_id="g", source_topic="spans")
    admin.forget_positions("a")
    keep(topic, clients.made[0].records, {})
    restored = restore()
    assert restored is not None
    assert Tally.of(restored).sums["spans"] == 5
    assert admin.forget_totals("a") == 5, "four cells and the own record"
    keep(topic, clients.made[1].records, {})
    assert restore() is None
