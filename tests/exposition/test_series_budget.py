"""The budget of series: what the groups come to in a scrape never exceeds what was counted for them."""

from __future__ import annotations

import time
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.exposition.test_render import NASTY
from tests.harness import LAYOUT, Harness
from tests.spanfactory import message, random_span, span
from tokentrace.aggregate.groups import GroupIndex
from tokentrace.aggregate.labels import labels_of
from tokentrace.aggregate.series_budget import SeriesBudget
from tokentrace.exposition import Format, Renderer
from tokentrace.model.families import FAMILIES_BY_NAME, GROUP_LABELS
from tokentrace.model.measures import Layout
from tokentrace.model.snapshot import Group, Snapshot

NAMES = st.sampled_from(["", "gpt-4o", "m" * 200, "模型" * 30, *NASTY])
LABELS = st.dictionaries(
    st.sampled_from(sorted(FAMILIES_BY_NAME)),
    st.sets(st.sampled_from(GROUP_LABELS)).map(lambda chosen: [name for name in GROUP_LABELS if name in chosen]),
)
NO_LIMIT = 10**12


def budget(max_series: int = NO_LIMIT, max_bytes: int = NO_LIMIT, **labels: list[str]) -> SeriesBudget:
    return SeriesBudget(max_series=max_series, max_bytes=max_bytes, layout=LAYOUT, labels=labels)


def exposed(snapshot: Snapshot, form: Format, labels: dict[str, list[str]]) -> tuple[int, int]:
    """Series and bytes of a scrape, without what no group has: heads of families, and the families without groups."""
    empty = len(Renderer(labels).render(Harness().commit(), [], form))
    text = Renderer(labels).render(snapshot, [], form)
    lines = [line for line in text.decode().split("\n") if line and not line.startswith("#")]
    return sum("_created" not in line for line in lines) - 3, len(text) - empty - 100


@pytest.mark.parametrize("form", ["text", "openmetrics"])
@given(groups=st.sets(st.tuples(NAMES.filter(bool), NAMES, NAMES), max_size=8), labels=LABELS, seed=st.integers(0, 99))
def test_no_scrape_is_larger_than_what_was_counted_for_it(
    form: Format, groups: set[tuple[str, str, str]], labels: dict[str, list[str]], seed: int
) -> None:
    used = budget(**labels)
    rig = Harness(budget=used)
    for model, provider, caller in groups:
        for status in ("ok", "error", "timeout"):
            record = {
                **random_span(Random(seed)),
                "model": model,
                "provider": provider,
                "caller": caller,
                "status": status,
            }
            rig.count([message(record)])
    series, size = exposed(rig.commit(), form, labels)
    assert series <= used.used.series
    assert size <= used.used.size


def test_families_with_the_same_labels_are_counted_once_for_each_label_set() -> None:
    one = budget()
    one.add(Group("m", "p", "a"), always=False)
    assert one.used.series == 97
    one.add(Group("m", "p", "b"), always=False)
    assert one.used.series == 111
    one.add(Group("n", "p", "b"), always=False)
    assert one.used.series == 208
    assert one.use == {"series": 208, "bytes": one.used.size}
    one.clear()
    assert one.use == {"series": 0, "bytes": 0}


@pytest.mark.parametrize("limits", [{"max_series": 200}, {"max_bytes": 60_000}])
@given(st.lists(st.integers(0, 30), max_size=60))
def test_beyond_the_budget_nothing_is_lost(limits: dict[str, int], numbers: list[int]) -> None:
    records = [message(random_span(Random(number)) | {"model": f"model-{number}"}) for number in numbers]
    used = budget(**limits)
    limited, whole = Harness(budget=used), Harness()
    limited.count(records)
    whole.count(records)
    assert limited.commit().values.sum(axis=0).tolist() == whole.commit().values.sum(axis=0).tolist()
    assert used.used.series <= used.max_series
    assert used.used.size <= used.max_bytes


def test_restored_groups_are_shown_beyond_a_budget_and_new_ones_overflow() -> None:
    used = budget(max_series=200)
    index = GroupIndex(100, budget=used)
    restored = [Group(f"m{number}", "", "") for number in range(5)]
    index.adopt(restored, np.zeros(5, np.uint8))
    assert index.groups[1:] == restored
    assert used.used.series == 6 * 97
    assert index.lookup(labels_of([Group("new", "", ""), restored[2]])).tolist() == [0, 3]


def test_the_budget_is_free_again_when_groups_expire() -> None:
    used = budget(max_series=3 * 97)
    index = GroupIndex(100, budget=used)
    groups = [Group(f"m{number}", "", "") for number in range(4)]
    assert index.lookup(labels_of(groups)).tolist() == [1, 2, 0, 0]
    index.retain(np.array([True, False, True]))
    assert used.used.series == 2 * 97
    assert index.lookup(labels_of([Group("new", "", ""), *groups])).tolist() == [2, 0, 1, 0, 0]


def test_a_flood_of_long_fresh_names_stays_within_the_limits() -> None:
    used = budget(max_series=20_000, max_bytes=6_000_000)
    rig = Harness(label_bytes=200, budget=used)
    names = [f"{number:06d}" + "x" * 1018 for number in range(3000)]
    for start in range(0, len(names), 500):
        rig.count([message(span(model=name)) for name in names[start : start + 500]], offset=start)
    snapshot = rig.commit()
    began = time.monotonic()
    text = Renderer().render(snapshot, [], "openmetrics")
    assert time.monotonic() - began < 10.0
    assert len(text) < used.max_bytes + 20_000
    assert int(snapshot.values[:, Layout.column("spans")].sum()) == 3000
    assert snapshot.overflowed_spans > 0
