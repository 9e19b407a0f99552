"""Groups that expire: their series end, no other series ever steps back, and no sum over the state changes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from tests.harness import Harness
from tests.spanfactory import message, span
from tokentrace.exposition import Renderer
from tokentrace.model.measures import SUMS
from tokentrace.model.snapshot import ExpiredKey

IDLE_S = 600.0
Label = tuple[tuple[str, str], ...]

#: `metrics.labels` by name: the default; a family without labels; one by caller alone, which its groups must wait for.
LABELS: dict[str, dict[str, tuple[str, ...]]] = {
    "default": {},
    "none": {"spans_total": (), "latency_ms": ("model",)},
    "caller": {"spans_total": ("caller",), "latency_ms": ("provider", "caller", "status")},
}


def parse(text: str) -> dict[tuple[str, Label], float]:
    """(name, labels) -> value of every sample."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Expiring(Harness):
    """A rig whose groups expire, and the renderer that shows it."""

    def __init__(self, labels: dict[str, tuple[str, ...]], zero_first: bool = False, **more: Any) -> None:
        self.renderer = Renderer(labels, zero_first)
        super().__init__(expire_after_s=IDLE_S, label_sets=self.renderer.label_sets, **more)

    def shown(self) -> dict[tuple[str, Label], float]:
        return parse(self.renderer.render(self.ledger.snapshot, [], "text").decode())

    def scrape(self) -> dict[tuple[str, Label], float]:
        """As a Prometheus sees it that comes again."""
        scrape = self.renderer.scrape(lambda: self.ledger.snapshot, "text", by_prometheus=True)
        self.renderer.record_scrape(("one", 1), scrape.number, {("one", 1)})
        return parse(scrape.body.decode())

    def everything(self) -> Counter[str]:
        """All that was ever counted, whether it has a series or not."""
        totals: Counter[str] = Counter()
        for column, name in enumerate(SUMS):
            totals[name] = int(self.ledger.snapshot.values[:, column].sum())
        return totals


def call(model: str, caller: str, status: str = "ok") -> dict[str, Any]:
    return span(model=model, provider=f"{model}-lab", caller=caller, status=status, cost_usd=0.25, latency_ms=100.0)


def scored(score: float) -> dict[str, Any]:
    return {"attributes": {"eval.score": score}}


def callers(shown: dict[tuple[str, Label], float]) -> set[str]:
    return {dict(labels)["caller"] for name, labels in shown if name == "tokentrace_cost_total"}


moments = st.lists(
    st.tuples(
        st.sampled_from([1.0, 40.0, 200.0, 400.0, 599.0, 700.0]),
        st.lists(
            st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.sampled_from(["ok", "error"])), max_size=3
        ),
    ),
    max_size=30,
)


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@given(moments)
def test_no_series_steps_back_while_it_is_shown_and_nothing_is_lost(
    labels: dict[str, tuple[str, ...]], moments: list[tuple[float, list[tuple[str, str, str]]]]
) -> None:
    rig = Expiring(labels)
    last_s: dict[tuple[str, str], float] = {}
    spans, before, looked_s = 0, rig.shown(), 0.0
    for wait_s, calls in moments:
        rig.clock.now_s += wait_s
        for model, caller, _ in calls:
            last_s[model, caller] = rig.clock.now_s
        spans += len(calls)
        rig.count([message(call(*arguments)) for arguments in calls], offset=spans)
        rig.commit()
        after = rig.shown()
        for series, value in before.items():
            if series[0] not in ("tokentrace_groups", "tokentrace_quality_score"):
                assert after.get(series, value) >= value, series
        assert rig.everything()["spans"] == spans
        assert rig.everything()["cost_nano_usd"] == spans * 250_000_000
        if rig.clock.now_s >= looked_s + IDLE_S / 20:
            looked_s = rig.clock.now_s
            alive = {group for group, at_s in last_s.items() if at_s > rig.clock.now_s - IDLE_S}
            if "caller" in labels.get("spans_total", ()):
                alive = {group for group in last_s if group[1] in {caller for _, caller in alive}}
            last_s = {group: last_s[group] for group in alive}
            found = {(dict(of)["model"], dict(of)["caller"]) for name, of in after if name == "tokentrace_cost_total"}
            assert found == alive
            assert after["tokentrace_groups", ()] == len(alive)
            if "spans_total" not in labels:
                assert {dict(of)["model"] for name, of in after if name == "tokentrace_spans_total"} == {
                    model for model, _ in alive
                }
        before = after


def test_without_the_setting_nothing_expires() -> None:
    rig = Harness()
    rig.count([message(call("a", "x"))])
    rig.commit()
    rig.clock.now_s += 1e9
    assert not rig.state.prepare()


