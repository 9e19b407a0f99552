"""A new series is 0 until every Prometheus has seen it so, and never falls."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.harness import Clock, Harness
from tests.spanfactory import message, span
from tokentrace.exposition import Renderer
from tokentrace.exposition.zero_init import FIRST_INTERVAL_S, LONGEST_HOLD_S, ZeroInit
from tokentrace.model.snapshot import Snapshot


def held(zero_init: ZeroInit, scraper: str, *series: int) -> list[bool]:
    """One whole scrape of one family, by a server that keeps its connection."""
    number = zero_init.begin()
    found = zero_init.zeros(("family", ""), np.array(series, np.int64)).tolist()
    zero_init.finish((scraper, 1), number, {(scraper, 1)})
    return found


def test_a_series_is_held_for_the_first_scrape_and_shown_from_the_next() -> None:
    zero_init = ZeroInit(Clock())
    assert held(zero_init, "a", 0, 1) == [True, True]
    assert held(zero_init, "a", 0, 1, 2) == [False, False, True]
    assert held(zero_init, "a", 0, 1, 2) == [False, False, False]


def test_with_two_servers_both_see_the_zero_before_either_sees_the_value() -> None:
    clock = Clock()
    zero_init = ZeroInit(clock)
    held(zero_init, "a")
    held(zero_init, "b")
    assert held(zero_init, "a", 0) == [True]
    assert held(zero_init, "a", 0) == [True], "b has not seen it yet"
    assert held(zero_init, "b", 0) == [True]
    assert held(zero_init, "a", 0) == [False]
    assert held(zero_init, "b", 0) == [False]


def test_a_server_that_is_gone_is_not_waited_for_longer_than_some_scrapes() -> None:
    clock = Clock()
    zero_init = ZeroInit(clock)
    for _ in range(2):
        held(zero_init, "gone")
        held(zero_init, "here")
        clock.now_s += 15.0
    clock.now_s += 60.0
    assert held(zero_init, "here", 0) == [True]
    clock.now_s += 15.0
    assert held(zero_init, "here", 0) == [False]


def test_a_server_that_came_once_is_given_time() -> None:
    clock = Clock()
    zero_init = ZeroInit(clock)
    held(zero_init, "once")
    held(zero_init, "here", 0)
    assert held(zero_init, "here", 0) == [True]
    clock.now_s += FIRST_INTERVAL_S + 1
    assert held(zero_init, "here", 0) == [False]


def test_zero_init_holds_no_series_back_for_long() -> None:
    """Two requests an hour apart seem to be a server that scrapes once an hour."""
    clock = Clock()
    zero_init = ZeroInit(clock)
    held(zero_init, "anyone")
    clock.now_s += 140.0
    held(zero_init, "anyone")
    clock.now_s += 1.0
    found = []
    for _ in range(10):
        found += held(zero_init, "prometheus", 0)
        clock.now_s += 15.0
    assert LONGEST_HOLD_S == 120.0
    assert found == [True] * 9 + [False]
    assert zero_init.active() == {("anyone", 1), ("prometheus", 1)}
    assert held(zero_init, "anyone", 0, 1) == [False, True]


def test_a_server_that_was_away_for_long_sees_no_counter_fall() -> None:
    clock = Clock()
    zero_init = ZeroInit(clock)
    held(zero_init, "a", 0)
    assert held(zero_init, "a", 0) == [False]
    clock.now_s += 3600.0
    assert held(zero_init, "a", 0, 1) == [False, True]
    assert held(zero_init, "a", 0, 1) == [False, False]


def test_a_scrape_that_arrives_late_takes_no_value_back() -> None:
    clock = Clock()
    zero_init = ZeroInit(clock)
    late = zero_init.begin()
    held(zero_init, "a", 0)
    assert held(zero_init, "a", 0) == [False]
    clock.now_s += FIRST_INTERVAL_S
    assert held(zero_init, "a", 0) == [False], "a is not waited for"
    zero_init.finish(("late", 1), late, {("late", 1)})
    assert held(zero_init, "a", 0) == [False]


def test_a_server_that_comes_more_seldom_than_is_waited_for_sees_values() -> None:
    clock = Clock()
    zero_init = ZeroInit(clock)
    found = []
    for _ in range(3):
        found += held(zero_init, "seldom", 0)
        clock.now_s += FIRST_INTERVAL_S + 1
    assert found == [True, False, False]


def scrape_from(zero_init: ZeroInit, port: int, *others: int) -> list[bool]:
    """One whole scrape of series 0 by a new connection from one host, on which others are open."""
    number = zero_init.begin()
    found = zero_init.zeros(("family", ""), np.zeros(1, np.int64)).tolist()
    zero_init.finish(("host", port), number, {("host", open_port) for open_port in (port, *others)})
    return found


def test_a_server_with_a_new_connection_each_time_is_one_server() -> None:
    zero_init = ZeroInit(Clock())
    assert [scrape_from(zero_init, port) for port in range(4)] == [[True], [False], [False], [False]]
    assert zero_init.active() == {("host", 3)}


def test_two_connections_that_are_open_are_two_servers() -> None:
    zero_init = ZeroInit(Clock())
    zero_init.finish(("host", 2), zero_init.begin(), {("host", 1), ("host", 2)})
    assert scrape_from(zero_init, 1, 2) == [True]
    assert scrape_from(zero_init, 1, 2) == [True], "the other has not seen it yet"
    assert scrape_from(zero_init, 2, 1) == [True]
    assert scrape_from(zero_init, 1, 2) == [False]


def test_a_closed_connection_goes_on_in_that_of_who_was_away_for_longest() -> None:
    """Two servers behind one address, whose connections are closed between scrapes."""
    clock = Clock()
    zero_init = ZeroInit(clock)
    zero_init.finish(("host", 1), zero_init.begin(), {("host", 1), ("host", 2)})
    clock.now_s += 60.0
    zero_init.finish(("host", 2), zero_init.begin(), {("host", 1), ("host", 2)})
    clock.now_s += 60.0
    assert scrape_from(zero_init, 3) == [True]
    clock.now_s += 60.0
    assert scrape_from(zero_init, 4) == [True], "the second has not seen it yet"
    clock.now_s += 60.0
    assert scrape_from(zero_init, 5) == [False]
    assert zero_init.active() == {("host", 4), ("host", 5)}


def test_a_scrape_that_never_arrived_does_not_count() -> None:
    zero_init = ZeroInit(Clock())
    zero_init.begin()
    assert zero_init.zeros(("family", ""), np.array([0])).tolist() == [True]
    assert held(zero_init, "a", 0) == [True]
    assert held(zero_init, "a", 0) == [False]


def test_zero_init_shows_restored_series_at_once() -> None:
    zero_init = ZeroInit(Clock())
    zero_init.mark_restored(("family", ""), np.arange(3), np.array([True, True, False]))
    assert held(zero_init, "a", 0, 1, 2, 3) == [False, False, True, True]
    assert held(zero_init, "a", 0, 1, 2, 3) == [False] * 4


def committed(zero_init: ZeroInit, newest_s: float, shown_until_s: float, *series: int) -> list[bool]:
    """One whole scrape of a snapshot with these times."""
    number = zero_init.begin(newest_s, shown_until_s)
    found = zero_init.zeros(("family", ""), np.array(series, np.int64)).tolist()
    zero_init.finish(("a", 1), number, {("a", 1)})
    return found


def test_a_series_is_held_until_it_is_committed_that_it_is_shown() -> None:
    zero_init = ZeroInit(Clock())
    assert committed(zero_init, 100.0, 0.0, 0) == [True]
    assert zero_init.seen_until_s == 100.0, "may be committed"
    assert committed(zero_init, 101.0, 0.0, 0, 1) == [True, True]
    assert committed(zero_init, 101.0, 100.0, 0, 1) == [False, True]
    assert zero_init.seen_until_s == 101.0
    assert committed(zero_init, 101.0, 101.0, 0, 1) == [False, False]


CONNECTED = {("a", 1), ("b", 1), ("c", 1)}


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 6), st.booleans()), max_size=40))
def test_no_server_ever_sees_a_value_without_the_zero_or_a_zero_after_the_value(
    scrapes: list[tuple[str, int, bool]],
) -> None:
    """While all three are known from the beginning and none goes away."""
    zero_init = ZeroInit(Clock())
    for name in "abc":
        held(zero_init, name)
    seen: dict[tuple[str, int], str] = {}
    top = 0
    for scraper, more, arrives in scrapes:
        top = max(top, more)
        number = zero_init.begin()
        found = zero_init.zeros(("family", ""), np.arange(top)).tolist()
        if not arrives:
            continue
        zero_init.finish((scraper, 1), number, CONNECTED)
        for series, zero in enumerate(found):
            before = seen.get((scraper, series))
            assert not (before == "value" and zero)
            assert not (before is None and not zero)
            seen[scraper, series] = "zero" if zero else "value"


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 6), st.integers(0, 400)), max_size=40))
def test_zero_init_never_returns_to_zero(scrapes: list[tuple[str, int, int]]) -> None:
    clock = Clock()
    zero_init = ZeroInit(clock)
    shown: set[int] = set()
    top = 0
    for scraper, more, pause_s in scrapes:
        clock.now_s += pause_s
        top = max(top, more)
        zeros = held(zero_init, scraper, *range(top))
        assert not any(zeros[series] for series in shown)
        shown |= {series for series, zero in enumerate(zeros) if not zero}


def cost_lines(body: bytes) -> list[str]:
    return [line.rsplit(" ", 1)[1] for line in body.decode().splitlines() if line.startswith("tokentrace_cost_total{")]


def test_every_family_of_a_new_series_begins_at_zero_for_prometheus_and_nobody_else() -> None:
    rig = Harness()
    rig.count([message(span(cost_usd=0.5, latency_ms=5.0, ttft_ms=1.0, attributes={"eval.score": 1.0})), b"junk"])
    snapshot = rig.commit()
    renderer = Renderer({}, zero_first=True)
    assert cost_lines(renderer.scrape(lambda: snapshot, "text", by_prometheus=False).body) == ["0.500000000"]
    first = renderer.scrape(lambda: snapshot, "text", by_prometheus=True)
    renderer.record_scrape(("a", 1), first.number, {("a", 1)})
    assert not first.complete
    values = {
        line.rsplit(" ", 1)[1]
        for line in first.body.decode().splitlines()
        if not line.startswith(("#", "tokentrace_groups", "tokentrace_quality"))
    }
    assert values == {"0", "0.000000000", "0.000", "0.000000"}
    second = renderer.scrape(lambda: snapshot, "text", by_prometheus=True)
    assert second.complete
    assert second.body == renderer.render(snapshot, [], "text")
    assert renderer.active_servers() == {("a", 1)}


def test_without_zero_first_a_prometheus_sees_the_values() -> None:
    rig = Harness()
    rig.count([message(span())])
    snapshot = rig.commit()
    scrape = Renderer({}).scrape(lambda: snapshot, "text", by_prometheus=True)
    assert (scrape.number, scrape.complete) == (0, True)


def test_a_restored_snapshot_is_no_news() -> None:
    rig = Harness()
    rig.count([message(span(cost_usd=0.5))])
    snapshot = rig.commit()
    renderer = Renderer({}, zero_first=True)
    renderer.restore(lambda: snapshot)
    assert cost_lines(renderer.scrape(lambda: snapshot, "text", by_prometheus=True).body) == ["0.500000000"]


def test_zero_init_lets_no_scrape_in_while_totals_are_restored() -> None:
    counting = Harness()
    empty = counting.ledger.snapshot
    counting.count([message(span(cost_usd=0.5))])
    restored = counting.commit()
    renderer = Renderer({}, zero_first=True)
    latest = [empty]
    published, scraped = threading.Event(), threading.Event()

    def publish() -> Snapshot:
        latest[0] = restored
        published.set()
        # Where a scrape is not kept out, it comes here.
        scraped.wait(0.3)
        return restored

    with ThreadPoolExecutor(2) as pool:
        restoring = pool.submit(renderer.restore, publish)
        assert published.wait(5.0)
        scraping = pool.submit(renderer.scrape, lambda: latest[0], "text", by_prometheus=True)
        scraping.add_done_callback(lambda _: scraped.set())
        restoring.result(5.0)
        assert cost_lines(scraping.result(5.0).body) == ["0.500000000"]
