"""Dimensions on a real Kafka: from attributes, fields, headers and keys, and changed by rolling restarts under load."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from confluent_kafka import Producer

from tests.chaos.fleet import Replica, Scraper, settle
from tests.chaos.load import Load
from tests.services.kafka import KafkaBroker
from tests.services.workers import wait_for
from tests.spanfactory import message, random_span

pytestmark = pytest.mark.long

Found = Counter[tuple[str, ...]]


def state(replica: Replica, *by: str) -> Found:
    """Spans by labels, as `tokentrace state show` prints them."""
    labels = [argument for label in by for argument in ("--by", label)]
    command = [sys.executable, "-m", "tokentrace", "state", "show", "--json", "--config", str(replica._config), *labels]
    shown = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return Counter({tuple(row[label] for label in by): row["spans"] for row in shown["rows"]})


def sections_of(kafka: KafkaBroker, topic: str, dimensions: dict[str, Any]) -> dict[str, Any]:
    return {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        "worker": {"session_timeout": "3s", "commit_interval": "200ms"},
        "dimensions": dimensions,
    }


def test_values_from_every_source_are_counted_exactly(kafka: KafkaBroker, tmp_path: Path) -> None:
    topic = kafka.create_topic(f"dimensions-{uuid.uuid4().hex[:8]}", 4)
    dimensions = {
        "user": {"source": "attributes.user", "limit": 40},
        "retry": {"source": "attributes.retry", "default": "none"},
        "parent": {"source": "span.parent_span_id", "map": {"p": "child"}, "default": "root"},
        "tenant": {"source": "header.tenant", "values": ["a", "b"], "other": "rest"},
        "shard": {"source": "key"},
    }
    rng = random.Random(3)
    spans = [random_span(rng) for _ in range(3000)]
    tenants = [rng.choice(["a", "b", "c", None]) for _ in spans]
    keys = [rng.choice([b"k1", b"k2", None]) for _ in spans]
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 5})
    for index, span in enumerate(spans):
        headers = [("other", b"x")] if tenants[index] is None else [("tenant", str(tenants[index]).encode())]
        producer.produce(topic, message(span), key=keys[index], partition=index % 4, headers=headers)
        producer.poll(0)
    assert producer.flush(30) == 0
    replica = Replica(tmp_path, "worker-0", sections_of(kafka, topic, dimensions))
    try:
        replica.wait_until_ready()
        assert wait_for(lambda: state(replica, "replica").total() == len(spans))
        expected: Found = Counter()
        for span, tenant, key in zip(spans, tenants, keys, strict=True):
            labels = span["model"], str(span["attributes"]["retry"]), "child" if span["parent_span_id"] else "root"
            # The default, which is empty here, does not have to be among the values that are allowed.
            value = "" if tenant is None else "rest" if tenant == "c" else tenant
            expected[*labels, value, (key or b"").decode()] += 1
        assert state(replica, "model", "retry", "parent", "tenant", "shard") == expected
        users = state(replica, "user")
        truth = Counter((span["attributes"]["user"],) for span in spans)
        assert len(users) == 41
        overflow = users.pop(("__overflow__",))
        assert all(truth[user] == count for user, count in users.items())
        assert overflow == len(spans) - users.total()
        shown = replica.samples()
        assert shown["tokentrace_dimension_overflowed_total", frozenset({("dimension", "user")})] == overflow
        check = ("config", "check", "--estimate", "--spans", "2000", "--config", str(replica._config))
        predicted = subprocess.run(
            [sys.executable, "-m", "tokentrace", *check], capture_output=True, text=True, check=True
        )
        assert "Sample: 2,000 spans, and 0 rejected messages." in predicted.stdout
        assert f"user: {len(truth)} values (limit: 40)" in predicted.stdout
        # A restart knows the members.
        replica.kill()
        replica.restart()
        replica.wait_until_ready()
        assert replica.samples()["tokentrace_dimension_values", frozenset({("dimension", "user")})] == 40
        # Nothing else changes when one of them is forgotten.
        replica.terminate()
        user = next(user for (user,) in users)
        forget = ("state", "forget", "--dimension", "user", "--value", user, "--yes", "--config", str(replica._config))
        subprocess.run([sys.executable, "-m", "tokentrace", *forget], capture_output=True, check=True)
        left = state(replica, "user")
        assert left.pop(("__forgotten__",)) == users.pop((user,))
        assert left == users + Counter({("__overflow__",): overflow})
        assert state(replica, "model", "retry", "parent", "tenant", "shard") == expected
        replica.restart()
        replica.wait_until_ready()
        assert state(replica, "user") == left + Counter({("__forgotten__",): truth[user,]})
    finally:
        replica.end()


#: Dimensions of the rolling updates, in turn.
STEPS: Sequence[dict[str, Any]] = (
    {},
    {"user": {"source": "attributes.user"}},
    {
        "retry": {"source": "attributes.retry"},
        "user": {"source": "attributes.user", "map": {"u?": "few", "u*": "many"}},
    },
    {"person": {"source": "attributes.user", "limit": 20}, "retry": {"source": "attributes.retry"}},
    {},
)


def test_totals_stay_exact_while_dimensions_change_by_rolling_restarts(kafka: KafkaBroker, tmp_path: Path) -> None:
    topic = kafka.create_topic(f"dimensions-{uuid.uuid4().hex[:8]}", 4)
    load = Load(kafka.bootstrap, topic, 4, seed=11)
    replicas = [Replica(tmp_path, f"replica-{index}", sections_of(kafka, topic, STEPS[0])) for index in range(2)]
    scraper = Scraper(replicas, load)
    before: Found = Counter()
    try:
        for replica in replicas:
            replica.wait_until_ready()
        scraper.start()
        load.start(800)
        for number, dimensions in enumerate(STEPS):
            if number:
                for replica in replicas:
                    roll(replica, dimensions)
                    assert wait_for(counting(scraper, replica)), replica.log()[-2000:]
            now = state(replicas[0], "model")
            assert not before - now, "totals by model never fall"
            before = now
        load.stop()
        assert settle(replicas, load) == {}
        assert scraper.steps_back == []
        assert scraper.above_truth == []
        truth = Counter[tuple[str, ...]]()
        for (name, labels), value in load.truth().items():
            if name == "tokentrace_spans_total":
                truth[dict(labels)["model"],] += value
        assert state(replicas[0], "model") == truth
        by_user, by_person = state(replicas[0], "user"), state(replicas[0], "person")
        assert by_user.total() == by_person.total() == load.produced
        assert min(by_user[name,] for name in ("", "few", "many")) > 0
        assert any(re.fullmatch(r"u\d+", user) and count for (user,), count in by_user.items())
        assert by_person["__overflow__",] > 0
    finally:
        load.stop()
        scraper.stop()
        for replica in replicas:
            replica.end()


def roll(replica: Replica, dimensions: dict[str, Any]) -> None:
    """End a replica in order, and start it with other dimensions."""
    replica.terminate()
    config = yaml.safe_load(replica._config.read_text())
    config["dimensions"] = dimensions
    replica._config.write_text(yaml.safe_dump(config, sort_keys=False))
    replica.restart()
    replica.wait_until_ready()


def counting(scraper: Scraper, replica: Replica) -> Callable[[], bool]:
    return lambda: scraper.saw_counting(replica)
