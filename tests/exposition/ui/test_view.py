"""The figures of a view, against a recount in plain Python that shares no code with them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import pytest

from tests.exposition.ui.helpers import NOW_MINUTE, at
from tests.harness import LAYOUT, NOW_S, Harness
from tests.oracle import cost_of, counted
from tests.spanfactory import message, random_span, span
from tokentrace.alerts.rollup_reader import Rollup, RollupReader
from tokentrace.exposition.ui.minutes import Minutes
from tokentrace.exposition.ui.view import MOST_ROWS, View, summarize
from tokentrace.model.dimensions import Dimension
from tokentrace.state import StateCodec
from tokentrace.state.records import Progress

LABELS = ("model", "provider", "caller", "team")
TEAM = Dimension("team", "attributes.user", "", 1000, 100)


def rollups(spans: Sequence[dict[str, Any]], dimensions: Sequence[Dimension] = ()) -> list[bytes]:
    """The rollups of one commit of these spans."""
    rig = Harness(dimensions=dimensions)
    rig.count([message(record) for record in spans])
    rows, groups = rig.delta.by_minute(), rig.groups
    cells = [
        (groups.groups[group], status)
        for group, status in zip(
            groups.cell_group[rows.cells].tolist(), groups.cell_status[rows.cells].tolist(), strict=True
        )
    ]
    return list(StateCodec(LAYOUT).rollups("r", NOW_S, rows.minutes, cells, rows.values, Progress(1, {}, 0)))


def minutes_of(*commits: Sequence[dict[str, Any]], dimensions: Sequence[Dimension] = (), **bounds: int) -> Minutes:
    """The minutes after these commits."""
    minutes = Minutes(LAYOUT, **bounds)
    reader = RollupReader(LAYOUT, minutes.columns.read, minutes.number)
    for commit in commits:
        for value in rollups(commit, dimensions):
            minutes.add(reader.read(value), NOW_MINUTE)
    return minutes


def spans_of_the_hour(seed: int, count: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [random_span(rng) | at(-rng.randrange(60)) for _ in range(count)]


def recount(spans: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The exact figures of spans."""
    units: Counter[str] = Counter()
    for record in spans:
        units.update(counted(record)[0])
    scores = [record["attributes"]["eval.score"] for record in spans if "eval.score" in record["attributes"]]
    return {
        "spans": len(spans),
        "errors": sum(record["status"] == "error" for record in spans),
        "timeouts": sum(record["status"] == "timeout" for record in spans),
        "cost_nano_usd": str(sum(cost_of(record)[0] for record in spans)),
        "units": {name: quantity for name, quantity in units.items() if quantity},
        "scores": len(scores),
        "unpriced": sum(cost_of(record)[1] == "unpriced" for record in spans),
    }


