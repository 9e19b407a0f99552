"""Increments over kills: what Prometheus adds up of the values it sees is what was counted, for every series."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from tests.harness import LAYOUT
from tests.kafka.fakes import ScriptedClients, ScriptedProducer
from tests.spanfactory import message, span
from tests.state.test_expiry import IDLE_S, Label, parse
from tests.state.test_tally import OWN, Replica
from tests.state.test_wide_totals import topic
from tokentrace.errors import UnreadableRecord
from tokentrace.exposition import Renderer
from tokentrace.model.dimensions import Dimension
from tokentrace.model.snapshot import Snapshot
from tokentrace.state import StateReader
from tokentrace.state.appearance import APPEARED_HEADER, SHOWN_HEADER
from tokentrace.state.label_sets import revised

__all__ = ["topic"]

Series = tuple[str, Label]


class Life(Replica):
    """One process of the replica, from what the topic holds on. labels: of families, where not the default."""

    def __init__(
        self,
        topic: Any,
        now_s: float = 0.0,
        labels: Mapping[str, Sequence[str]] = MappingProxyType({}),
        dimensions: Sequence[Dimension] = (),
    ) -> None:
        super().__init__(topic, dimensions)
        self.renderer = Renderer(labels, zero_first=True)
        self.ledger._seen_until_s = self.renderer.seen_until_s
        self.ledger._label_sets = self.renderer.label_sets
        self.clock.now_s = max(self.clock.now_s, now_s)
        if not topic.records:
            self.committer._label_sets = revised({}, self.renderer.labels, 0.0)
            return
        reader = StateReader(ScriptedClients(producer=ScriptedProducer), "the.state", "g")
        found = reader.restore("a", LAYOUT, self.groups, "spans")
        assert found is not None
        label_sets = revised(found.label_sets, self.renderer.labels, self.clock.now_s)
        totals = replace(found, label_sets=label_sets)
        self.committer._label_sets = label_sets
        self.committer._claim(totals)
        self.keep_written()

        def publish() -> Snapshot:
            self.state.restore(totals)
            return self.state.snapshot

        self.renderer.restore(publish)
        self.next_offset = totals.positions.get(0, 0)

    def write(self) -> None:
        if self.state.prepare():
            super().write()

    def scrape(self, arrives: bool = True) -> dict[Series, float]:
        body = self.expose(arrives)
        return counters(body) if arrives else {}

    def expose(self, arrives: bool = True) -> bytes:
        """As a Prometheus sees it that comes again. arrives: whether it receives all of it."""
        scrape = self.renderer.scrape(lambda: self.state.snapshot, "text", by_prometheus=True)
        if arrives:
            self.renderer.record_scrape(("one", 1), scrape.number, {("one", 1)})
        return scrape.body


def counters(body: bytes) -> dict[Series, float]:
    """The counters and histograms over groups, and the rejects."""
    return {
        series: value
        for series, value in parse(body.decode()).items()
        if not series[0].startswith(("tokentrace_groups", "tokentrace_quality", "tokentrace_dimension"))
    }


class Prometheus:
    """Adds up as increase() does: a first value adds nothing."""

    def __init__(self) -> None:
        self.last: dict[Series, float] = {}
        self.increases: Counter[Series] = Counter()

    def add(self, values: dict[Series, float]) -> None:
        for series, value in values.items():
            before = self.last.get(series, value)
            assert value >= before, f"{series} fell from {before} to {value}"
            self.increases[series] += round((value - before) * 1e9)
        self.last.update(values)


def some(rng: random.Random) -> list[bytes]:
    """Spans of which every optional part comes late, and sometimes what is rejected."""
    optional = {
        "latency_ms": rng.choice([None, None, 7.0]),
        "ttft_ms": rng.choice([None, None, 3.0]),
        "cost_usd": rng.choice([None, 0.5]),
        "attributes": rng.choice([{}, {}, {"eval.score": 0.5}]),
    }
    model = rng.choice(["gpt-4o", "unheard-of", "m1", "m2"])
    record = span(model=model, caller=rng.choice("abcd"), status=rng.choice(["ok", "ok", "error"]), **optional)
    return [message(record)] * rng.randint(1, 3) + [b"junk"] * (rng.random() < 0.1)


@pytest.mark.parametrize("seed", range(6))
def test_increases_over_kills_at_any_moment_are_what_was_counted(topic: Any, seed: int) -> None:
    rng = random.Random(seed)
    life, prometheus = Life(topic), Prometheus()
    kills = 0
    for _ in range(120):
        life.clock.now_s += rng.choice([0.0, 0.2, 1.0, -0.5] if seed % 2 else [0.2, 1.0])
        step = rng.choices(["count", "write", "scrape", "lost scrape", "kill"], [4, 4, 4, 1, 1])[0]
        if step == "count":
            life.counted(some(rng))
        elif step == "write":
            life.write()
        elif step == "kill":
            kills += 1
            life = Life(topic, life.clock.now_s)
        else:
            prometheus.add(life.scrape(arrives=step == "scrape"))
    for _ in range(3):
        life.clock.now_s += 1.0
        life.write()
        prometheus.add(life.scrape())
    truth = counters(Renderer({}).render(life.state.snapshot, [], "text"))
    assert kills > 2
    assert len(truth) > 200
    found = {series: prometheus.increases[series] for series in truth}
    if seed % 2:
        # With a clock that goes back, a series may begin above 0; it never falls.
        assert all(found[series] <= round(value * 1e9) for series, value in truth.items())
    else:
        assert found == {series: round(value * 1e9) for series, value in truth.items()}


def test_a_series_that_was_shown_before_a_kill_begins_where_it_was(topic: Any) -> None:
    life = Life(topic)
    life.counted([message(span())])
    life.write()
    assert set(life.scrape().values()) == {0.0}
    assert life.state.prepare(), "an idle replica commits that it will show it"
    life.write()
    assert not life.state.prepare()
    assert Life(topic).scrape() == counters(Renderer({}).render(life.state.snapshot, [], "text"))


def test_a_series_that_was_seen_as_0_before_a_kill_is_0_once_more(topic: Any) -> None:
    life = Life(topic)
    life.counted([message(span())])
    life.write()
    life.scrape()
    again = Life(topic)
    assert set(again.scrape().values()) == {0.0}
    again.write()
    assert set(again.scrape().values()) != {0.0}


def test_restored_series_of_a_release_that_said_nothing_are_shown(topic: Any) -> None:
    life = Life(topic)
    life.counted([message(span(latency_ms=7.0)), b"junk"])
    life.write()
    topic.headers[OWN] = [header for header in topic.headers[OWN] if header[0] != SHOWN_HEADER]
    again = Life(topic)
    assert again.scrape() == counters(Renderer({}).render(life.state.snapshot, [], "text"))
    assert not again.state.prepare().shows


def test_an_expired_group_takes_its_beginnings_with_it(topic: Any) -> None:
    """The cells behind it get other numbers."""
    life = Life(topic)
    life.counted([message(span(model="old"))])
    life.write()
    life.clock.now_s += IDLE_S / 2
    life.counted([message(span(model="new"))])
    life.write()
    life.clock.now_s += IDLE_S / 2 + 1.0
    life.counted([message(span(model="new", latency_ms=7.0))])
    life.write()
    assert [dict(fields) for fields in life.ledger.totals.appeared.values()] == [
        {"latency_ms_buckets": pytest.approx(life.clock.now_s)}
    ]
    [cell] = life.ledger.totals.appeared
    assert life.groups.groups[life.groups.cell_group[cell]].model == "new"
    again = Life(topic)
    [cell] = again.ledger.totals.appeared
    assert again.groups.groups[again.groups.cell_group[cell]].model == "new"


@pytest.mark.parametrize(("header", "of"), [(SHOWN_HEADER, OWN), (APPEARED_HEADER, b"cell")])
def test_restore_names_a_record_whose_header_is_damaged(topic: Any, header: str, of: bytes) -> None:
    life = Life(topic)
    life.counted([message(span())])
    life.write()
    life.counted([message(span(latency_ms=7.0))])
    life.write()
    [key] = [key for key in topic.records if (key == OWN) == (of == OWN)]
    headers = dict(topic.headers[key])
    assert header in headers
    topic.headers[key] = list({**headers, header: b"?"}.items())
    with pytest.raises(UnreadableRecord, match=f"header {header} of a record is damaged"):
        Life(topic)
