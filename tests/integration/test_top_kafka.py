"""`tokentrace top --kafka` on a real Kafka: the figures are those of the scrapes and of the recount, over a crash."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from confluent_kafka import Producer

from tests.oracle import cost_of, counted
from tests.services.kafka import KafkaBroker
from tests.services.workers import WorkerProcess, wait_for, write_config
from tests.spanfactory import message, random_span

BAD_MESSAGES = 3


def top(*arguments: str, columns: int = 200) -> subprocess.CompletedProcess[str]:
    """Run the command until it ends."""
    return subprocess.run(
        [sys.executable, "-m", "tokentrace", "top", *arguments, "--once"],
        capture_output=True, text=True, check=False, timeout=120, env={**os.environ, "COLUMNS": str(columns)},
    )  # fmt: skip


def document(*arguments: str) -> dict[str, Any]:
    done = top(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def exact(row: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a row that are all-time, costs in nano-USD."""
    kept = {name: value for name, value in row.items() if "per" not in name and name != "quality"}
    quality = row["quality"]
    return {
        **kept,
        "cost_usd": round(row["cost_usd"] * 1e9),
        "quality": None if quality is None else round(quality, 9),
    }


def recounted(spans: list[dict[str, Any]], *fields: str) -> dict[tuple[str, ...], tuple[int, int, int]]:
    """Return values of the fields -> (spans, nano-USD, spans that failed)."""
    sums: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for span in spans:
        row = sums[tuple(span[field] for field in fields)]
        row.update(spans=1, nano=cost_of(span)[0], failed=span["status"] != "ok")
    return {name: (row["spans"], row["nano"], row["failed"]) for name, row in sums.items()}


def shown(found: dict[str, Any], *fields: str) -> dict[tuple[str, ...], tuple[int, int, int]]:
    return {
        tuple(row[field] for field in fields): (
            int(row["spans"]),
            round(row["cost_usd"] * 1e9),
            round(row["error_ratio"] * row["spans"]),
        )
        for row in found["rows"]
    }


class Fleet:
    """Two workers of one group, and what was published to them."""

    def __init__(self, kafka: KafkaBroker, topic: str, start: Callable[..., WorkerProcess], folder: Path) -> None:
        sections: dict[str, Any] = {
            "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
            "worker": {"session_timeout": "6s"},
            "dimensions": {"retry": {"source": "attributes.retry"}},
        }
        self.config = write_config(folder / "top.yml", sections, "looks-on")
        self.workers = [start(**sections), start(**sections)]
        self.spans: list[dict[str, Any]] = []
        self.bad = 0
        self._topic, self._producer = topic, Producer({"bootstrap.servers": kafka.bootstrap})
        self._rng = random.Random(21)

    @property
    def kafka(self) -> tuple[str, ...]:
        return "--kafka", "--config", str(self.config)

    @property
    def urls(self) -> list[str]:
        return [worker.target for worker in self.workers]

    def publish(self, count: int) -> None:
        """Publish spans to all partitions, and messages that nobody can read."""
        spans = [random_span(self._rng) for _ in range(count)]
        for number, value in enumerate([*map(message, spans), *[b"not a span"] * BAD_MESSAGES]):
            self._producer.produce(self._topic, value, partition=number % 4)
        self._producer.flush(30)
        self.spans += spans
        self.bad += BAD_MESSAGES

    def settle(self) -> dict[str, Any]:
        """Wait until everything is counted; return what Kafka says then."""
        found: dict[str, Any] = {}

        def done() -> bool:
            found.update(document(*self.kafka))
            return found["total"]["spans"] == len(self.spans) and found["rejected"] == self.bad

        assert wait_for(done), (found, [worker.log()[-1500:] for worker in self.workers])
        return found


@pytest.fixture
def fleet(kafka: KafkaBroker, topic: str, start_worker: Callable[..., WorkerProcess], tmp_path: Path) -> Fleet:
    return Fleet(kafka, topic, start_worker, tmp_path)


