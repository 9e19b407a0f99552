"""The increments that a real VictoriaMetrics sees are exact, over kills before the first scrape and later."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.fleet import Replica
from tests.integration.test_group import produce
from tests.integration.test_increase import rises
from tests.services.kafka import KafkaBroker
from tests.services.victoriametrics import VictoriaMetrics
from tests.services.workers import wait_for
from tests.spanfactory import span

pytestmark = [pytest.mark.nightly, pytest.mark.long]

#: Functions of MetricsQL that give the increase of a counter; they differ in what a first value adds.
INCREASES = ("increase", "increase_pure", "increase_prometheus")


def test_increments_that_victoriametrics_sees_are_what_was_published(
    kafka: KafkaBroker, tmp_path: Path, start_victoriametrics: Callable[[list[str]], VictoriaMetrics]
) -> None:
    """Its functions extrapolate nothing, so they give the same."""
    topic = kafka.create_topic("increase-victoriametrics", 4)
    sections = {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        "worker": {"session_timeout": "3s"},
    }
    replica = Replica(tmp_path, "worker-0", sections)
    truth: Counter[str] = Counter()

    def count(model: str, spans: int) -> None:
        produce(kafka, topic, [span(model=model)] * spans)
        truth[model] += spans
        assert wait_for(lambda: counted(replica) == truth)

    def kill() -> None:
        replica.kill()
        replica.restart()
        assert wait_for(lambda: counted(replica) == truth)

    try:
        replica.wait_until_ready()
        # What no scraper has seen: a little, and more than 10 times what comes later.
        count("few", 3)
        count("many", 4000)
        kill()
        victoriametrics = start_victoriametrics([replica.target])
        assert wait_for(lambda: seen(victoriametrics) == truth), seen(victoriametrics)
        count("few", 5)
        count("new", 7)
        kill()
        count("many", 2)
        assert wait_for(lambda: seen(victoriametrics) == truth), seen(victoriametrics)
        time.sleep(2.0)
        for labels, values in victoriametrics.samples("tokentrace_spans_total", "10m"):
            assert values[0] == 0.0, labels
        assert rises(victoriametrics, "tokentrace_spans_total", "model") == truth
        for function in INCREASES:
            assert increases(victoriametrics, function) == truth
        # Another that begins late: some of its functions add a first value too, though another has seen it rise.
        late = start_victoriametrics([replica.target])
        assert wait_for(lambda: seen(late) == truth), seen(late)
        time.sleep(3.0)
        assert increases(late, "increase_prometheus") == dict.fromkeys(truth, 0)
        assert increases(late, "increase_pure") == truth
        assert increases(late, "increase") == {**truth, "many": 0}, "a small first value is added, a large one is not"
    finally:
        replica.end()


def increases(victoriametrics: VictoriaMetrics, function: str) -> dict[str, float]:
    """Model -> the increase of its spans."""
    found = victoriametrics.query(f"sum by (model) ({function}(tokentrace_spans_total[10m]))")
    return {labels["model"]: value for labels, value in found}


def counted(replica: Replica) -> Counter[str]:
    """Model -> spans, as shown to a client that is not Prometheus: nothing counts as seen by that."""
    try:
        samples = replica.samples()
    except OSError:
        return Counter()
    found: Counter[str] = Counter()
    for (name, labels), value in samples.items():
        if name == "tokentrace_spans_total":
            found[dict(labels)["model"]] += int(value)
    return +found


def seen(victoriametrics: VictoriaMetrics) -> dict[str, float]:
    """Model -> spans, as it was scraped last."""
    return {m["model"]: value for m, value in victoriametrics.query("sum by (model) (tokentrace_spans_total)")}
