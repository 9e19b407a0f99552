"""The main job: spans by a program that is not ours, two workers, a real Prometheus, and an independent recount."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.chaos.test_attack import Committed
from tests.conftest import unavailable
from tests.oracle import Key, cost_of, recount
from tests.services.kafka import KafkaBroker
from tests.services.prometheus import Prometheus
from tests.services.workers import WorkerProcess, in_units, span_totals, wait_for
from tests.spanfactory import NOW_US, message, random_span, span


def shared(kafka: KafkaBroker, topic: str) -> dict[str, str]:
    return {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic}


def totals_in(prometheus: Prometheus, names: set[str]) -> dict[Key, int]:
    """Every sample of these names, summed over the replicas by PromQL."""
    found = {}
    for name in names:
        for labels, value in prometheus.query(f"sum without (instance, job) ({name})"):
            labels.pop("__name__", None)
            found[name, frozenset(labels.items())] = in_units(name, value)
    return found


def test_promql_sums_over_two_workers_equal_a_recount_for_every_family(
    kafka: KafkaBroker,
    topic: str,
    start_worker: Callable[..., WorkerProcess],
    start_prometheus: Callable[[list[str]], Prometheus],
) -> None:
    workers = [start_worker(kafka=shared(kafka, topic)) for _ in range(2)]
    assert wait_for(lambda: all(_assigned(worker) == 2 for worker in workers)), (
        "the four partitions are not shared by the two workers"
    )
    prometheus = start_prometheus([worker.target for worker in workers])
    rng = random.Random(20)
    # Of the last quarter of an hour, which is in the live page's window.
    later_us = int(time.time() * 1e6) - NOW_US
    spans = [_later(random_span(rng), later_us) for _ in range(20_000)]
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 5})
    for index, record in enumerate(spans):
        producer.produce(topic, message(record), partition=index % 4)
        producer.poll(0)
    producer.flush()

    # To Prometheus a label with an empty value is a label that is not there.
    expected = {
        (name, frozenset(pair for pair in labels if pair[1])): value
        for (name, labels), value in recount(spans).items()
        if value
    }
    names = {name for name, _ in expected}
    assert len(names) == 22  # 7 counters, and bucket, count and sum of 5 histograms

    def settled() -> bool:
        return sum(value for _, value in prometheus.query("sum(tokentrace_spans_total)")) == len(spans)

    assert wait_for(settled), prometheus.query("tokentrace_spans_total")
    # A scrape that a busy machine misses leaves a replica out for a moment.
    found = lambda: {key: value for key, value in totals_in(prometheus, names).items() if value}  # noqa: E731
    assert wait_for(lambda: found() == expected), found()
    assert all(_counted(worker) > 0 for worker in workers)
    shown = _by_model(spans), [False, False]
    assert wait_for(lambda: _top(prometheus) == shown), _top(prometheus)

    # The audit adds up in each replica, and nothing was rejected.
    for worker in workers:
        samples = worker.samples()
        for partition in {labels for name, labels in samples if name == "tokentrace_worker_polled_records_total"}:
            polled, counted, rejected = (
                samples[f"tokentrace_worker_{what}_records_total", partition]
                for what in ("polled", "counted", "rejected")
            )
            assert (polled, rejected) == (counted, 0)
    # The live page of each replica shows the fleet.
    cost_nano_usd = sum(value for (name, _), value in expected.items() if name == "tokentrace_cost_total")
    for worker in workers:
        assert wait_for(lambda worker=worker: _page_totals(worker) == (len(spans), str(cost_nano_usd)))  # type: ignore[misc]
    # The mean of the scores in the window, weighted by how many each replica saw.
    scored = [record["attributes"]["eval.score"] for record in spans if "eval.score" in record["attributes"]]
    mean = pytest.approx(sum(scored) / len(scored), abs=1e-6)
    query = "sum(tokentrace_eval_score_sum) / sum(tokentrace_eval_score_count)"
    assert wait_for(lambda: [value for _, value in prometheus.query(query)] == [mean]), prometheus.query(query)


def _later(record: dict[str, Any], by_us: int) -> dict[str, Any]:
    return record | {name: record[name] + by_us for name in ("started_at", "ended_at")}


def _top(prometheus: Prometheus) -> tuple[dict[tuple[str, str], tuple[int, int]], list[bool]]:
    """Spans and nano-USD of every model of a provider, and whether each replica has a problem, as `top` has them."""
    done = subprocess.run(
        [sys.executable, "-m", "tokentrace", "top", "--once", "--json", "--prometheus", prometheus.url],
        capture_output=True, text=True, check=True, timeout=180,
    )  # fmt: skip
    shown = json.loads(done.stdout)
    rows = {
        (row["model"], row["provider"]): (in_units("tokentrace_spans_total", row["spans"]),
                                          in_units("tokentrace_cost_total", row["cost_usd"]))
        for row in shown["rows"]
    }  # fmt: skip
    return rows, [bool(replica["problem"]) for replica in shown["replicas"]]


def _by_model(spans: list[dict[str, Any]]) -> dict[tuple[str, str], tuple[int, int]]:
    counts: dict[tuple[str, str], tuple[int, int]] = {}
    for record in spans:
        name = (record["model"], record["provider"])
        count, cost_nano_usd = counts.get(name, (0, 0))
        counts[name] = (count + 1, cost_nano_usd + cost_of(record)[0])
    return counts


def _page_totals(worker: WorkerProcess) -> tuple[int, str]:
    """Spans and nano-USD of the last day, as the live page has them."""
    _, body, _ = worker.get("/ui/data?window=1440")
    total = json.loads(body)["total"]
    return total["spans"], total["cost_nano_usd"]


def _assigned(worker: WorkerProcess) -> float:
    return worker.samples().get(("tokentrace_worker_assigned_partitions", frozenset()), 0)


def _counted(worker: WorkerProcess) -> float:
    return sum(value for (name, _), value in worker.samples().items() if name == "tokentrace_spans_total")


def test_spans_from_kcat_come_out_as_the_seed_example_says(
    kafka: KafkaBroker, topic: str, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    if shutil.which("kcat") is None:
        unavailable("kcat is not installed (Debian: apt-get install kcat)")
    spans = [span(cost_usd=0.25, status="ok"), span(cost_usd=0.5, status="error"), span(cost_usd=1e-9)]
    files = []
    for index, record in enumerate(spans):
        files.append(tmp_path / f"{index}.bin")
        files[-1].write_bytes(message(record))
    subprocess.run(["kcat", "-P", "-b", kafka.bootstrap, "-t", topic, *map(str, files)], check=True)
    worker = start_worker(kafka=shared(kafka, topic))
    assert wait_for(lambda: _counted(worker) == 3)
    _, body, _ = worker.get("/metrics/prometheus")
    text = body.decode()
    lines = text.splitlines()
    assert "# HELP tokentrace_cost_total Total cost in USD." in lines
    assert "# HELP tokentrace_spans_total Total spans recorded." in lines
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    # Labels may come in any order; the example's series have to be there.
    cost = _only(values, "tokentrace_cost_total", 'model="gpt-4o"', 'provider="openai"', 'caller=""')
    ok = _only(values, "tokentrace_spans_total", 'status="ok"', 'model="gpt-4o"', 'provider="openai"')
    assert (cost, ok) == ("0.750000001", "2")
    assert span_totals([worker])["tokentrace_cost_total", _labels(model="gpt-4o", provider="openai", caller="")] == (
        750_000_001
    )


def _labels(**labels: str) -> frozenset[tuple[str, str]]:
    return frozenset(labels.items())


def _only(values: dict[str, str], name: str, *labels: str) -> str:
    (found,) = (
        value
        for series, value in values.items()
        if re.match(rf"{name}{{", series) and all(label in series for label in labels)
    )
    return found


def test_both_expositions_are_accepted_by_the_tools_that_read_them(
    kafka: KafkaBroker, topic: str, start_worker: Callable[..., WorkerProcess]
) -> None:
    if shutil.which("promtool") is None:
        unavailable("promtool is not installed (Debian: apt-get install prometheus)")
    rng = random.Random(3)
    spans = [random_span(rng) for _ in range(200)]
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for record in spans:
        producer.produce(topic, message(record))
    producer.flush()
    worker = start_worker(kafka=shared(kafka, topic))
    assert wait_for(lambda: _counted(worker) == 200)
    _, text, headers = worker.get("/metrics/prometheus")
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    # The contract's own names of these two histograms say ms where the linter would have seconds.
    complaints = [line for line in checked.stderr.decode().splitlines() if line]
    assert [line.split(" ")[0] for line in complaints] == ["tokentrace_latency_ms", "tokentrace_ttft_ms"], complaints
    assert all("abbreviated units" in line for line in complaints)
    _, openmetrics, headers = worker.get("/metrics/prometheus", Accept="application/openmetrics-text; version=1.0.0")
    assert headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in text_string_to_metric_families(openmetrics.decode())}
    total = sum(s.value for s in families["tokentrace_spans"].samples if s.name == "tokentrace_spans_total")
    assert total == 200


def test_sigterm_waits_for_a_last_scrape_and_then_ends_well(
    kafka: KafkaBroker, topic: str, start_worker: Callable[..., WorkerProcess]
) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    worker = start_worker(kafka=shared(kafka, topic), worker={"drain_timeout": "10m", "commit_interval": "10m"})
    producer.produce(topic, message(span()))
    producer.flush()
    polled = ("tokentrace_worker_batch_records_count", frozenset[tuple[str, str]]())
    assert wait_for(lambda: worker.samples()[polled] == 1)
    assert _counted(worker) == 0, "what is not committed is not shown"
    worker.process.send_signal(signal.SIGTERM)
    worker.wait_for_log("waiting up to 600 s for the final values")
    assert worker.process.poll() is None
    assert _counted(worker) == 1
    assert worker.process.wait(180.0) == 0
    assert any("have been scraped" in message for message in worker.messages())


def test_sigterm_does_not_wait_longer_than_the_drain_timeout(
    kafka: KafkaBroker, topic: str, start_worker: Callable[..., WorkerProcess]
) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    producer.produce(topic, message(span()))
    producer.flush()
    worker = start_worker(kafka=shared(kafka, topic), worker={"drain_timeout": "1s"})
    worker.wait_for_log("Partitions assigned")
    assert wait_for(lambda: "ready" in worker.get("/health/ready")[1].decode())
    # A worker that has counted nothing has nothing to be scraped, and a look at its metrics would be a scrape.
    with closing(Committed(kafka, topic)) as committed:
        assert wait_for(lambda: committed.spans() == 1)
    assert worker.terminate() == 0
    assert any("not scraped within worker.drain_timeout" in message for message in worker.messages())
