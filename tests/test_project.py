"""The project's face: issue forms, the workflow, the hooks of pre-commit and the marker of typed packages."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

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


def test_workflow_runs_the_project_s_own_script_with_pinned_actions() -> None:
    steps = yaml.safe_load((GITHUB / "workflows" / "ci.yml").read_text())["jobs"]["test"]["steps"]
    assert [step["run"].split()[-1] for step in steps if "run" in step] == [".ci/run"]
    for step in steps:
        assert "uses" not in step or re.fullmatch(r"[\w/-]+@v\d+\.\d+\.\d+", step["uses"]), step


def test_pre_commit_runs_the_commands_of_make_lint() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = {hook["id"]: hook["entry"].removeprefix(".venv/bin/") for hook in repository["hooks"]}
    lint = re.findall(r"\t\$\(BIN\)/(.+)", (ROOT / "Makefile").read_text())
    for name in ("ruff-check", "ruff-format", "codespell", "language"):
        assert any(line.startswith(hooks[name].removesuffix(" --force-exclude")[:13]) for line in lint), name
    assert hooks["commit-subject"] == "python -m tests.commit_subject"


def test_package_has_the_marker_of_typed_packages() -> None:
    assert files("tokentrace").joinpath("py.typed").is_file()
