"""The base by digest, from a real registry: found, kept while its tag moves on, and refused once it is gone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from release.base import locked

from tests.conftest import unavailable
from tests.image.engine import Engine
from tests.services import ENDS_WITH_PARENT, end, free_port
from tests.services.workers import wait_for

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(600)]


class Registry:
    """A registry on this machine, without TLS. environment: what lets programs speak to it."""

    def __init__(self, folder: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.data = folder / "data"
        config = folder / "config.yml"
        storage = {"filesystem": {"rootdirectory": str(self.data)}, "delete": {"enabled": True}}
        config.write_text(yaml.safe_dump({"version": 0.1, "storage": storage, "http": {"addr": self.address}}))
        registries = folder / ".config" / "containers" / "registries.conf"
        registries.parent.mkdir(parents=True)
        registries.write_text(f'[[registry]]\nlocation = "{self.address}"\ninsecure = true\n')
        self.environment = {"HOME": str(folder), "CONTAINERS_REGISTRIES_CONF": str(registries)}
        with (folder / "registry.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*ENDS_WITH_PARENT, "docker-registry", "serve", str(config)],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        assert wait_for(self._answers)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/v2/", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@pytest.fixture
def registry(real_service: None, tmp_path: Path) -> Iterator[Registry]:
    for program in ("docker-registry", "skopeo"):
        if shutil.which(program) is None:
            unavailable(f"{program} is not installed (Debian: docker-registry skopeo)")
    registry = Registry(tmp_path)
    yield registry
    end(registry.process)


def base(registry: Registry, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "release.base", *words],
        env={**os.environ, **registry.environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def push(registry: Registry, engine: Engine, tmp_path: Path, name: str, content: str) -> None:
    """Put an image with one file under a name."""
    folder = tmp_path / content
    folder.mkdir()
    (folder / "file").write_text(content)
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY file /file\n")
    engine.build_file(folder / "Dockerfile", folder, name)
    done = subprocess.run(
        [engine.name, "push", name], env={**engine.environment, **registry.environment}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    engine.run("rmi", "--force", name)


def test_base_stays_the_same_while_its_tag_moves_on(registry: Registry, engine: Engine, tmp_path: Path) -> None:
    name, lock = f"{registry.address}/library/python:3.12-slim", tmp_path / "base.lock"
    push(registry, engine, tmp_path, name, "first")
    done = base(registry, "--base", name, "--lock", str(lock))
    assert done.returncode == 0, done.stderr
    first = locked(lock)
    assert done.stdout == f"base.lock: {first.reference}\n"
    assert base(registry, "--check", "--lock", str(lock)).stdout.endswith(f"is what {name} names.\n")

    push(registry, engine, tmp_path, name, "second")
    checked = base(registry, "--check", "--lock", str(lock))
    assert checked.returncode == 0
    assert "is a later image now" in checked.stdout
    # An engine that builds on the lock still takes the first image.
    (tmp_path / "Dockerfile").write_text("ARG BASE\nFROM ${BASE}\nCOPY first/file /also\n")
    environment = {**engine.environment, **registry.environment}
    built, out = f"localhost/tokentrace-base-{os.getpid()}", tmp_path / "out.tar"
    for words in (
        ["build", "--build-arg", f"BASE={first.reference}", "--tag", built, str(tmp_path)],
        ["save", "--output", str(out), built],
    ):
        subprocess.run([engine.name, *words], env=environment, check=True, capture_output=True)
    engine.run("rmi", "--force", built, first.reference, check=False)
    assert b"second" not in out.read_bytes()

    # Gone from the registry.
    revision = (
        registry.data / "docker/registry/v2/repositories/library/python/_manifests/revisions/sha256" / first.digest
    )
    shutil.rmtree(revision)
    gone = base(registry, "--check", "--lock", str(lock))
    assert gone.returncode == 1
    assert gone.stderr.startswith("The base of the image is not known by its digest: skopeo cannot read")
