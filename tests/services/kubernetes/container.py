"""A container as a process on this machine, and the probes that say whether it has started, lives and is ready."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.services import ENDS_WITH_PARENT, end
from tests.services.kubernetes.volumes import Given


class Image(NamedTuple):
    """An image: what its containers run before the arguments of the pod, and the variables that it sets."""

    entrypoint: Sequence[str]
    environment: Mapping[str, str]


class Probe(threading.Thread):
    """Asks again and again, as the pod's specification says. `passed` and `failed` are what thresholds make of it."""

    def __init__(self, container: Container, spec: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self._container, self._spec = container, spec
        self._stopping = threading.Event()
        self.passed = self.failed = False

    def run(self) -> None:
        successes = failures = 0
        pause_s = float(self._spec.get("initialDelaySeconds", 0))
        while not self._stopping.wait(pause_s):
            pause_s = float(self._spec.get("periodSeconds", 10))
            if self._answers():
                successes, failures = successes + 1, 0
                if successes >= self._spec.get("successThreshold", 1):
                    self.passed = True
            else:
                successes, failures = 0, failures + 1
                if failures >= self._spec.get("failureThreshold", 3):
                    self.passed, self.failed = False, True

    def _answers(self) -> bool:
        """True for a status from 200 to 399, as for the kubelet. HTTPS is not verified."""
        get = self._spec["httpGet"]
        timeout_s = float(self._spec.get("timeoutSeconds", 1))
        address = (self._container.address, self._container.port(get["port"]))
        connection: http.client.HTTPConnection
        if get.get("scheme", "HTTP") == "HTTPS":
            context = ssl._create_unverified_context()
            connection = http.client.HTTPSConnection(*address, timeout=timeout_s, context=context)
        else:
            connection = http.client.HTTPConnection(*address, timeout=timeout_s)
        try:
            connection.request("GET", get.get("path", "/"), headers={"User-Agent": "kube-probe/1.37"})
            return 200 <= connection.getresponse().status < 400
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        self._stopping.set()


class Container:
    """A running process with its probes: the liveness and readiness ones begin when the startup one has passed."""

    def __init__(self, given: Given, image: Image, address: str, log: Path) -> None:
        self.address = address
        self._spec = given.container
        command = given.arguments if given.container.get("command") else [*image.entrypoint, *given.arguments]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*ENDS_WITH_PARENT, *command],
                stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True,
                env={**image.environment, **given.environment},
            )  # fmt: skip
        self.started_at = time.time()
        self._startup = self._probe("startupProbe")
        self._liveness: Probe | None = None
        self._readiness: Probe | None = None
        self.started = False

    def port(self, number: int | str) -> int:
        """The number of a port that a probe names."""
        if isinstance(number, int):
            return number
        return {port["name"]: int(port["containerPort"]) for port in self._spec["ports"]}[number]

    def _probe(self, name: str) -> Probe | None:
        if name not in self._spec:
            return None
        probe = Probe(self, self._spec[name])
        probe.start()
        return probe

    def look(self) -> None:
        """Begin the later probes once it has started."""
        if not self.started and (self._startup is None or self._startup.passed):
            self.started = True
            if self._startup is not None:
                self._startup.stop()
            self._liveness, self._readiness = self._probe("livenessProbe"), self._probe("readinessProbe")

    @property
    def ready(self) -> bool:
        if self.exit_code is not None or not self.started:
            return False
        return self._readiness is None or self._readiness.passed

    @property
    def unhealthy(self) -> bool:
        """A probe says that it has to be restarted."""
        probe = self._liveness if self.started else self._startup
        return probe is not None and probe.failed

    @property
    def exit_code(self) -> int | None:
        """As a container's: 128 and the signal that ended it."""
        code = self.process.poll()
        return code if code is None or code >= 0 else 128 - code

    def stop(self, grace_s: float) -> None:
        """Run what comes before the stop, send SIGTERM, and kill it when the grace period is over."""
        deadline = time.monotonic() + grace_s
        for probe in (self._startup, self._liveness):
            if probe is not None:
                probe.stop()
        before = self._spec.get("lifecycle", {}).get("preStop", {})
        if "sleep" in before:
            time.sleep(min(before["sleep"]["seconds"], grace_s))
        elif before:
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(before["exec"]["command"], timeout=grace_s, check=False, env=dict(os.environ))
        end(self.process, signal.SIGTERM, max(deadline - time.monotonic(), 2.0))
        self.kill()

    def kill(self) -> None:
        """End it now, and its probes."""
        end(self.process, signal.SIGKILL)
        for probe in (self._startup, self._liveness, self._readiness):
            if probe is not None:
                probe.stop()
