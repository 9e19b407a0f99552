"""The Dockerfile's steps, run one by one without Docker: the wheel is built and installed, and the command serves.

There is one file system here rather than one for each stage, so the absolute paths of the image become paths below a
folder; the users' and groups' commands are left out. What the last stage needs of the first is only what it copies.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from confluent_kafka import Producer

from tests.conftest import unavailable
from tests.services import ROOT, end, free_port
from tests.services.kafka import KafkaBroker
from tests.spanfactory import message, span

DOCKERFILE = ROOT / "deploy" / "Dockerfile"


@dataclass
class Image:
    """Stages as folders: what a Dockerfile says, done in them."""

    root: Path
    folder: Path = Path("/")
    environment: dict[str, str] = field(default_factory=dict)
    words: dict[str, list[str]] = field(default_factory=dict)

    def inside(self, path: str) -> Path:
        return self.root / (path if path.startswith("/") else str(self.folder / path)).lstrip("/")

    def moved(self, text: str) -> str:
        """A command with the image's absolute paths as paths below the root, and the image's Python as this one."""
        text = re.sub(r"(?<![\w.:/])/(?=(?:src|wheels|opt|etc)\b)", f"{self.root}/", text)
        return re.sub(r"^python ", f"{sys.executable} ", text)

    def do(self, keyword: str, rest: str) -> None:
        if keyword == "WORKDIR":
            self.folder = Path(rest)
            self.inside(rest).mkdir(parents=True, exist_ok=True)
        elif keyword == "COPY" and rest.startswith("--from="):
            _, source, target = rest.split()
            assert source == target, "what is copied between stages stays where it was"
            assert self.inside(source).exists()
        elif keyword == "COPY":
            *sources, target = rest.split()
            for source in sources:
                into = self.inside(target) / source if target.endswith("/") else self.inside(target)
                into.parent.mkdir(parents=True, exist_ok=True)
                (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, into)
        elif keyword == "RUN" and not rest.startswith("groupadd"):
            done = subprocess.run(
                self.moved(rest), shell=True, cwd=self.inside("."), capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{rest}\n{done.stdout}{done.stderr}"
        elif keyword == "ENV":
            name, value = rest.split("=", 1)
            self.environment[name] = self.moved(value).replace("$PATH", os.environ["PATH"])
        elif keyword in ("ENTRYPOINT", "CMD"):
            self.words[keyword] = json.loads(rest)
        elif keyword == "HEALTHCHECK":
            self.words[keyword] = json.loads(rest[rest.index("CMD") + 3 :])

    def command(self, words: list[str]) -> list[str]:
        """With the program as PATH finds it inside, and paths moved."""
        program = shutil.which(words[0], path=self.environment["PATH"])
        assert program is not None
        assert program.startswith(str(self.root)), f"{words[0]} is not the image's own"
        return [program, *(self.moved(word) for word in words[1:])]


def steps() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", "", DOCKERFILE.read_text())
    return [
        (keyword, rest.strip())
        for keyword, _, rest in (line.partition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    ]


@pytest.fixture(scope="module")
def image(real_service: None, tmp_path_factory: pytest.TempPathFactory) -> Image:
    image = Image(tmp_path_factory.mktemp("image"))
    stages = 0
    for keyword, rest in steps():
        if keyword == "FROM":
            stages += 1
            if stages == 2:
                # The second stage has nothing of the first but what it copies from it.
                shutil.rmtree(image.inside("/src"))
                shutil.rmtree(image.inside("/wheels"))
        elif keyword == "RUN" and " pip install" in rest:
            probe = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--dest",
                str(image.root / "probe"),
            ]
            if subprocess.run([*probe, "click"], capture_output=True, check=False).returncode != 0:
                unavailable("the package index cannot be reached")
            image.do(keyword, rest)
        else:
            image.do(keyword, rest)
    assert stages == 2
    return image


@pytest.mark.timeout(600)
def test_image_brings_the_files_that_init_and_assets_write(image: Image, tmp_path: Path) -> None:
    """From the wheel alone: what the source tree has, and a configuration that is valid."""

    def tokentrace(*words: str) -> str:
        command = image.command(["tokentrace", *words])
        environment = {"PATH": os.environ["PATH"]}
        return subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout

    tokentrace("assets", "export", "all")
    exported = {path.relative_to(tmp_path / "all") for path in (tmp_path / "all").rglob("*") if path.is_file()}
    assert len(exported) > 40
    for path in exported:
        assert (tmp_path / "all" / path).read_bytes() == (ROOT / path).read_bytes()
    tokentrace("init", "--yes")
    assert tokentrace("config", "check").startswith("tokentrace.yml: OK.")
    assert tokentrace("schema", "span") == (ROOT / "schemas" / "span.avsc").read_text()


@pytest.mark.timeout(600)
def test_image_has_the_marker_of_typed_packages(image: Image) -> None:
    """The image installs the wheel, so the wheel has the marker, too."""
    assert [path.parent.name for path in image.root.rglob("py.typed") if path.parent.name == "tokentrace"] == [
        "tokentrace"
    ]


@pytest.mark.timeout(600)
def test_image_serves_metrics_and_is_healthy(image: Image, kafka: KafkaBroker, topic: str) -> None:
    """The entry point and the command as they are; the configuration beside them says which Kafka."""
    port = free_port()
    config = image.inside("/etc/tokentrace/tokentrace.yml")
    assert yaml.safe_load(config.read_text())["http_server"]["addr"] == ":9090"
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    producer.produce(topic, message(span(cost_usd=0.25)))
    producer.flush()
    config.write_text(
        yaml.safe_dump(
            {
                "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
                "worker": {"replica_id": "image", "drain_timeout": "0s"},
                "http_server": {"addr": f"127.0.0.1:{port}"},
            }
        )
    )
    environment = {**image.environment, "HOME": "/nonexistent"}
    process = subprocess.Popen(
        image.command(image.words["ENTRYPOINT"] + image.words["CMD"]),
        env=environment, cwd=image.inside("."), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        check = [word.replace(":9090", f":{port}") for word in image.command(image.words["HEALTHCHECK"])]
        address = f"http://127.0.0.1:{port}/metrics/prometheus"
        metrics = [*check[:-1], f"import urllib.request; print(urllib.request.urlopen('{address}').read().decode())"]
        deadline = time.monotonic() + 60
        while True:
            served = subprocess.run(metrics, env=environment, capture_output=True, text=True, check=False).stdout
            if 'tokentrace_cost_total{model="gpt-4o",provider="openai",caller=""} 0.25' in served:
                break
            assert time.monotonic() < deadline, served[-2000:]
            assert process.poll() is None, process.stdout
            time.sleep(0.3)
        assert subprocess.run(check, env=environment, check=False).returncode == 0
        process.terminate()
        assert process.wait(30) == 0
        assert subprocess.run(check, env=environment, capture_output=True, check=False).returncode != 0
    finally:
        end(process)


def test_the_image_holds_no_compiler_no_pip_and_nothing_of_the_developers(image: Image) -> None:
    installed = {path.name for path in image.inside("/opt/tokentrace/bin").iterdir()}
    assert "tokentrace" in installed
    assert not {name for name in installed if re.match(r"pip|gcc|cc|pytest|ruff|mypy", name)}
    text = DOCKERFILE.read_text()
    assert "apt-get" not in text
    assert text.count("-slim") == 2
    assert image.words["ENTRYPOINT"] == ["tokentrace"]
    # It runs as nobody in particular, and the file in it is the documented one.
    assert ("USER", "10001:10001") in steps()


def test_the_build_context_leaves_out_what_the_image_does_not_need() -> None:
    kept = {
        line[1:] for line in (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().split() if line.startswith("!")
    }
    copied = {
        source
        for keyword, rest in steps()
        if keyword == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert kept == copied
