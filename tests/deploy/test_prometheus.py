"""Prometheus' configuration, the rules, their tests, and the page that each alert links to."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import unavailable
from tests.deploy.expressions import Expression, of_dashboard, of_pages, of_queries, of_rules, rules
from tests.services import ROOT
from tokentrace.model.families import ALERT_FAMILIES, BUDGET_FAMILIES, CELL_FAMILIES, GLOBAL_FAMILIES

FOLDER = ROOT / "deploy" / "prometheus"
ALERTS = [rule for rule in rules() if "alert" in rule]


def promtool(*arguments: str, cwd: Path = FOLDER) -> subprocess.CompletedProcess[str]:
    if shutil.which("promtool") is None:
        unavailable("promtool is not installed (Debian: apt-get install prometheus)")
    return subprocess.run(["promtool", *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def test_promtool_accepts_the_rules_and_their_tests_pass() -> None:
    checked = promtool("check", "rules", "rules.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = promtool("test", "rules", "rules_test.yml")
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_promtool_accepts_the_configuration(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "prometheus")
    (tmp_path / "prometheus" / "tokentrace.token").write_text("secret")
    checked = promtool("check", "config", "prometheus.yml", cwd=tmp_path / "prometheus")
    if "kubernetes_sd_configs not found" in checked.stderr + checked.stdout:
        # Debian builds Prometheus without Kubernetes; all else is checked, and the job's relabelling below.
        path = tmp_path / "prometheus" / "prometheus.yml"
        config = yaml.safe_load(path.read_text())
        config["scrape_configs"] = [job for job in config["scrape_configs"] if "kubernetes_sd_configs" not in job]
        assert len(config["scrape_configs"]) == 2
        path.write_text(yaml.safe_dump(config))
        checked = promtool("check", "config", "prometheus.yml", cwd=tmp_path / "prometheus")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_alert_has_a_test_a_severity_and_a_section_in_the_runbook() -> None:
    tests = yaml.safe_load((FOLDER / "rules_test.yml").read_text())["tests"]
    fires = {case["alertname"] for test in tests for case in test.get("alert_rule_test", ()) if case["exp_alerts"]}
    stays = {case["alertname"] for test in tests for case in test.get("alert_rule_test", ()) if not case["exp_alerts"]}
    names = {alert["alert"] for alert in ALERTS}
    assert fires == names
    assert stays <= names
    sections = re.findall(r"^### (\w+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    assert sections == [alert["alert"] for alert in ALERTS]
    for alert in ALERTS:
        assert alert["labels"]["severity"] in ("info", "warning", "critical")
        assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{alert['alert'].lower()}"
        assert alert["annotations"]["summary"]


def test_expressions_are_found() -> None:
    assert (len(of_dashboard()) >= 30, len(of_rules()) >= 25, len(of_queries()) >= 30) == (True, True, True)
    assert len(of_pages()) >= 7


@pytest.mark.parametrize(
    ("expressions", "accepted"),
    [([*of_queries(), *of_queries("one-or-nothing"), *of_pages()], True), *(([e], False) for e in of_queries("wrong"))],
    ids=lambda value: "" if isinstance(value, list) else str(value),
)
def test_promtool_accepts_the_expressions_of_the_pages(
    expressions: list[Expression], accepted: bool, tmp_path: Path
) -> None:
    found = [
        {"record": f"of_a_page_{number}", "expr": expression.text} for number, expression in enumerate(expressions)
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "pages", "rules": found}]}))
    checked = promtool("check", "rules", "rules.yml", cwd=tmp_path)
    assert (checked.returncode == 0) == accepted, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    "expression", [*of_dashboard(), *of_rules(), *of_queries(), *of_pages()], ids=lambda expression: expression.place
)
def test_expressions_name_families_that_exist(expression: Any) -> None:
    known = {family.name for family in (*CELL_FAMILIES, *GLOBAL_FAMILIES, *ALERT_FAMILIES, *BUDGET_FAMILIES)}
    known |= set(
        re.findall(
            r"^\| `(tokentrace_(?:worker|ledger)_\w+)`", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE
        )
    )
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    names = re.findall(r"(?<![\w:])((?:\w+:)?tokentrace_[\w:]+)", expression.text)
    assert names
    for name in names:
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        assert name in known | recorded or base in known, name
