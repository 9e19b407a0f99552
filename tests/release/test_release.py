"""A release: the same bytes whoever builds them, the commit inside, and a true list of what comes along."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from release.build import Source, build, checksums, differences
from release.sbom import document, installed

from tests.services import ROOT

NAME = f"tokentrace-{version('tokentrace')}"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A repository of its own with one commit of this tree, since a source distribution has no history."""
    root = tmp_path_factory.mktemp("repository")
    shutil.copytree(
        ROOT, root, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".git", ".*cache", ".cache", ".venv", "dist")
    )
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    dates = {"GIT_AUTHOR_DATE": "1790000000 +0000", "GIT_COMMITTER_DATE": "1790000000 +0000"}
    for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "One"]):
        subprocess.run([*git, *words], check=True, env={**os.environ, **dates})
    return Source.of(root)


@pytest.fixture(scope="module")
def built(source: Source, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Build it once."""
    return build(source, tmp_path_factory.mktemp("first") / "build")


def test_two_builds_of_a_commit_have_the_same_bytes(
    source: Source, built: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another folder, at another time, and with files that only their owner may read."""
    assert list(built) == [f"{NAME}-py3-none-any.whl", f"{NAME}.tar.gz"]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    before = os.umask(0o077)
    try:
        again = build(source, tmp_path / "somewhere" / "else")
    finally:
        os.umask(before)
    assert differences(built, again) == []
    assert differences(built, {**again, f"{NAME}.tar.gz": b"other"}) == [f"{NAME}.tar.gz"]


def test_uncommitted_changes_are_counted_and_left_out(source: Source, built: dict[str, bytes], tmp_path: Path) -> None:
    extra = source.root / "worker" / "tokentrace" / "extra.py"
    extra.write_text("")
    try:
        assert Source.of(source.root).changes == 1
        assert differences(built, build(source, tmp_path / "build")) == []
    finally:
        extra.unlink()


def test_wheel_and_sdist_hold_the_commit_the_license_and_the_time(source: Source, built: dict[str, bytes]) -> None:
    with zipfile.ZipFile(io.BytesIO(built[f"{NAME}-py3-none-any.whl"])) as wheel:
        assert wheel.read("tokentrace/_commit").decode() == f"{source.commit}\n"
        assert wheel.read(f"{NAME}.dist-info/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        assert {entry.date_time[:3] for entry in wheel.infolist()} == {(2026, 9, 21)}
    with tarfile.open(fileobj=io.BytesIO(built[f"{NAME}.tar.gz"])) as sdist:
        names = set(sdist.getnames())
        assert sdist.extractfile(f"{NAME}/COMMIT").read().decode() == f"{source.commit}\n"  # type: ignore[union-attr]
        assert {int(entry.mtime) for entry in sdist.getmembers()} == {source.epoch} == {1_790_000_000}
    for path in ("LICENSE", "CHANGELOG.md", "hatch_build.py", "release/build.py", "deploy/helm/tokentrace/Chart.yaml"):
        assert f"{NAME}/{path}" in names


def test_a_wheel_that_is_built_from_the_sdist_is_the_same(
    source: Source, built: dict[str, bytes], tmp_path: Path
) -> None:
    with tarfile.open(fileobj=io.BytesIO(built[f"{NAME}.tar.gz"])) as sdist:
        sdist.extractall(tmp_path, filter="data")
    environment = {"PATH": os.environ["PATH"], "SOURCE_DATE_EPOCH": str(source.epoch)}
    code = "import sys, hatchling.build as h; h.build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=tmp_path / NAME,
        env=environment,
        check=True,
        capture_output=True,
    )
    name = f"{NAME}-py3-none-any.whl"
    assert (tmp_path / name).read_bytes() == built[name]


def test_checksums_are_those_that_sha256sum_reads(built: dict[str, bytes]) -> None:
    lines = checksums(built).splitlines()
    assert [line.split("  ") for line in lines] == [
        [hashlib.sha256(content).hexdigest(), name] for name, content in sorted(built.items())
    ]


def bill() -> dict[str, Any]:
    """The bill of materials of this installation."""
    found: dict[str, Any] = json.loads(document("tokentrace", "1.2.3", installed(), epoch=0, root="tokentrace"))
    return found


def test_bill_of_materials_has_all_that_an_installation_brings_and_nothing_else() -> None:
    components = {component["name"].lower().replace("_", "-"): component for component in bill()["components"]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = {re.split(r"[\[><=!~]", text)[0] for text in project["dependencies"]}
    assert direct <= set(components)
    # Of what those bring: one of each way, an extra and a requirement of a requirement.
    assert {"authlib", "pydantic-core", "h11", "certifi"} <= set(components)
    assert not {"tokentrace", "pytest", "ruff", "mypy", "matplotlib", "hatchling", "pip"} & set(components)
    pinned = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    assert {name: component["version"] for name, component in components.items()}.items() <= pinned.items()


def test_every_component_has_an_address_a_license_and_its_needs() -> None:
    document = bill()
    components = [document["metadata"]["component"], *document["components"]]
    assert [component["name"] for component in components if not component.get("licenses")] == []
    references = {component["bom-ref"] for component in components}
    assert len(references) == len(components)
    assert all(component["purl"] == component["bom-ref"] for component in components)
    needs = {entry["ref"]: entry["dependsOn"] for entry in document["dependencies"]}
    assert set(needs) == references
    assert {other for others in needs.values() for other in others} == references - {components[0]["bom-ref"]}
    assert (document["bomFormat"], document["specVersion"], components[0]["version"]) == ("CycloneDX", "1.6", "1.2.3")


def test_bill_of_materials_is_the_same_twice() -> None:
    assert bill() == bill()
    folder = str(next(iter(installed().values())).locate_file(""))
    script = subprocess.run(
        [sys.executable, str(ROOT / "release" / "sbom.py"), folder],
        env={"PATH": os.environ["PATH"], "SOURCE_DATE_EPOCH": "86400"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(script.stdout)["metadata"]["timestamp"] == "1970-01-02T00:00:00Z"
    assert json.loads(script.stdout)["components"] == bill()["components"]
