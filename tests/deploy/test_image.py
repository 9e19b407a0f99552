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
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from confluent_kafka import Producer
from release.sbom import installed, needed

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
        return re.sub(r"(?:^|(?<=&& )|(?<==\$\{COMMIT\} ))python ", f"{sys.executable} ", text)

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
                into = self.inside(target) / Path(source).name if target.endswith("/") else self.inside(target)
                into.parent.mkdir(parents=True, exist_ok=True)
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, into, dirs_exist_ok=True)
                else:
                    shutil.copy(ROOT / source, into)
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
        elif keyword == "RUN" and "--require-hashes" in rest:
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
        check = image.command(image.words["HEALTHCHECK"])
        address = f"http://127.0.0.1:{port}/metrics/prometheus"
        code = f"import urllib.request; print(urllib.request.urlopen('{address}').read().decode())"
        metrics = [*image.command(["python", "-c"]), code]
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
        assert process.wait(180.0) == 0
        assert subprocess.run(check, env=environment, capture_output=True, check=False).returncode != 0
    finally:
        end(process)


def test_the_image_holds_no_compiler_no_pip_and_nothing_of_the_developers(image: Image) -> None:
    installed = {path.name for path in image.inside("/opt/tokentrace/bin").iterdir()}
    assert "tokentrace" in installed
    assert not {name for name in installed if re.match(r"pip|gcc|cc|pytest|ruff|mypy", name)}
    text = DOCKERFILE.read_text()
    assert "apt-get" not in text
    assert [rest for keyword, rest in steps() if keyword == "FROM"] == ["${BASE} AS build", "${BASE}"]
    assert "BASE=docker.io/library/python:${PYTHON}-slim" in text
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
    assert kept == {source.partition("/")[0] for source in copied}


def test_every_distribution_comes_as_a_wheel_whose_hash_is_known() -> None:
    """For each Python and machine that the image is built for; versions are those that everything is tested with."""
    constraints = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    known = installed()
    for name, root in (
        ("requirements.txt", "tokentrace"),
        ("requirements-ledger.txt", "tokentrace[ledger]"),
        ("requirements-build.txt", "hatchling"),
    ):
        text = (ROOT / "deploy" / name).read_text()
        pins = dict(re.findall(r"^([\w-]+)==(\S+)", text, re.MULTILINE))
        assert set(pins) == {other for other in needed(root, known) if other != "tokentrace"}, "python -m release.lock"
        assert pins.items() <= constraints.items(), "python -m release.lock"
        blocks = re.split(r"\n(?=[\w-]+==)", text)[1:]
        assert len(blocks) == len(pins)
        assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in blocks)
    installs = [
        rest for keyword, rest in steps() if keyword == "RUN" and " install " in rest and "/wheels/" not in rest
    ]
    assert len(installs) == 2
    assert all("--require-hashes" in rest and "--only-binary :all:" in rest for rest in installs)


@pytest.mark.timeout(600)
def test_the_image_lists_what_is_inside_and_under_which_licenses(image: Image) -> None:
    share = image.inside("/opt/tokentrace/share")
    bill = json.loads((share / "sbom.cdx.json").read_text())
    inside = {
        path.name.split("-")[0].lower()
        for path in image.root.glob("opt/tokentrace/lib/python*/site-packages/*.dist-info")
    }
    listed = {component["name"].lower().replace("-", "_").replace(".", "_") for component in bill["components"]}
    assert listed | {"tokentrace"} == inside
    assert {"numpy", "confluent_kafka"} <= listed
    assert not {"pygments", "pip", "hatchling"} & listed
    assert all(component.get("licenses") for component in bill["components"])
    assert (share / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.mark.timeout(600)
def test_every_module_of_the_image_can_be_imported_without_what_was_left_out(image: Image) -> None:
    code = (
        "import importlib, pkgutil, tokentrace\n"
        "for module in pkgutil.walk_packages(tokentrace.__path__, 'tokentrace.', onerror=lambda name: None):\n"
        "    try:\n"
        "        module.name.endswith('__main__') or importlib.import_module(module.name)\n"
        "    except ModuleNotFoundError as error:\n"
        "        print(error.name.partition('.')[0])\n"
    )
    done = subprocess.run(
        [*image.command(["python", "-c"]), code], env=image.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # What comes with an extra is not in the image.
    assert set(done.stdout.split()) <= {"alembic", "litellm", "opentelemetry", "psycopg", "sqlalchemy"}


def test_labels_are_those_of_the_open_container_initiative() -> None:
    (label,) = (rest for keyword, rest in steps() if keyword == "LABEL")
    names = re.findall(r"org\.opencontainers\.image\.([\w.]+)=", label)
    assert set(names) == {
        "title", "description", "licenses", "version", "revision", "created", "base.name", "base.digest",
    }  # fmt: skip
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert ("ARG", f'VERSION="{version}"') in steps()


@pytest.mark.timeout(600)
def test_the_image_keeps_a_ledger_if_it_is_built_with_the_extra(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps that name EXTRA, done in a copy of the image."""
    assert ("ARG", 'EXTRA=""') in steps()
    larger = Image(tmp_path, environment={"PATH": f"{tmp_path}/opt/tokentrace/bin:{os.environ['PATH']}"})
    shutil.copytree(image.inside("/opt/tokentrace"), larger.inside("/opt/tokentrace"), symlinks=True)
    program = larger.inside("/opt/tokentrace/bin/tokentrace")
    program.write_text(program.read_text().replace(str(image.root), str(tmp_path)))
    (tmp_path / "tokentrace.yml").write_text("")
    ledger = [*larger.command(["tokentrace", "ledger", "status"]), "--config", "tokentrace.yml"]
    without = subprocess.run(ledger, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "pip install 'tokentrace[ledger]'" in without.stderr

    monkeypatch.setenv("EXTRA", "ledger")
    larger.do("WORKDIR", "/src")
    copies = [rest for keyword, rest in steps() if keyword == "COPY" and rest.startswith(("deploy/", "release "))]
    named = [rest for keyword, rest in steps() if keyword == "RUN" and "${EXTRA" in rest]
    assert (len(copies), len(named)) == (2, 2)
    for rest in copies:
        larger.do("COPY", rest)
    for rest in named:
        larger.do("RUN", rest[rest.rindex("&& ") + 3 :] if "&& " in rest else rest)
    found = subprocess.run(ledger, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "There is no ledger in sqlite:" in found.stderr
    drivers = [*larger.command(["python", "-c"]), "import psycopg; print(psycopg.pq.__impl__)"]
    assert subprocess.run(drivers, capture_output=True, text=True, check=True).stdout == "binary\n"
    bill = json.loads((tmp_path / "opt/tokentrace/share/sbom.cdx.json").read_text())
    components = {component["name"].lower() for component in bill["components"]}
    assert {"sqlalchemy", "alembic", "psycopg", "psycopg-binary"} <= components
    assert all(component.get("licenses") for component in bill["components"])