def exact(figures: dict[str, Any], spans: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {name: figures[name] for name in recount(spans)}


def test_totals_rows_and_points_equal_a_recount() -> None:
    spans = spans_of_the_hour(1, 600)
    found = summarize(minutes_of(spans[:250], spans[250:]), View(60, "caller"), NOW_MINUTE)
    assert exact(found["total"], spans) == recount(spans)
    callers = {record["caller"] for record in spans}
    assert {row["value"] for row in found["rows"]} == callers
    for row in found["rows"]:
        chosen = [record for record in spans if record["caller"] == row["value"]]
        assert exact(row, chosen) == recount(chosen)
    assert (found["first"], found["step"]) == ((NOW_MINUTE - 59) * 60, 1)
    for point in range(60):
        chosen = [record for record in spans if record["ended_at"] // 60_000_000 == NOW_MINUTE - 59 + point]
        assert found["points"]["spans"][point] == len(chosen)
        assert found["points"]["errors"][point] == sum(record["status"] == "error" for record in chosen)
        assert found["points"]["cost_usd"][point] == sum(cost_of(record)[0] for record in chosen) / 1e9
    for line in found["lines"]:
        chosen = [record for record in spans if record["caller"] == line["value"]]
        assert round(sum(line["cost_usd"]) * 1e9) == sum(cost_of(record)[0] for record in chosen)


def test_quality_is_the_mean_of_the_scores_and_durations_are_quantiles() -> None:
    spans = [span(**at(-1, latency_ms=80.0, attributes={"eval.score": score})) for score in (0.25, 0.5, 1.0)]
    total = summarize(minutes_of(spans), View(15), NOW_MINUTE)["total"]
    assert total["quality"] == pytest.approx(fmean([0.25, 0.5, 1.0]), abs=1e-6)
    assert total["latency_ms"] == {"p50": 75.0, "p95": 97.5, "p99": 99.5}
    assert total["ttft_ms"] == {"p50": None, "p95": None, "p99": None}


def test_filters_select_by_labels_and_dimensions() -> None:
    spans = spans_of_the_hour(2, 400)
    minutes = minutes_of(spans, dimensions=[TEAM])
    (model, team), most = Counter((record["model"], record["attributes"]["user"]) for record in spans).most_common(1)[0]
    found = summarize(minutes, View(60, "provider", (("model", model), ("team", team))), NOW_MINUTE)
    chosen = [record for record in spans if (record["model"], record["attributes"]["user"]) == (model, team)]
    assert exact(found["total"], chosen) == recount(chosen)
    assert found["total"]["spans"] == most


def test_a_long_window_has_several_minutes_a_point() -> None:
    spans = [span(**at(-minute)) for minute in range(24 * 60)]
    found = summarize(minutes_of(spans), View(1440), NOW_MINUTE)
    assert found["step"] == 8
    assert len(found["points"]["spans"]) == 180
    assert found["total"]["spans"] == sum(found["points"]["spans"])
    assert set(found["points"]["spans"][:-1]) == {8}


def test_rows_beyond_the_most_are_one_row_and_the_sum_stays() -> None:
    spans = [span(**at(0, model=f"m{number}", cost_usd=number / 100)) for number in range(MOST_ROWS + 7)]
    found = summarize(minutes_of(spans), View(60), NOW_MINUTE)
    assert found["rows"][-1]["others"] == 7
    assert sum(int(row["cost_nano_usd"]) for row in found["rows"]) == int(found["total"]["cost_nano_usd"])
    assert found["rows"][0]["value"] == f"m{MOST_ROWS + 6}"


def test_no_cost_is_too_large() -> None:
    million = [span(**at(0, cost_usd=1e6)) for _ in range(1000)]
    minutes = minutes_of(*[million] * 12)
    assert summarize(minutes, View(60), NOW_MINUTE)["total"]["cost_nano_usd"] == str(12_000 * 10**15)


def test_without_spans_there_are_figures_of_nothing() -> None:
    found = summarize(Minutes(LAYOUT), View(), NOW_MINUTE)
    assert found["total"]["spans"] == 0
    assert (found["rows"], found["lines"]) == ([], [])
    assert found["points"]["spans"] == [0] * 60


def test_the_earliest_minutes_are_dropped_where_memory_is_short() -> None:
    spans = [span(**at(-minute, model=f"m{number}")) for minute in range(30) for number in range(20)]
    minutes = minutes_of(spans, most_bytes=100_000)
    assert minutes.bytes <= 100_000
    kept = [minute.minute for minute in minutes.between(0, NOW_MINUTE)]
    assert kept == list(range(minutes.dropped_before, NOW_MINUTE + 1))
    assert len(kept) > 5


def test_minutes_that_are_too_old_or_too_far_ahead_are_left_out() -> None:
    minutes = Minutes(LAYOUT)
    reader = RollupReader(LAYOUT, minutes.columns.read, minutes.number)
    (value,) = rollups([span(**at(0))])
    rollup: Rollup = reader.read(value)
    for now_minute in (NOW_MINUTE + 1441, NOW_MINUTE - 61):
        minutes.add(rollup, now_minute)
    assert list(minutes.between(0, NOW_MINUTE + 9999)) == []


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ([("window", "61")], "window: use one of 15, 60, 360, 1440, in minutes"),
        ([("by", "status")], "by: use one of model, provider, caller, team"),
        ([("where.nobody", "x")], "unknown parameter 'where.nobody'; use window, by, and where.<label>"),
        ([("token", "x")], "unknown parameter 'token'; use window, by, and where.<label>"),
    ],
)
def test_a_query_that_is_wrong_is_refused(query: list[tuple[str, str]], problem: str) -> None:
    with pytest.raises(ValueError, match="use") as raised:
        View.of(query, LABELS)
    assert str(raised.value) == problem


def test_a_query_is_a_view() -> None:
    query = [("window", "360"), ("by", "team"), ("where.team", "a"), ("where.model", ""), ("where.team", "b")]
    assert View.of(query, LABELS) == View(360, "team", (("model", ""), ("team", "b")))
