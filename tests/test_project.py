"""The project's face: issue forms, the workflow, the hooks of pre-commit and the marker of typed packages."""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from release.lock import PYTHONS

from tests.services import ROOT

GITHUB = ROOT / ".github"
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_issue_form_has_what_github_requires(form: Path) -> None:
    document = yaml.safe_load(form.read_text())
    assert {"name", "description", "body"} <= set(document)
    identifiers = [field["id"] for field in document["body"]]
    assert len(set(identifiers)) == len(identifiers)
    assert all(field["attributes"]["label"] for field in document["body"])


def workflow(name: str) -> dict[str, list[dict[str, Any]]]:
    """Job -> its steps."""
    jobs = yaml.safe_load((GITHUB / "workflows" / f"{name}.yml").read_text())["jobs"]
    return {job: parts["steps"] for job, parts in jobs.items()}


def test_workflows_run_the_project_s_own_commands() -> None:
    commands = {
        (name, job): [
            step["run"].split(" ", 2)[-1] for step in steps if "run" in step and "base.lock" not in step["run"]
        ]
        for name in ("ci", "release")
        for job, steps in workflow(name).items()
    }
    assert commands == {
        ("ci", "test"): [".ci/run"],
        ("ci", "pythons"): ["check"],
        ("ci", "image"): [
            "--file deploy/Dockerfile --tag tokentrace .", "--rm --read-only tokentrace version",
        ],
        ("release", "release"): [".ci/run", "make release"],
        ("release", "image"): [
            "ARGS=--check", 'ARGS="--locked --tag tokentrace:release"', "--rm --read-only tokentrace:release version",
        ],
    }  # fmt: skip


def test_workflows_run_on_every_python_that_the_package_names() -> None:
    jobs = yaml.safe_load((GITHUB / "workflows" / "ci.yml").read_text())["jobs"]
    (oldest,) = [step["with"]["python-version"] for step in jobs["test"]["steps"] if "python-version" in str(step)]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [line.rsplit(" ", 1)[1] for line in project["classifiers"] if "Python :: 3." in line]
    assert [oldest, *jobs["pythons"]["strategy"]["matrix"]["python"]] == named == list(PYTHONS)
    assert project["requires-python"] == f">={oldest}"


@pytest.mark.parametrize("path", sorted((GITHUB / "workflows").glob("*.yml")), ids=lambda path: path.stem)
def test_actions_are_pinned_by_the_hash_of_a_commit_and_say_its_version(path: Path) -> None:
    text = path.read_text()
    used = re.findall(r"uses: (.+)", text)
    assert used
    for action in used:
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}


def test_pre_commit_runs_the_commands_of_make_lint() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = {hook["id"]: hook["entry"].removeprefix(".venv/bin/") for hook in repository["hooks"]}
    lint = re.findall(r"\t\$\(BIN\)/(.+)", (ROOT / "Makefile").read_text())
    for name in ("ruff-check", "ruff-format", "codespell", "language"):
        assert any(line.startswith(hooks[name].removesuffix(" --force-exclude")[:13]) for line in lint), name
    assert hooks["commit-subject"] == "python -m tests.commit_subject"


def test_package_has_the_marker_of_typed_packages() -> None:
    assert files("tokentrace").joinpath("py.typed").is_file()