def test_a_caller_ends_and_its_model_goes_on() -> None:
    rig = Expiring({})
    rig.count([message(call("a", "x")), message(call("a", "y")), message(call("b", "z", "error"))])
    rig.commit()
    rig.clock.now_s += IDLE_S - 1
    rig.count([message(call("a", "y"))], offset=3)
    epoch = rig.commit().epoch
    assert callers(rig.shown()) == {"x", "y", "z"}
    rig.clock.now_s += 31
    snapshot = rig.commit()
    assert snapshot.epoch == epoch + 1
    assert callers(rig.shown()) == {"y"}
    by_model = {labels: value for (name, labels), value in rig.shown().items() if name == "tokentrace_spans_total"}
    assert by_model == {(("model", "a"), ("provider", "a-lab"), ("status", "ok")): 3.0}
    assert set(snapshot.expired) == {ExpiredKey("a", "a-lab", 0), ExpiredKey(None, None, 1)}


def test_a_series_that_names_its_caller_is_waited_for_by_all_its_groups() -> None:
    """Through another group and another family, too."""
    rig = Expiring({"spans_total": ("model", "caller"), "latency_ms": ("provider", "caller")})
    # Whichever family is looked at first, one of these takes a second look.
    chains = ["ap bp bq", "ap aq bq"]
    groups = [call(model, chain) | {"provider": lab} for chain in chains for model, lab in chain.split()]
    rig.count([message(group) for group in [*groups, call("a", "y")]])
    rig.commit()
    rig.clock.now_s += IDLE_S
    rig.count([message(groups[2]), message(groups[5])], offset=7)
    assert rig.commit().groups_count == 6
    rig.clock.now_s += IDLE_S
    assert rig.commit().groups_count == 0


def test_expiry_makes_room_and_a_group_that_returns_starts_at_zero() -> None:
    rig = Expiring({}, max_groups=2)
    rig.count([message(call("a", "x")), message(call("a", "y")), message(call("a", "z"))])
    rig.commit()
    assert callers(rig.shown()) == {"x", "y", "__overflow__"}
    rig.clock.now_s += IDLE_S
    rig.commit()
    assert callers(rig.shown()) == {"__overflow__"}, "which any group may need again"
    rig.clock.now_s += 60
    rig.count([message(call("a", "z")), message(call("a", "x"))], offset=3)
    snapshot = rig.commit()
    costs = {
        dict(labels)["caller"]: shown_value
        for (name, labels), shown_value in rig.shown().items()
        if name == "tokentrace_cost_total"
    }
    assert costs == {"__overflow__": 0.25, "z": 0.25, "x": 0.25}
    new = snapshot.created_s[len(snapshot.expired) :][snapshot.cell_group > 0]
    assert set(new.tolist()) == {rig.clock.now_s}


def test_prometheus_sees_no_zero_of_a_series_that_goes_on_and_one_of_a_series_that_comes_back() -> None:
    rig = Expiring({}, zero_first=True)
    rig.count([message(call("a", "x")), message(call("a", "y"))])
    rig.commit()
    rig.scrape()
    assert set(rig.scrape().values()) - {0.0}
    rig.clock.now_s += IDLE_S - 1
    rig.count([message(call("a", "y"))], offset=2)
    rig.commit()
    rig.clock.now_s += 31
    # With the very commit after which x is gone, somebody new is counted.
    rig.count([message(call("a", "new"))], offset=3)
    rig.commit()
    costs = lambda found: {dict(of)["caller"]: v for (name, of), v in found.items() if name == "tokentrace_cost_total"}  # noqa: E731
    assert costs(rig.scrape()) == {"y": 0.5, "new": 0.0}
    assert costs(rig.scrape()) == {"y": 0.5, "new": 0.25}
    rig.count([message(call("a", "x"))], offset=4)
    rig.commit()
    assert costs(rig.scrape()) == {"y": 0.5, "new": 0.25, "x": 0.0}
    assert costs(rig.scrape()) == {"y": 0.5, "new": 0.25, "x": 0.25}


def test_the_quality_window_follows_its_groups() -> None:
    rig = Expiring({})
    rig.count([message(call("a", "x"))])
    rig.commit()
    rig.clock.now_s += IDLE_S - 1
    rig.count([message(call("b", "y") | scored(0.5)), message(call("c", "z") | scored(1.0))], offset=1)
    rig.commit()
    rig.clock.now_s += 31
    rig.commit()
    scores = {dict(of)["model"]: v for (name, of), v in rig.shown().items() if name == "tokentrace_quality_score"}
    assert scores == {"b": 0.5, "c": 1.0}
    rig.clock.now_s += 300
    rig.commit()
    rig.ledger.refresh()
    assert not any(name == "tokentrace_quality_score" for name, _ in rig.shown())


def test_expiry_keeps_groups_with_uncommitted_counts() -> None:
    rig = Expiring({})
    rig.count([message(call("a", "x"))])
    rig.commit()
    rig.clock.now_s += IDLE_S
    rig.count([message(call("a", "x", "error"))], offset=1)
    assert not rig.ledger.find_expired(rig.ledger.totals)


def test_a_snapshot_stays_what_it_was() -> None:
    rig = Expiring({})
    rig.count([message(call("a", "x")), message(call("b", "y"))])
    old = rig.commit()
    body = rig.renderer.render(old, [], "openmetrics")
    rig.clock.now_s += IDLE_S
    rig.count([message(call("c", "z"))], offset=2)
    rig.commit()
    assert np.array_equal(old.cell_group, old.cell_group.copy())
    assert Renderer({}).render(old, [], "openmetrics") == body
