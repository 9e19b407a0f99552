"""deploy/compose.yaml as a user runs it: `docker compose` where docker's daemon answers, else podman-compose."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any, Final

import yaml

from tests.image.engine import TAG, Engine
from tests.image.standins import provide
from tests.services import ROOT, Unavailable, free_port
from tests.services.prometheus import Prometheus
from tests.services.workers import WorkerProcess

FILE: Final = ROOT / "deploy" / "compose.yaml"
#: Variables of compose.yaml that hold a port of this machine.
PORTS: Final = ("KAFKA_PORT", "WORKER_0_PORT", "WORKER_1_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")
WORKERS: Final = ("worker-0", "worker-1")


class Stack:
    """The services of compose.yaml under a project name and on ports of their own.

    left_out: service -> why it does not run, for want of its image. Raises Unavailable where nothing can run.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.project = f"tokentrace-test-{uuid.uuid4().hex[:8]}"
        self.ports = {name: free_port() for name in PORTS}
        self._command = self._program()
        self._environment = engine.environment | {name: str(port) for name, port in self.ports.items()}
        self._environment["TOKENTRACE_IMAGE"] = TAG
        services = yaml.safe_load(FILE.read_text())["services"]
        self.left_out: dict[str, str] = {}
        for name, service in services.items():
            if "build" not in service:
                try:
                    provide(engine, service["image"])
                except Unavailable as error:
                    self.left_out[name] = str(error)
        if needed := {"kafka", "prometheus"} & self.left_out.keys():
            raise Unavailable("; ".join(self.left_out[name] for name in sorted(needed)))
        self.services = [name for name in services if name not in self.left_out]

    def _program(self) -> list[str]:
        if self.engine.name == "docker":
            return ["docker", "compose"]
        program = shutil.which("podman-compose", path=str(Path(sys.executable).parent)) or shutil.which(
            "podman-compose"
        )
        if program is None:
            raise Unavailable("podman-compose is not installed (PyPI: podman-compose)")
        return [program]

    def compose(self, *words: str, timeout_s: float = 600.0) -> str:
        """Run a command of compose; return what it prints."""
        done = subprocess.run(
            [*self._command, "--project-name", self.project, "--file", str(FILE), *words],
            env=self._environment, capture_output=True, text=True, check=False, timeout=timeout_s,
        )  # fmt: skip
        assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def up(self) -> None:
        """Start everything that has an image."""
        self.compose("up", "--detach", *self.services, timeout_s=900)

    def down(self) -> None:
        """Remove everything, as the documentation says."""
        self.compose("down", "--volumes")

    def container(self, service: str) -> str:
        """Return the name of a service's container."""
        of_service = f"label=com.docker.compose.service={service}"
        (name,) = self._listed("ps", "--all", "--filter", of_service, "--format", "{{.Names}}")
        return name

    def left(self) -> list[str]:
        """Return what the engine still has of the project: containers, networks and volumes."""
        return [
            *self._listed("ps", "--all", "--format", "{{.Names}}"),
            *self._listed("network", "ls", "--format", "{{.Name}}"),
            *self._listed("volume", "ls", "--format", "{{.Name}}"),
        ]

    def _listed(self, *words: str) -> list[str]:
        label = f"label=com.docker.compose.project={self.project}"
        return self.engine.run(*words, "--filter", label).stdout.split()

    def healthy(self, service: str) -> bool:
        """Ask for the health of a service. Without systemd, podman does not check by itself."""
        name = self.container(service)
        if self.engine.name == "podman":
            return self.engine.run("healthcheck", "run", name, check=False).returncode == 0
        state: dict[str, Any] = self.engine.inspect(name)["State"]
        return bool(state["Health"]["Status"] == "healthy")

    def replicas(self) -> list[Endpoint]:
        """Return the workers as this machine reaches them."""
        return [Endpoint(f"127.0.0.1:{self.ports[f'WORKER_{number}_PORT']}") for number in range(len(WORKERS))]

    @property
    def kafka(self) -> str:
        return f"127.0.0.1:{self.ports['KAFKA_PORT']}"

    @property
    def prometheus(self) -> Running:
        return Running(self.ports["PROMETHEUS_PORT"])

    def inside(self, service: str, url: str) -> int:
        """Return the status of a GET from within the network. service: one whose image has Python."""
        code = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=10).status)"
        return int(self.engine.run("exec", self.container(service), "python", "-c", code, url).stdout)


class Endpoint(WorkerProcess):
    """A worker of which only the address is known."""

    def __init__(self, target: str) -> None:
        self.target = target

    def firings(self, alert: str) -> int:
        """Return how often an alert of tokentrace.yml has fired. Raises OSError if there is no answer."""
        board = json.loads(self.get("/alerts")[1])
        return next(int(row["firings"]) for row in board["alerts"] if row["name"] == alert)


class Running(Prometheus):
    """A Prometheus that runs already."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def wait_until_firing(self, alert: str, timeout_s: float) -> list[dict[str, str]]:
        """Return the labels of each instance of an alert, once one fires; empty after the time-out."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if found := [labels for labels in self.firing() if labels["alertname"] == alert]:
                return found
            time.sleep(5.0)
        return []
