"""A stand-in for the kubelet: the pods of its node become processes, and what these do is the status of the pods.

It comes as each node's own user, so that the API server holds it to a kubelet's rights. As a kubelet it writes volumes,
sets variables, runs probes, restarts what ends or is unhealthy, and ends a pod within its grace period. Beside the file
system (see `volumes`) it has no user, no limits and no network of the pod's own: a pod is an address of 127.0.0.0/8.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.services.kubernetes.api import STRATEGIC, Api, Refused
from tests.services.kubernetes.container import Container, Image
from tests.services.kubernetes.volumes import Given, NotYet

#: Time between two looks at the pods of a node; a pod is looked at twice as often.
_LOOK_S = 0.5
_LEASE_S = 10.0
#: Between the end of a container and its next start, from the second one on. The kubelet's begins so, and doubles.
_BACK_OFF_S = 10.0
_numbers = itertools.count(os.getpid() % 200 * 250)


def addresses() -> Iterator[str]:
    """Addresses of this machine alone, no two of which are the same for long."""
    for number in _numbers:
        yield f"127.{100 + number // 62500 % 100}.{1 + number // 250 % 250}.{1 + number % 250}"


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _condition(kind: str, value: bool, since: str) -> dict[str, str]:
    return {"type": kind, "status": str(value), "lastTransitionTime": since}


class Pod(threading.Thread):
    """One pod of a node, from its volumes to its deletion. The thread ends when nothing is left of it."""

    def __init__(self, api: Api, pod: dict[str, Any], images: Mapping[str, Image], folder: Path) -> None:
        super().__init__(daemon=True, name=pod["metadata"]["name"])
        self._api, self._pod, self._images = api, pod, images
        self._folder = folder / f"{pod['metadata']['name']}-{pod['metadata']['uid'][:8]}"
        self._folder.mkdir(parents=True)
        self.log = self._folder / "log"
        self.address = next(addresses())
        self.container: Container | None = None
        self.restarts = 0
        #: Of the deletion, once it is asked for; 0 also for a pod whose object is gone.
        self.grace_s: float | None = None
        self._wake = threading.Event()
        self._published: Any = None
        self._since: dict[str, tuple[bool, str]] = {}
        self._started_at = now()
        metadata = pod["metadata"]
        self._path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"

    def delete(self, grace_s: float) -> None:
        """End it within this time."""
        if self.grace_s is None or grace_s < self.grace_s:
            self.grace_s = grace_s
            self._wake.set()

    def run(self) -> None:
        ended_s = -_BACK_OFF_S
        last: dict[str, Any] = {}
        while self.grace_s is None:
            if self.container is None and time.monotonic() >= ended_s + _BACK_OFF_S * (self.restarts > 1):
                try:
                    self.container = self._start()
                except NotYet as error:
                    self._publish({"waiting": {"reason": error.reason, "message": str(error)}}, last)
                    self._wake.wait(1.0)
                    continue
            if self.container is None:
                self._publish({"waiting": {"reason": "CrashLoopBackOff"}}, last)
            else:
                self.container.look()
                if self.container.unhealthy:
                    self.container.stop(float(self._pod["spec"]["terminationGracePeriodSeconds"]))
                if self.container.exit_code is not None:
                    last = {"terminated": self._ended()}
                    self.restarts += 1
                    ended_s = time.monotonic()
                    self.container = None
                    continue
                self._publish({"running": {"startedAt": self._started_at}}, last)
            self._wake.wait(_LOOK_S / 2)
        self._end(last)

    def _start(self) -> Container:
        given = Given(self._api, self._pod, self.address, self._folder)
        image = self._images.get(given.container["image"])
        if image is None:
            raise NotYet("ImagePullBackOff", f"there is no image {given.container['image']}")
        self._started_at = now()
        return Container(given, image, self.address, self.log)

    def _ended(self) -> dict[str, Any]:
        assert self.container is not None
        code = self.container.exit_code
        self.container.kill()
        return {
            "exitCode": code,
            "reason": "Error" if code else "Completed",
            "startedAt": self._started_at,
            "finishedAt": now(),
        }

    def _end(self, last: dict[str, Any]) -> None:
        """Stop the process, say so, and take the object away, which only the kubelet may do."""
        if self.container is not None:
            self.container.stop(self.grace_s or 0.0)
            self._publish({"terminated": self._ended()}, last)
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": 0,
            "preconditions": {"uid": self._pod["metadata"]["uid"]},
        }
        with contextlib.suppress(Refused, OSError):  # gone already, or at the next look
            self._api.delete(self._path, body)

    def _publish(self, state: dict[str, Any], last: dict[str, Any]) -> None:
        container = self.container
        ready = container is not None and container.ready
        running = "running" in state
        conditions = [
            self._changed("PodReadyToStartContainers", True),
            self._changed("Initialized", True),
            self._changed("ContainersReady", ready),
            self._changed("Ready", ready),
        ]
        name, image = (self._pod["spec"]["containers"][0][key] for key in ("name", "image"))
        phase = "Running" if running or self.restarts or last else "Pending"
        if "terminated" in state:
            phase = "Failed" if state["terminated"]["exitCode"] else "Succeeded"
        status = {
            "phase": phase,
            "hostIP": "127.0.0.1",
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "startTime": self._pod["metadata"]["creationTimestamp"],
            "conditions": conditions,
            "containerStatuses": [
                {
                    "name": name,
                    "image": image,
                    "imageID": image,
                    "ready": ready,
                    "started": running and container is not None and container.started,
                    "restartCount": self.restarts,
                    "state": state,
                    "lastState": last,
                }
            ],
        }
        if status == self._published:
            return
        try:
            uid = {"uid": self._pod["metadata"]["uid"]}
            self._api.patch(f"{self._path}/status", {"metadata": uid, "status": status}, STRATEGIC)
        except (Refused, OSError):
            return  # again at the next look
        self._published = status

    def _changed(self, kind: str, value: bool) -> dict[str, str]:
        if self._since.get(kind, (None,))[0] != value:
            self._since[kind] = (value, now())
        return _condition(kind, value, self._since[kind][1])


class Kubelet(threading.Thread):
    """One node: says every ten seconds that it is there, and looks after the pods that are given to it."""

    def __init__(self, api: Api, node: str, zone: str, images: Mapping[str, Image], folder: Path) -> None:
        """images: image name -> what its containers run; may be added to later."""
        super().__init__(daemon=True, name=node)
        self._api, self.node, self._zone, self._images, self._folder = api, node, zone, images, folder
        self._stopping = threading.Event()
        self.pods: dict[str, Pod] = {}

    def register(self) -> None:
        """Make the node, ready for pods."""
        labels = {
            "kubernetes.io/hostname": self.node,
            "kubernetes.io/os": "linux",
            "topology.kubernetes.io/zone": self._zone,
        }
        metadata = {"name": self.node, "labels": labels}
        self._api.post("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": metadata})
        room = {"cpu": "16", "memory": "32Gi", "ephemeral-storage": "100Gi", "pods": "110"}
        status = {
            "capacity": room,
            "allocatable": room,
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "conditions": [{**_condition("Ready", True, now()), "lastHeartbeatTime": now(), "reason": "KubeletReady"}],
        }
        self._api.patch(f"/api/v1/nodes/{self.node}/status", {"status": status})

    def run(self) -> None:
        leased_s = -_LEASE_S
        while not self._stopping.wait(_LOOK_S):
            try:
                if time.monotonic() >= leased_s + _LEASE_S:
                    self._lease()
                    leased_s = time.monotonic()
                self._look()
            except (OSError, Refused):
                continue

    def _lease(self) -> None:
        path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        spec = {
            "holderIdentity": self.node,
            "leaseDurationSeconds": 40,
            "renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }
        try:
            self._api.patch(f"{path}/{self.node}", {"spec": spec})
        except Refused as error:
            if error.code != 404:
                raise
            lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": self.node}}
            self._api.post(path, {**lease, "spec": spec})

    def _look(self) -> None:
        found = self._api.get(f"/api/v1/pods?fieldSelector=spec.nodeName%3D{self.node}")["items"]
        there = {pod["metadata"]["uid"]: pod for pod in found}
        for uid, pod in there.items():
            if uid not in self.pods:
                self.pods[uid] = Pod(self._api, pod, self._images, self._folder)
                self.pods[uid].start()
            if "deletionTimestamp" in pod["metadata"]:
                self.pods[uid].delete(float(pod["metadata"].get("deletionGracePeriodSeconds", 0)))
        for uid, runner in list(self.pods.items()):
            if uid not in there:
                runner.delete(0.0)  # the object was taken away by force, or the pod has ended
                if not runner.is_alive():
                    del self.pods[uid]
            elif not runner.is_alive():
                runner._end({})

    def stop(self) -> None:
        """End every pod of the node at once. Raises AssertionError where a pod is still there."""
        self._stopping.set()
        self.join()
        for pod in self.pods.values():
            pod.delete(0.0)
            if pod.container is not None:
                with contextlib.suppress(ProcessLookupError):
                    pod.container.kill()
        for pod in self.pods.values():
            pod.join(60.0)
            assert not pod.is_alive(), f"{pod.name} did not end"
