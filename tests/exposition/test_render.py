"""The exposition of a snapshot: the same as the client library would write for the same numbers, in both formats."""

from __future__ import annotations

import random
import shutil
import subprocess
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.harness import Harness
from tests.oracle import DURATIONS, SCORES, TOKENS, Key, cost_of, recount
from tests.oracle import counted as counted_by_oracle
from tests.services.workers import in_units
from tests.spanfactory import message, random_span, span, unit_span
from tokentrace.exposition import Format, Renderer, collect_worker_metrics
from tokentrace.model.families import CELL_FAMILIES
from tokentrace.model.snapshot import Snapshot
from tokentrace.model.worker_stats import Moment, WorkerStats

Samples = dict[Key, float]
PARSERS: dict[str, Callable[[str], Any]] = {"text": parse_text, "openmetrics": parse_openmetrics}
NASTY = ['quote " here', "back\\slash", "line\nfeed", "percent %d %s {}", "ünïcödé 模型", "\x00nul", "a,b=c", "}"]


def counted(spans: list[dict[str, Any]]) -> Snapshot:
    counting = Harness()
    counting.count([message(span) for span in spans])
    counting.commit()
    return counting.ledger.snapshot


def rendered(snapshot: Snapshot, form: Format = "text", **labels: list[str]) -> Samples:
    """Every sample of the families over spans, parsed back."""
    text = Renderer(labels, created=True).render(snapshot, [], form).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in PARSERS[form](text)
        for sample in family.samples
    }


