"""Workers in the cluster under traffic: what their pods serve, when each is ready, how long each partition waits."""

from __future__ import annotations

import json
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

from tests.chaos.fleet import Scraper, differences, without
from tests.chaos.load import Load
from tests.kubernetes.cluster import NAMESPACE, TOKEN, Cluster, own_overlay, ready
from tests.services import ROOT
from tests.services.kafka import KafkaBroker
from tests.services.packages import python
from tests.services.workers import Served, wait_for, write_config

PARTITIONS = 6
RATE = 600


class ServedPod(Served):
    """Pod of a name by what it serves, at the address that the API server has now. A life is a pod's uid."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.target = ""
        self.uids: list[str] = []

    @property
    def lives(self) -> int:
        return len(self.uids)

    def samples(self, **headers: str) -> Any:
        if not self.target:
            raise OSError("the pod has no address yet")
        return super().samples(Authorization=f"Bearer {TOKEN}", **headers)


class Watch(threading.Thread):
    """Looks at the pods four times a second. `least_ready` is since the last `begin`."""

    def __init__(self, cluster: Cluster, served: list[ServedPod]) -> None:
        super().__init__(daemon=True)
        self._cluster, self._served = cluster, served
        self._stopping = threading.Event()
        self.begin()

    def begin(self) -> None:
        self.least_ready = 99

    def run(self) -> None:
        while not self._stopping.wait(0.25):
            try:
                pods = self._cluster.pods()
            except OSError:
                continue
            self.least_ready = min(self.least_ready, sum(map(ready, pods.values())))
            for name, pod in pods.items():
                served = next((found for found in self._served if found.name == name), None)
                if served is None:
                    served = ServedPod(name)
                    self._served.append(served)
                address = pod.get("status", {}).get("podIP")
                served.target = f"{address}:9090" if address else ""
                if pod["metadata"]["uid"] not in served.uids:
                    served.uids.append(pod["metadata"]["uid"])

    def stop(self) -> None:
        self._stopping.set()
        self.join()


class Progress(threading.Thread):
    """Asks Kafka four times a second how far the group has committed each partition, all of which have traffic."""

    def __init__(self, kafka: KafkaBroker, group: str, partitions: int) -> None:
        super().__init__(daemon=True)
        self._admin = kafka.admin()
        asked = [TopicPartition(group, number) for number in range(partitions)]
        self._asked = [ConsumerGroupTopicPartitions(group, asked)]
        self._stopping = threading.Event()
        self._offsets: dict[int, tuple[int, float]] = {}
        self.begin()

    def begin(self) -> None:
        """Measure from now on."""
        now_s = time.monotonic()
        self._offsets = {number: (offset, now_s) for number, (offset, _) in self._offsets.items()}
        self._longest: dict[int, float] = {}

    def run(self) -> None:
        while not self._stopping.wait(0.25):
            (answer,) = self._admin.list_consumer_group_offsets(self._asked).values()
            now_s = time.monotonic()
            for found in answer.result().topic_partitions:
                offset, since_s = self._offsets.get(found.partition, (found.offset, now_s))
                gap_s = now_s - since_s
                self._longest[found.partition] = max(self._longest.get(found.partition, 0.0), gap_s)
                if found.offset != offset or found.partition not in self._offsets:
                    self._offsets[found.partition] = (found.offset, now_s)

    def seen(self) -> int:
        """Return the number of partitions that have been committed."""
        return sum(offset >= 0 for offset, _ in self._offsets.values())

    def longest_s(self) -> float:
        """The longest time since `begin` in which a partition was not counted."""
        return max(self._longest.values())

    def stop(self) -> None:
        self._stopping.set()
        self.join()


class Fleet:
    """Three workers of the production overlay with brokers of its own, under traffic from `start` to `stop`."""

    def __init__(self, cluster: Cluster, kafka: KafkaBroker, folder: Path) -> None:
        self.cluster, self.kafka, self._folder = cluster, kafka, folder
        self.topic = kafka.create_topic(f"kubernetes-{uuid.uuid4().hex[:8]}", PARTITIONS)
        self.load = Load(kafka.bootstrap, self.topic, PARTITIONS, seed=11)
        self.served: list[ServedPod] = []
        self.watch = Watch(cluster, self.served)
        self.progress = Progress(kafka, self.topic, PARTITIONS)
        self.scraper = Scraper(self.served, self.load)  # type: ignore[arg-type]

    def install(self) -> None:
        """Apply an overlay that sets the brokers, the topic and the number of replicas."""
        environment = {
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.sasl_bootstrap,
            "KAFKA_SECURITY_PROTOCOL": "sasl_plaintext",
            "KAFKA_SASL_MECHANISM": "PLAIN",
            "KAFKA_TOPIC": self.topic,
            "KAFKA_GROUP_ID": self.topic,
            # Replicas from this ordinal on leave the group at a stop.
            "MIN_REPLICAS": "3",
        }
        overlay = own_overlay(self._folder, "production", environment, replicas=[{"name": "tokentrace", "count": 3}])
        self.cluster.control.kubectl("apply", "--validate=strict", "-k", str(overlay))

    def start(self) -> None:
        """Make the namespace, install, wait until every pod is ready, and begin with the traffic."""
        self.cluster.make_namespace(
            **{"auth-token": TOKEN, "kafka-username": "alice", "kafka-password": "alice-secret"}
        )
        self.install()
        self.rolled_out()
        self.watch.start()
        assert wait_for(lambda: len(self.served) == 3)
        self.scraper.start()
        self.load.start(RATE)
        assert wait_for(lambda: len(self.scraper.shown()) > 0), self.logs()
        self.progress.start()
        assert wait_for(lambda: self.progress.seen() == PARTITIONS), self.logs()

    def stop(self) -> None:
        """End the traffic, the pods and the namespace."""
        for thread in (self.progress, self.scraper, self.watch):
            if thread.is_alive():
                thread.stop()
        self.load.stop()
        self.cluster.delete_namespace()
        self.cluster.uncordon()

    def kubectl(self, *words: str, timeout_s: float = 400.0) -> str:
        """Run kubectl in the namespace of the workers."""
        return self.cluster.control.kubectl("-n", NAMESPACE, *words, timeout_s=timeout_s)

    def rolled_out(self) -> None:
        """Wait until every replica is of the newest revision, and has been ready for minReadySeconds."""
        done = self.cluster.control.try_kubectl(
            "-n", NAMESPACE, "rollout", "status", "statefulset/tokentrace", "--timeout=240s"
        )
        assert done.returncode == 0, f"{done.stdout}{done.stderr}{self.logs()}"
        assert wait_for(self._settled, 180.0), self.logs()

    def _settled(self) -> bool:
        """Return True if all are available. Kubernetes 1.37 takes all that are not at once in the next roll-out."""
        found = self.cluster.api.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets/tokentrace")
        count = found["spec"]["replicas"]
        available = found["status"].get("availableReplicas", 0)
        return [*map(ready, self.cluster.pods().values())] == [True] * count and available == count

    def begin(self) -> None:
        """Measure from now on."""
        self.watch.begin()
        self.progress.begin()

    def report(self, step: str, began_s: float) -> None:
        """Print what a step took, for `make kubernetes-test`."""
        print(
            f"{step}: {time.monotonic() - began_s:.0f} s, at least {self.watch.least_ready} ready, "
            f"no partition waited longer than {self.progress.longest_s():.1f} s"
        )

    def recount(self, resume: bool = True) -> dict[str, tuple[int, int]]:
        """Stop the traffic, and compare every series, summed over all pods there have been, with what was published.

        Return what differs: series -> (shown, published). resume: go on with the traffic.
        """
        self.load.stop()
        truth = {key: value for key, value in self.load.truth().items() if value}
        found: dict[str, tuple[int, int]] = {}

        def equal() -> bool:
            nonlocal found
            found = differences(without(self.scraper.shown(), self.load), truth)
            return not found

        wait_for(equal, 90.0)
        assert self.scraper.steps_back == []
        assert self.scraper.above_truth == []
        if resume:
            self.load.start(RATE)
        return found

    def spans_in_state(self) -> int:
        """Return the spans that all replicas have ever counted, as `tokentrace state show` reads them from Kafka."""
        kafka = {"bootstrap_servers": self.kafka.bootstrap, "topic": self.topic, "group_id": self.topic}
        config = write_config(self._folder / "state.yml", {"kafka": kafka}, "reader")
        shown = python(ROOT / "worker", "-m", "tokentrace", "state", "show", "--json", "--config", str(config))
        return int(json.loads(shown)["totals"]["spans"])

    def logs(self) -> str:
        return self.cluster.log("tokentrace")
