"""Gaps: records that were passed over or lost are counted with the position behind them, and outlive the process."""

from __future__ import annotations

from typing import Any

import pytest

from tests.harness import LAYOUT, Harness
from tests.kafka.fakes import ScriptedClients, ScriptedProducer
from tests.spanfactory import message, span
from tests.state.test_appearance import Life
from tests.state.test_expiry import parse
from tests.state.test_tally import OWN
from tests.state.test_wide_totals import topic
from tokentrace.errors import UnreadableRecord
from tokentrace.exposition import Renderer
from tokentrace.model.snapshot import Gap
from tokentrace.state import StateReader
from tokentrace.state.gaps import GAPS_HEADER, decode_gaps, gap_headers

__all__ = ["topic"]

LOST = "tokentrace_worker_lost_records_total"


def pass_gap(life: Life, records: int, partition: int = 0) -> None:
    """Pass over records, and count the one behind them."""
    life.state.delta.gaps["lost", partition] += records
    life.counted([message(span())])


def lost(life: Life) -> dict[str, float]:
    """Return what Prometheus sees, by partition."""
    return {dict(labels)["partition"]: value for (name, labels), value in life.scrape().items() if name == LOST}


def test_header_gives_back_what_it_was_written_from() -> None:
    gaps = {("lost", 3): Gap(7, 1_790_000_000.123456), ("skipped", 0): Gap(10**15, 5.0), ("lost", 10): Gap(1, 6.0)}
    headers = gap_headers("spans", gaps)
    assert decode_gaps(headers, "spans") == gaps
    assert decode_gaps(headers, "other") == {}
    assert gap_headers("spans", {}) == []
    assert decode_gaps([], "spans") == {}


@pytest.mark.parametrize(
    "value", [b"{", b"[]", b'{"topic": "spans"}', b'{"topic": "spans", "gaps": {"lost": {"x": 1}}}']
)
def test_damaged_header_is_said(topic: Any, value: bytes) -> None:
    life = Life(topic)
    life.counted([message(span())])
    life.write()
    topic.headers[OWN] = [*topic.headers[OWN], (GAPS_HEADER, value)]
    reader = StateReader(ScriptedClients(producer=ScriptedProducer), "the.state", "g")
    with pytest.raises(UnreadableRecord, match=f"The header {GAPS_HEADER}"):
        reader.restore("a", LAYOUT, Harness().groups, "spans")


def test_gap_is_added_up_over_commits_and_restarts(topic: Any) -> None:
    life = Life(topic)
    pass_gap(life, 7)
    life.write()
    first = life.state.snapshot.gaps["lost", 0]
    assert first.records == 7
    life = Life(topic, life.clock.now_s + 9.0)
    assert life.state.snapshot.gaps == {("lost", 0): first}
    pass_gap(life, 5)
    pass_gap(life, 4, partition=2)
    life.write()
    again = Life(topic, life.clock.now_s).state.snapshot.gaps
    assert {key: gap.records for key, gap in again.items()} == {("lost", 0): 12, ("lost", 2): 4}
    assert again["lost", 0].since_s == first.since_s


def test_gap_of_a_commit_that_failed_is_not_counted(topic: Any) -> None:
    life = Life(topic)
    pass_gap(life, 7)
    life.state.discard()
    life.counted([message(span())])
    life.write()
    assert life.state.snapshot.gaps == {}


def test_gap_begins_at_0_for_prometheus_over_kills_too(topic: Any) -> None:
    life = Life(topic)
    pass_gap(life, 7)
    life.write()
    life = Life(topic, life.clock.now_s + 1.0)
    assert lost(life) == {"0": 0.0}, "no scrape came before the kill"
    life = Life(topic, life.clock.now_s + 1.0)
    assert lost(life) == {"0": 0.0}, "it was not committed that it may be shown"
    life.write()
    assert lost(life) == {"0": 7.0}
    life = Life(topic, life.clock.now_s + 1.0)
    assert lost(life) == {"0": 7.0}, "it goes on where it was"
    pass_gap(life, 5)
    life.write()
    assert lost(life) == {"0": 12.0}


def test_overflow_begins_at_0_for_prometheus_too(topic: Any) -> None:
    def overflowed(life: Life) -> float:
        return parse(life.expose().decode())["tokentrace_groups_overflowed_total", ()]

    life = Life(topic)
    life.groups.max_groups = 1
    life.counted([message(span(model="first")), message(span(model="second")), message(span(model="third"))])
    life.write()
    life = Life(topic, life.clock.now_s + 1.0)
    assert overflowed(life) == 0.0, "no scrape came before the kill"
    life.write()
    assert overflowed(life) == 2.0
    assert overflowed(Life(topic, life.clock.now_s + 1.0)) == 2.0


def test_gap_is_exposed_with_the_time_at_which_it_was_first_passed(topic: Any) -> None:
    life = Life(topic)
    pass_gap(life, 7)
    life.write()
    since_s = life.state.snapshot.gaps["lost", 0].since_s
    text = Renderer({}, created=True).render(life.state.snapshot, [], "openmetrics").decode()
    assert f'{LOST}{{partition="0"}} 7\n' in text
    assert f'tokentrace_worker_lost_records_created{{partition="0"}} {since_s!r}\n' in text
