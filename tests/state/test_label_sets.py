"""Label sets: a change of a family's labels begins new series, whose increments are those of the spans."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from tests.harness import LAYOUT, Harness
from tests.kafka.fakes import ScriptedClients, ScriptedProducer
from tests.spanfactory import message, span
from tests.state.test_appearance import Life, Prometheus, Series, counters, some
from tests.state.test_expiry import IDLE_S
from tests.state.test_tally import OWN, Replica
from tests.state.test_wide_totals import topic
from tokentrace.aggregate.series_budget import SeriesBudget
from tokentrace.errors import UnreadableRecord
from tokentrace.exposition import Renderer
from tokentrace.model.snapshot import Group, LabelSet
from tokentrace.state import StateReader
from tokentrace.state.label_sets import LABELS_HEADER, decode_label_sets, label_sets_header, revised

__all__ = ["topic"]

MODEL = ["model", "provider"]
CALLER = [*MODEL, "caller"]
#: Labels by family, of which each begins with another's series of an empty caller.
CHOICES = [
    {"cost_total": MODEL, "latency_ms": CALLER, "spans_total": ["model"]},
    {"cost_total": CALLER, "latency_ms": MODEL, "spans_total": ["status", "model", "caller"]},
    {"cost_total": ["caller"], "latency_ms": ["status", "model"], "quality_score": []},
]


def test_revision_is_the_number_of_changes_and_the_order_of_labels_is_none() -> None:
    first = revised({}, {"cost_total": MODEL, "latency_ms": MODEL}, 5.0)
    assert first == {"cost_total": LabelSet(("model", "provider")), "latency_ms": LabelSet(("model", "provider"))}
    assert revised(first, {"cost_total": MODEL[::-1], "latency_ms": MODEL}, 6.0) == first
    second = revised(first, {"cost_total": CALLER, "latency_ms": MODEL}, 7.0)
    assert second == {**first, "cost_total": LabelSet(("caller", "model", "provider"), 1, 7.0)}
    assert revised(second, {"cost_total": MODEL}, 8.0)["cost_total"] == LabelSet(("model", "provider"), 2, 8.0)


def test_header_gives_back_what_it_was_written_from() -> None:
    label_sets = {"cost_total": LabelSet(("model",), 3, 1_790_000_000.123456), "spans_total": LabelSet(())}
    assert decode_label_sets([label_sets_header(label_sets)]) == label_sets
    assert decode_label_sets([]) == decode_label_sets(None) == {}


@pytest.mark.parametrize("value", [b"{", b"[]", b'{"cost_total": 1}', b'{"cost_total": [["model"], "x", 0]}'])
def test_damaged_header_is_said(topic: Any, value: bytes) -> None:
    life = Life(topic)
    life.counted([message(span())])
    life.write()
    headers = topic.headers[OWN]
    topic.headers[OWN] = [(LABELS_HEADER, value), *[header for header in headers if header[0] != LABELS_HEADER]]
    reader = StateReader(ScriptedClients(producer=ScriptedProducer), "the.state", "g")
    with pytest.raises(UnreadableRecord, match=rf"the header {LABELS_HEADER}|The header {LABELS_HEADER}"):
        reader.restore("a", LAYOUT, Harness().groups, "spans")


def seen(values: dict[Series, float]) -> dict[Series, float]:
    """Leave out labels without a value, as Prometheus does."""
    return {
        (name, frozenset((label, value) for label, value in labels if value)): number
        for (name, labels), number in values.items()
    }


def by_family(values: dict[Series, float]) -> Counter[tuple[str, str]]:
    """Sums by name and `le`, in billionths."""
    found: Counter[tuple[str, str]] = Counter()
    for (name, labels), value in values.items():
        found[name, dict(labels).get("le", "")] += round(value * 1e9)
    return found


@pytest.mark.parametrize("seed", range(6))
def test_increases_over_changes_of_labels_are_what_was_counted(topic: Any, seed: int) -> None:
    """Each process drains before the labels change; others are killed at any moment after their first scrape."""
    rng = random.Random(seed)
    labels = CHOICES[0]
    life, prometheus = Life(topic, labels=labels), Prometheus()
    changes = 0
    for _ in range(150):
        life.clock.now_s += rng.choice([0.2, 1.0])
        step = rng.choices(["count", "write", "scrape", "kill", "change"], [5, 4, 4, 1, 1])[0]
        if step == "count":
            life.counted([*some(rng), message(span(caller="", cost_usd=0.25, latency_ms=3.0))])
        elif step == "write":
            life.write()
        elif step == "scrape":
            prometheus.add(seen(life.scrape()))
        else:
            if step == "change":
                drain(life, prometheus)
                changes, labels = changes + 1, rng.choice(CHOICES)
            life = Life(topic, life.clock.now_s, labels)
            if step == "change":
                prometheus.add(seen(life.scrape()))
    drain(life, prometheus)
    truth = by_family(counters(Renderer(labels).render(life.state.snapshot, [], "text")))
    assert changes > 2
    assert len(truth) > 50
    found: Counter[tuple[str, str]] = Counter()
    for (name, series), amount in prometheus.increases.items():
        found[name, dict(series).get("le", "")] += amount
    assert found == truth


def drain(life: Life, prometheus: Prometheus) -> None:
    for _ in range(3):
        life.clock.now_s += 1.0
        life.write()
        prometheus.add(seen(life.scrape()))


def test_new_series_begin_at_what_was_restored_until_they_are_seen(topic: Any) -> None:
    life, prometheus = Life(topic, labels=CHOICES[0]), Prometheus()
    life.counted([message(span(cost_usd=2.0))])
    drain(life, prometheus)
    life = Life(topic, life.clock.now_s + 1.0, CHOICES[1])
    life.counted([message(span(cost_usd=3.0)), message(span(cost_usd=7.0, caller="new"))])
    life.write()
    cost = {
        dict(labels).get("caller"): value
        for (name, labels), value in life.scrape().items()
        if name.endswith("cost_total")
    }
    assert cost == {"": 2.0, "new": 0.0}
    life.write()
    found = {labels: value for (name, labels), value in life.scrape().items() if name.endswith("cost_total")}
    assert sorted(found.values()) == [5.0, 7.0]
    assert all(("labels_revision", "1") in labels for labels in found)
    assert not life.state.prepare(), "it is committed that they were shown"
    again = Life(topic, life.clock.now_s + 1.0, CHOICES[1]).scrape()
    assert {labels: value for (name, labels), value in again.items() if name.endswith("cost_total")} == found


def test_group_that_comes_back_after_its_expiry_begins_at_0(topic: Any) -> None:
    life, prometheus = Life(topic, labels=CHOICES[0]), Prometheus()
    life.counted([message(span(model="m", cost_usd=2.0))])
    drain(life, prometheus)
    life = Life(topic, life.clock.now_s + 1.0, CHOICES[1])
    drain(life, prometheus)
    life.clock.now_s += 2 * IDLE_S
    life.counted([message(span(model="other"))])
    Replica.write(life)
    assert not any(
        ("model", "m") in labels for (name, labels), _ in life.scrape().items() if name.endswith("cost_total")
    )
    life.counted([message(span(model="m", cost_usd=1.0))])
    life.write()
    found = [
        v for (name, labels), v in life.scrape().items() if name.endswith("cost_total") and ("model", "m") in labels
    ]
    assert found == [0.0]


def test_budget_counts_the_label_of_each_revised_family_once() -> None:
    budget = SeriesBudget(max_series=1000, max_bytes=1_000_000, layout=LAYOUT)
    budget.add(Group("m", "p", "c"), always=True)
    before = budget.used
    budget.add_revisions({"cost_total": LabelSet(("model",), 1, 1.0), "spans_total": LabelSet(("model",))})
    after = budget.used
    assert after.series == before.series
    # Its sample and the time of its creation.
    assert after.size == before.size + 2 * len(',labels_revision="1"')
    budget.add_revisions({"cost_total": LabelSet(("model",), 1, 1.0)})
    assert budget.used == after
    budget.add(Group("n", "p", "c"), always=True)
    assert budget.used.size - after.size == after.size
