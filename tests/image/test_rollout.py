"""Three replicas in containers are replaced one by one under traffic, by another release and back: nothing is lost."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.fleet import Scraper, settle
from tests.chaos.load import Load
from tests.image.engine import TAG, Engine
from tests.image.replica import ContainerReplica, Gaps
from tests.services.kafka import KafkaBroker
from tests.services.packages import release_package
from tests.services.workers import wait_for

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(2400)]

OLD = "tokentrace:release-0.1.0"
PARTITIONS = 6
SPANS_PER_S = 600
SESSION_TIMEOUT_S = 45.0


@pytest.fixture
def old_image(engine: Engine, base: str, tmp_path: Path) -> Iterator[str]:
    """Release 0.1.0, from its package."""
    package = release_package("0.1.0", tmp_path / "package").parent
    engine.build_file(Path(__file__).parent / "release.Dockerfile", package, OLD, IMAGE=TAG)
    yield OLD
    engine.run("rmi", "--force", OLD, check=False)


def has_units(replica: ContainerReplica) -> bool:
    """Return True for this version: release 0.1.0 has no family of units."""
    return any(name == "tokentrace_usage_total" for name, _ in replica.samples())


def replace(replica: ContainerReplica, image: str, scraper: Scraper) -> float:
    """End a replica and start it from another image, as a rolling update does. Returns the seconds that it took."""
    began_s = time.monotonic()
    code = replica.stop()
    stopped_s = time.monotonic()
    # 0.1.0 can wait for ever in a rebalance while it closes, and is killed after the grace.
    assert code in ((0, 137) if replica.image == OLD else (0,)), replica.log()[-2000:]
    replica.image = image
    replica.restart()
    replica.wait_until_ready(240.0)
    assert wait_for(lambda: scraper.saw_counting(replica), 120.0), replica.log()[-2000:]
    print(
        f"{replica.name} to {image}: stopped in {stopped_s - began_s:.1f} s (exit code {code}), "
        f"counting {time.monotonic() - stopped_s:.1f} s later"
    )
    return time.monotonic() - began_s


def test_rollout_and_rollback_of_containers_under_traffic_count_exactly(
    engine: Engine, old_image: str, kafka: KafkaBroker, tmp_path: Path
) -> None:
    """From release 0.1.0 to this version, to this version again, and back."""
    topic = kafka.create_topic(f"rollout-{uuid.uuid4().hex[:8]}", PARTITIONS)
    sections = {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        "worker": {"commit_interval": "1s", "drain_timeout": "30s", "session_timeout": f"{SESSION_TIMEOUT_S:.0f}s"},
    }
    load = Load(kafka.bootstrap, topic, PARTITIONS, seed=11, first=True)
    replicas = [ContainerReplica(engine, tmp_path, f"replica-{index}", sections, old_image) for index in range(3)]
    scraper = Scraper([*replicas], load)
    gaps = Gaps(replicas, kafka.bootstrap, topic, PARTITIONS)
    try:
        for replica in replicas:
            replica.wait_until_ready(240.0)
        load.publish(4000)
        assert settle([*replicas], load) == {}
        assert not any(has_units(replica) for replica in replicas)
        scraper.start()
        load.start(SPANS_PER_S)
        gaps.start()
        found = {}
        for leg, image in (("to this version", TAG), ("within this version", TAG), ("back to 0.1.0", old_image)):
            longest_s = max([replace(replica, image, scraper) for replica in replicas])
            assert [has_units(replica) for replica in replicas] == [image == TAG] * len(replicas)
            time.sleep(3.0)
            found[leg] = (*gaps.leg(), longest_s)
            print(
                f"{leg}: longest time without a count {found[leg][0]:.1f} s in the fleet, without a commit "
                f"{found[leg][1]:.1f} s in a partition"
            )
        assert gaps.is_alive()
        gaps.stop()
        load.stop()
        assert settle([*replicas], load) == {}
        assert scraper.steps_back == []
        assert scraper.above_truth == []
        print(f"{load.produced} spans, exact after {sum(replica.lives for replica in replicas)} lives")
        # Compared with what a replacement took in the same run, since machines differ.
        for leg, (fleet_s, partition_s, longest_s) in found.items():
            # A release that Kafka knows by another name waits for the session of its predecessor (docs/upgrade.md).
            session_s = 0.0 if leg == "within this version" else SESSION_TIMEOUT_S
            assert 0.0 < fleet_s < longest_s, leg
            # From the last commit before a stop to the first after the start, so somewhat longer than the replacement.
            assert 0.0 < partition_s < session_s + 1.5 * longest_s, leg
    finally:
        load.stop()
        if scraper.is_alive():
            scraper.stop()
        if gaps.is_alive():
            gaps.stop()
        for replica in replicas:
            replica.end()