def test_the_figures_are_those_of_the_scrapes_and_of_the_recount_over_a_crash(fleet: Fleet) -> None:
    fleet.publish(2000)
    fleet.settle()
    fleet.workers[1].kill()
    fleet.publish(1000)
    fleet.workers[1].restart()
    fleet.workers[1].wait_until_ready()
    fleet.publish(500)
    found = fleet.settle()
    scraped = document(*fleet.urls)
    assert list(map(exact, found["rows"])) == list(map(exact, scraped["rows"]))
    assert exact(found["total"]) == exact(scraped["total"])
    for name in ("rejected", "unpriced", "lag_records"):
        assert found[name] == scraped[name], name
    assert shown(found, "model", "provider") == recounted(fleet.spans, "model", "provider")
    # The scrape has no caller in its spans, and no dimension; the state has.
    by_caller = document(*fleet.kafka, "--by", "caller")
    assert shown(by_caller, "caller") == recounted(fleet.spans, "caller")
    retried = [span | {"retry": str(span["attributes"]["retry"])} for span in fleet.spans]
    assert shown(document(*fleet.kafka, "--by", "retry"), "retry") == recounted(retried, "retry")
    assert found["replicas"] == [{"url": f"replica-{number}", "problem": None} for number in (0, 1)]
    assert set(found["absent"]) == {"lag_seconds"}
    assert found["lag_seconds"] is None


@pytest.mark.parametrize("columns", [80, 100, 120])
def test_no_figure_is_cut_and_what_is_absent_is_said(fleet: Fleet, columns: int) -> None:
    fleet.publish(400)
    fleet.settle()
    lines = top(*fleet.kafka, columns=columns).stdout.splitlines()
    assert max(map(len, lines)) <= columns
    (total,) = (line for line in lines if line.startswith("all "))
    nano = sum(cost_of(span)[0] for span in fleet.spans)
    assert total.split()[1] == f"{len(fleet.spans):,}"
    assert f"${nano / 1e9:,.2f}" in total.split()
    unpriced = sum(cost_of(span)[1] == "unpriced" for span in fleet.spans)
    groups = len({(span["model"], span["provider"], span["caller"]) for span in fleet.spans})
    text = " ".join(lines)
    assert f"2 replicas · 0 records behind · {fleet.bad} rejected · {unpriced} unpriced · {groups} groups" in text, text
    assert "not shown: seconds behind (Kafka tells offsets, not times; replicas tell both)" in text


def test_rates_are_what_was_counted_within_the_window(fleet: Fleet) -> None:
    before_s = time.time()
    fleet.publish(1000)
    fleet.settle()
    first = document(*fleet.kafka, "--window", "1h")
    # The group counts for less long than the window.
    seconds = len(fleet.spans) / first["total"]["spans_per_s"]
    assert 0 < seconds < time.time() - before_s + 5
    tokens = sum(int(counted(span).usage.get(kind, 0)) for span in fleet.spans for kind in ("prompt", "completion"))
    nano = sum(cost_of(span)[0] for span in fleet.spans)
    assert first["total"]["tokens_per_s"] == pytest.approx(tokens / seconds)
    assert first["total"]["usd_per_hour"] == pytest.approx(nano / 1e9 / seconds * 3600)
    time.sleep(3)
    assert document(*fleet.kafka, "--window", "2s")["total"]["spans_per_s"] == 0, "nothing was counted in these"


def test_a_replica_that_is_gone_keeps_its_totals_and_is_named(fleet: Fleet) -> None:
    fleet.publish(800)
    before = fleet.settle()
    for worker in fleet.workers:
        worker.kill()
    assert wait_for(lambda: all(replica["problem"] for replica in document(*fleet.kafka)["replicas"]))
    found = document(*fleet.kafka)
    assert list(map(exact, found["rows"])) == list(map(exact, before["rows"]))
    assert [replica["url"] for replica in found["replicas"]] == ["replica-0", "replica-1"]
    for replica in found["replicas"]:
        assert replica["problem"].startswith("not in the group; its last commit was ")
    assert "0 replicas · " in top(*fleet.kafka).stdout


def test_top_says_what_is_missing(kafka: KafkaBroker, topic: str, tmp_path: Path) -> None:
    sections: dict[str, Any] = {"kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": "nobody"}}
    config = write_config(tmp_path / "c.yml", sections, "r")
    done = top("--kafka", "--config", str(config))
    assert (done.returncode, done.stdout) == (2, "")
    assert "has neither topic nobody.state nor nobody.rollups" in done.stderr
    assert "Traceback" not in done.stderr
    settings = yaml.safe_load(config.read_text())
    settings["worker"]["guarantee"] = "at_least_once"
    config.write_text(yaml.safe_dump(settings))
    done = top("--kafka", "--config", str(config))
    assert done.returncode == 2
    assert "worker.guarantee: at_least_once keeps no totals in Kafka; name the replicas instead" in done.stderr
