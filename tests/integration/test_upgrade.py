"""A pair of replicas is upgraded one by one under traffic, and rolled back one by one: every total stays exact."""

from __future__ import annotations

import json
import random
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.alerts.oracle import METRICS
from tests.chaos.fleet import Replica, Scraper, settle
from tests.chaos.load import Load
from tests.integration.test_alerts import counted, produce, rule, traffic
from tests.integration.test_deduplicate import audited
from tests.ledger.helpers import Hours, sqlite_hours
from tests.ledger.inputs import produce_rejected, recount_inputs
from tests.oracle import Key
from tests.services import ROOT
from tests.services.kafka import KafkaBroker
from tests.services.packages import python, release_package, trial_package
from tests.services.webhook import Webhook
from tests.services.workers import wait_for
from tests.spanfactory import first_message
from tokentrace.model.measures import RARE_SUMS

pytestmark = pytest.mark.long

CURRENT = ROOT / "worker"
#: From what to what: the release before to this version, and this version to one that counts a measure more.
#: Sums that only one of the two versions knows; these spans have none of them.
LATER_SUMS = {
    "tool_prompt_tokens", "cache_write_tokens", "cache_write_1h_tokens", "audio_prompt_tokens", "image_prompt_tokens",
    "audio_completion_tokens", "image_completion_tokens", "web_searches", "priced_estimated",
    "repaired_prompt_excludes_cache", "repaired_whole_below_parts", "clamped_times",
}  # fmt: skip
UPGRADES = ["0.1.0 to this", "this to one with a measure more"]