def by_the_client_library(spans: list[dict[str, Any]]) -> Samples:
    """The same families, observed span by span with prometheus_client's own metrics."""
    registry = CollectorRegistry()
    two, three = ["model", "provider"], ["model", "provider", "caller"]

    def counter(name: str, labels: list[str]) -> Counter:
        return Counter(f"tokentrace_{name}", name, labels, registry=registry)

    def histogram(name: str, bounds: tuple[float, ...]) -> Histogram:
        return Histogram(f"tokentrace_{name}", name, two, registry=registry, buckets=bounds)

    cost, total = counter("cost", three), counter("spans", ["status", *two])
    tokens = counter("tokens", [*three, "token_type"])
    cached, reasoning = counter("cached_prompt_tokens", three), counter("reasoning_tokens", three)
    pricing = counter("span_pricing", ["source", *two])
    usage, repaired = counter("usage", [*three, "unit"]), counter("spans_repaired", ["reason", *two])
    latency, ttft = histogram("latency_ms", DURATIONS), histogram("ttft_ms", DURATIONS)
    prompt, completion = histogram("prompt_tokens", TOKENS), histogram("completion_tokens", TOKENS)
    score = histogram("eval_score", SCORES)
    for record in spans:
        model = {name: record[name] for name in two}
        caller = {name: record[name] for name in three}
        nano, source = cost_of(record)
        cost.labels(**caller).inc(nano / 1e9)
        total.labels(status=record["status"], **model).inc()
        counts = counted_by_oracle(record)
        tokens.labels(token_type="prompt", **caller).inc(counts.usage.get("prompt", 0))
        tokens.labels(token_type="completion", **caller).inc(counts.usage.get("completion", 0))
        cached.labels(**caller).inc(counts.usage.get("cache_read", 0))
        reasoning.labels(**caller).inc(counts.usage.get("reasoning", 0))
        for unit, quantity in counts.usage.items():
            if quantity:
                usage.labels(unit=unit, **caller).inc(quantity)
        for reason in counts.repaired:
            repaired.labels(reason=reason, **model).inc()
        pricing.labels(source=source, **model).inc()
        for metric, unit in ((prompt, "prompt"), (completion, "completion")):
            if unit in counts.usage:
                metric.labels(**model).observe(counts.usage[unit])
        for metric, name in ((latency, "latency_ms"), (ttft, "ttft_ms")):
            if record[name]:
                metric.labels(**model).observe(record[name])
        if "eval.score" in record["attributes"]:
            score.labels(**model).observe(record["attributes"]["eval.score"])
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse_text(generate_latest(registry).decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def without_gauges(samples: Samples) -> Samples:
    others = ("tokentrace_groups", "tokentrace_quality", "tokentrace_spans_rejected", "tokentrace_worker")
    return {
        key: value
        for key, value in samples.items()
        if not key[0].startswith(others) and not key[0].endswith("_created")
    }


def random_spans(count: int, seed: int) -> list[dict[str, Any]]:
    """Spans of which every third has units of many kinds."""
    rng = random.Random(seed)
    return [unit_span(rng) if number % 3 == 2 else random_span(rng) for number in range(count)]


@pytest.mark.parametrize("form", ["text", "openmetrics"])
def test_exposition_equals_that_of_the_client_library(form: Format) -> None:
    spans = random_spans(2000, 1) + [span(model=name, provider=name, caller=name) for name in NASTY]
    found = without_gauges(rendered(counted(spans), form))
    expected = by_the_client_library(spans)
    assert found.keys() == expected.keys()
    # It does not round each duration to the microsecond, and its sums drift; ours are checked as integers below.
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("form", ["text", "openmetrics"])
def test_every_number_is_exact(form: Format) -> None:
    spans = random_spans(2000, 2)
    found = {
        key: in_units(key[0], value, key[1]) for key, value in without_gauges(rendered(counted(spans), form)).items()
    }
    assert {key: value for key, value in found.items() if value} == {
        key: value for key, value in recount(spans).items() if value
    }


def test_money_is_written_to_the_last_nano_dollar_where_a_float_could_not_hold_it() -> None:
    spans = [span(cost_usd=1_000_000.0)] * 90 + [span(cost_usd=1e-9)]
    text = Renderer({}).render(counted(spans), [], "text").decode()
    (line,) = (line for line in text.splitlines() if line.startswith("tokentrace_cost_total{"))
    assert line.rsplit(" ", 1)[1] == "90000000.000000001"


LABEL_SETS = [[], ["model"], ["caller"], ["status"], ["caller", "status"], ["status", "model", "provider", "caller"]]


@pytest.mark.parametrize("labels", LABEL_SETS, ids=",".join)
def test_other_labels_are_a_projection_that_keeps_every_sum(labels: list[str]) -> None:
    spans = random_spans(800, 3)
    snapshot = counted(spans)
    names = [family.name.removeprefix("tokentrace_") for family in CELL_FAMILIES]
    found = without_gauges(rendered(snapshot, **dict.fromkeys(names, labels)))
    kept = {*labels, "le", "token_type", "source", "unit", "reason"}
    finest = ["status", "model", "provider", "caller"]
    everything = without_gauges(rendered(snapshot, **dict.fromkeys(names, finest)))
    expected: dict[Key, int] = defaultdict(int)
    for (name, series), value in everything.items():
        expected[name, frozenset(pair for pair in series if pair[0] in kept)] += in_units(name, value, series)
    assert {key: in_units(key[0], value, key[1]) for key, value in found.items()} == dict(expected)


def test_quality_is_the_mean_of_the_scores_and_absent_without_any() -> None:
    spans = [span(attributes={"eval.score": 0.5}), span(attributes={"eval.score": 0.75}), span(model="unscored")]
    found = {key: value for key, value in rendered(counted(spans)).items() if key[0] == "tokentrace_quality_score"}
    assert found == {("tokentrace_quality_score", frozenset({("model", "gpt-4o"), ("provider", "openai")})): 0.625}


def test_exposition_shows_committed_values_only() -> None:
    counting = Harness()
    counting.count([message(span())])
    counting.commit()
    before = rendered(counting.ledger.snapshot)
    counting.count([message(span()), message(span(model="new"))])
    assert rendered(counting.ledger.snapshot) == before


def test_openmetrics_names_the_time_at_which_each_series_was_first_committed() -> None:
    counting = Harness()
    clock = counting.clock
    clock.now_s = 1000.0
    counting.count([message(span(status="ok"))])
    counting.commit()
    clock.now_s = 2000.0
    counting.count([message(span(status="error")), message(span(model="later"))])
    counting.commit()
    found = rendered(counting.ledger.snapshot, "openmetrics")
    first = frozenset({("model", "gpt-4o"), ("provider", "openai")})
    later = frozenset({("model", "later"), ("provider", "openai")})
    assert found["tokentrace_prompt_tokens_created", first] == 1000.0
    assert found["tokentrace_prompt_tokens_created", later] == 2000.0
    assert found["tokentrace_spans_created", first | {("status", "error")}] == 2000.0


def test_openmetrics_has_no_creation_times_unless_they_are_configured() -> None:
    snapshot = counted(random_spans(50, 5))
    library = CollectorRegistry()
    Counter("tokentrace_other", "A counter of the library.", registry=library).inc()
    others = list(library.collect())
    text = Renderer({}).render(snapshot, others, "openmetrics").decode()
    assert "_created" not in text
    assert "tokentrace_other_total 1.0\n" in text
    again = Renderer({}, created=True).render(snapshot, list(library.collect()), "openmetrics").decode()
    assert "tokentrace_other_created " in again
    without = [line for line in again.splitlines() if "_created" not in line]
    assert without == text.splitlines()


def test_help_and_type_stand_before_every_family_once() -> None:
    text = Renderer({}).render(counted(random_spans(50, 5)), [], "text").decode().splitlines()
    names = [family.name for family in CELL_FAMILIES]
    for kind in ("HELP", "TYPE"):
        heads = [line.split(" ")[2] for line in text if line.startswith(f"# {kind} ")]
        assert heads[: len(names)] == names
        assert len(set(heads)) == len(heads)
    assert "# HELP tokentrace_cost_total Total cost in USD." in text
    assert "# HELP tokentrace_spans_total Total spans recorded." in text


def test_promtool_accepts_all_of_it() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    snapshot = counted(random_spans(300, 6) + [span(model=name) for name in NASTY])
    stats = WorkerStats(replica_id="r", guarantee="g", started_at_s=0.0)
    text = Renderer({}).render(snapshot, collect_worker_metrics(Moment(stats, snapshot, 1.0)), "text")
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    lines = [line for line in checked.stderr.decode().splitlines() if line]
    assert [line.split(" ")[0] for line in lines] == ["tokentrace_latency_ms", "tokentrace_ttft_ms"]


def test_series_that_appear_later_join_a_renderer_that_has_rendered_before() -> None:
    counting = Harness()
    renderer = Renderer({})
    spans = random_spans(600, 7)
    for first in range(0, 600, 200):
        counting.count([message(span) for span in spans[first : first + 200]])
        counting.commit()
        text = renderer.render(counting.ledger.snapshot, [], "text")
        assert text == Renderer({}).render(counting.ledger.snapshot, [], "text")


def test_an_empty_snapshot_has_every_family_without_series() -> None:
    text = Renderer({}).render(Harness().ledger.snapshot, [], "text").decode()
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    assert [line.split(" ")[0] for line in samples] == [
        "tokentrace_groups",
        "tokentrace_groups_limit",
        "tokentrace_groups_overflowed_total",
    ]


def test_renderer_takes_the_newest_snapshot_when_its_turn_comes() -> None:
    """Of two scrapes at the same moment, neither renders a snapshot that is older than the other's."""
    counting = Harness()
    counting.count([message(span())])
    old = counting.commit()
    counting.count([message(span(model="new"))])
    snapshots = [old, counting.commit()]
    taken, rendered = threading.Event(), threading.Event()
    renderer = Renderer({})

    def latest() -> Snapshot:
        snapshot = snapshots.pop(0)
        if snapshot is old:
            taken.set()
            # Where the snapshot is taken outside the lock, the other scrape is rendered meanwhile.
            rendered.wait(0.3)
        return snapshot

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(renderer.scrape, latest, "text", False)
        assert taken.wait(5.0)
        second = pool.submit(renderer.scrape, latest, "text", False)
        second.add_done_callback(lambda _: rendered.set())
        scrapes = [first.result(5.0), second.result(5.0)]
    for scrape in scrapes:
        assert scrape.body == Renderer({}).render(scrape.snapshot, [], "text")
    assert scrapes[0].snapshot is old