@pytest.fixture(params=UPGRADES)
def packages(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """(the version before, the version after)."""
    if request.param == UPGRADES[0]:
        return release_package("0.1.0", tmp_path), CURRENT
    return CURRENT, trial_package(tmp_path / "trial")


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    receiver = Webhook()
    yield receiver
    receiver.close()


def replace(replica: Replica, package: Path) -> None:
    """End a replica in order and start it with another version, as a rolling update does."""
    try:
        replica.terminate()
    except AssertionError:
        if replica.package == CURRENT:
            raise
        # 0.1.0 can wait for ever in a rebalance while it closes; Kubernetes kills it then.
        replica.kill()
    replica.package = package
    replica.restart()
    replica.wait_until_ready()


def state(replica: Replica, package: Path) -> Any:
    """The totals of all replicas, as this version of the command shows them."""
    command = ("state", "show", "--by", "model", "--by", "status", "--json", "--config", str(replica._config))
    shown = json.loads(python(package, "-m", "tokentrace", *command))
    for row in [shown["totals"], *shown["rows"]]:
        for name in [name for name in row if name in LATER_SUMS or name in RARE_SUMS]:
            assert not row[name]
            del row[name]
    return shown


def ledger_hours(replica: Replica) -> Hours:
    """The hours that a ledger of this version has of what all versions counted."""
    python(CURRENT, "-m", "tokentrace", "ledger", "run", "--once", "--config", str(replica._config))
    return sqlite_hours(replica._config.parent / "tokentrace-ledger.db")


def proof(replica: Replica) -> Any:
    """The ledger against the state that all versions wrote. The command ends with 1 where they differ."""
    command = ("bill", "--proof", "--format", "json", "--config", str(replica._config))
    return json.loads(python(CURRENT, "-m", "tokentrace", *command))


def test_totals_stay_exact_while_replicas_are_upgraded_and_rolled_back(
    kafka: KafkaBroker, tmp_path: Path, packages: tuple[Path, Path]
) -> None:
    before, after = packages
    topic = kafka.create_topic(f"upgrade-{uuid.uuid4().hex[:8]}", 4)
    sections = {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        "worker": {"session_timeout": "3s"},
    }
    load = Load(kafka.bootstrap, topic, 4, seed=7, first=after == CURRENT)
    replicas = [Replica(tmp_path, f"replica-{index}", sections, before) for index in range(2)]
    scraper = Scraper(replicas, load)
    try:
        for replica in replicas:
            replica.wait_until_ready()
        load.publish(4000)
        assert settle(replicas, load) == {}
        written = state(replicas[0], before)
        assert written["totals"]["spans"] == 4000
        assert state(replicas[0], after) == written
        scraper.start()
        load.start(1000)
        for package in (after, before):
            for replica in replicas:
                replace(replica, package)
                assert wait_for(lambda replica=replica: scraper.saw_counting(replica)), replica.log()[-2000:]
        load.stop()
        assert settle(replicas, load) == {}
        assert scraper.steps_back == []
        assert scraper.above_truth == []
        assert state(replicas[0], after) == state(replicas[0], before)
        assert state(replicas[0], before)["totals"]["spans"] == load.produced
        assert ledger_hours(replicas[0]) == load.hours()
        assert proof(replicas[0])["agrees"]
    finally:
        load.stop()
        scraper.stop()
        for replica in replicas:
            replica.end()


def test_rejects_by_reason_and_partition_are_exact_from_the_upgrade_on(kafka: KafkaBroker, tmp_path: Path) -> None:
    """Upgraded, rolled back and upgraded again: what 0.1.0 has rejected is told apart, and no record is missing."""
    before = release_package("0.1.0", tmp_path)
    topic = kafka.create_topic(f"rejects-{uuid.uuid4().hex[:8]}", 4)
    sections = {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        "worker": {"session_timeout": "3s"},
    }
    load, rng = Load(kafka.bootstrap, topic, 4, seed=10, first=True), random.Random(10)
    replicas = [Replica(tmp_path, f"replica-{index}", sections, before) for index in range(2)]
    try:
        for package in (before, CURRENT, before, CURRENT):
            for replica in replicas:
                if replica.package != package:
                    replace(replica, package)
                replica.wait_until_ready()
                # Counted while the other replica may still be of the other version.
                produce_rejected(kafka, topic, rng, 20)
                load.publish(200)
            assert settle(replicas, load) == {}
            inputs = recount_inputs(kafka, topic)
            polled = sum(one["records"] for one in inputs.values())
            assert wait_for(lambda polled=polled: audited(replicas, "polled") == polled)
            ledger_hours(replicas[0])
            shown = proof(replicas[0])
            assert shown["adds_up"]
            for one in shown["inputs"]:
                truth = inputs[one["partition"]]
                assert {name: one[name] for name in truth if name != "rejects"} == {
                    name: truth[name] for name in truth if name != "rejects"
                }
                # Each is known by its reason, or was counted by 0.1.0 before the offset that is named.
                assert sum(one["rejects"].values()) + one["unexplained"] == truth["rejected"]
                assert all(count <= truth["rejects"][reason] for reason, count in one["rejects"].items())
                assert one["explained_from"] <= one["offset"]
                if package == before:
                    assert one["unexplained"] == truth["rejected"]
            if package == before:
                continue
            # Both replicas are of this version now, and what comes is counted with its reason.
            known = {one["partition"]: one for one in shown["inputs"]}
            produce_rejected(kafka, topic, rng, 40)
            inputs = recount_inputs(kafka, topic)
            polled = sum(one["records"] for one in inputs.values())
            assert wait_for(lambda polled=polled: audited(replicas, "polled") == polled)
            for one in proof(replicas[0])["inputs"]:
                earlier, truth = known[one["partition"]], inputs[one["partition"]]
                assert one["unexplained"] == earlier["unexplained"]
                assert one["explained_from"] == earlier["explained_from"]
                assert sum(one["rejects"].values()) == truth["rejected"] - one["unexplained"]
    finally:
        for replica in replicas:
            replica.end()


def test_units_are_exact_once_every_replica_is_upgraded(kafka: KafkaBroker, tmp_path: Path) -> None:
    """Publishers follow the workers: what these counted before, and the units of later spans, add up."""
    before = release_package("0.1.0", tmp_path)
    topic = kafka.create_topic(f"units-{uuid.uuid4().hex[:8]}", 4)
    sections = {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        "worker": {"session_timeout": "3s"},
    }
    first = Load(kafka.bootstrap, topic, 4, seed=8, first=True)
    later = Load(kafka.bootstrap, topic, 4, seed=9, units=True)
    replicas = [Replica(tmp_path, f"replica-{index}", sections, before) for index in range(2)]
    try:
        for replica in replicas:
            replica.wait_until_ready()
        first.publish(2000)
        assert settle(replicas, first) == {}
        for replica in replicas:
            replace(replica, CURRENT)
            first.publish(500)
        assert settle(replicas, first) == {}
        later.publish(3000)
        # Of the units, the earlier release has counted those that have families of their own.
        first.ignored = frozenset()
        assert settle(replicas, Both(first, later)) == {}
        # What is restored is what was counted.
        replace(replicas[0], CURRENT)
        assert settle(replicas, Both(first, later)) == {}
    finally:
        for replica in replicas:
            replica.end()


class Both:
    """Two loads as one."""

    def __init__(self, *loads: Load) -> None:
        self._loads = loads

    def truth(self) -> dict[Key, int]:
        total: Counter[Key] = Counter()
        for load in self._loads:
            total.update(load.truth())
        return dict(total)


def test_spans_of_the_other_version_are_known_as_duplicates(
    kafka: KafkaBroker, topic: str, tmp_path: Path, packages: tuple[Path, Path]
) -> None:
    before, after = packages
    spans = traffic(topic, 3, 50)
    sections = {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        "worker": {"deduplicate": {"by": "span_id", "window": "1h"}},
    }
    replica = Replica(tmp_path, "replica", sections, before)
    repeated = 0
    try:
        replica.wait_until_ready()
        for published, package in enumerate((before, after, before, after), start=1):
            if package != replica.package:
                replace(replica, package)
            # The first ones again, and thirty more.
            produce(kafka, topic, spans[: 30 * published], first_message)
            repeated += 30 * (published - 1)
            expected = 30 * published + repeated
            assert wait_for(lambda expected=expected: counted([replica]) + audited([replica], "duplicate") == expected)
            assert counted([replica]) == 30 * published
    finally:
        replica.end()


@pytest.mark.parametrize("packages", [UPGRADES[0], pytest.param(UPGRADES[1], marks=pytest.mark.nightly)], indirect=True)
def test_each_alert_fires_once_while_replicas_are_upgraded_and_rolled_back(
    kafka: KafkaBroker, tmp_path: Path, packages: tuple[Path, Path], webhook: Webhook
) -> None:
    """Each batch of spans completes a window of which the batches before it, of either version, are a part."""
    before, after = packages
    topic = kafka.create_topic(f"upgrade-{uuid.uuid4().hex[:8]}", 4)
    batches = [traffic(f"{topic}{number}", 5, 60) for number in range(3)]
    rules = [
        rule(f"batch-{number}", "total_cost", "gt", 0.0, webhook, window="1h", interval="1m", min_spans=300 * number)
        for number in (1, 2, 3)
    ]
    sections = {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        "worker": {"session_timeout": "6s"}, "alerts": rules,
    }  # fmt: skip
    replicas = [Replica(tmp_path, f"replica-{index}", sections, before) for index in range(2)]

    def fired() -> list[str]:
        return sorted(body["alert"] for body in webhook.bodies(status="firing"))

    try:
        for replica in replicas:
            replica.wait_until_ready()
        for number, package in enumerate((before, after, before), start=1):
            # The batch is counted by one replica of each version.
            replace(replicas[0], package)
            produce(kafka, topic, batches[number - 1], first_message)
            replace(replicas[1], package)
            expected = [f"batch-{done}" for done in range(1, number + 1)]
            assert wait_for(lambda expected=expected: fired() == expected, 250.0), (fired(), replicas[0].log()[-2000:])
        for body in webhook.bodies(status="firing"):
            spans = [span for batch in batches[: int(body["alert"][-1])] for span in batch]
            assert body["span_count"] == len(spans)
            assert body["value"] == pytest.approx(METRICS["total_cost"](spans), rel=1e-12)
        for package in packages:
            replace(replicas[0], package)
            board = json.loads(replicas[0].get("/alerts")[1])
            assert {alert["name"]: alert["firings"] for alert in board["alerts"]} == {
                f"batch-{number}": 1 for number in (1, 2, 3)
            }
    finally:
        for replica in replicas:
            replica.end()
