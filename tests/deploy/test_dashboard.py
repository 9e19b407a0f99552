"""The dashboard: what the generator says, what Grafana's types allow, and what its readers need."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.conftest import unavailable
from tests.deploy.expressions import DASHBOARD, filled, of_dashboard, panels
from tests.services import ROOT

_spec = importlib.util.spec_from_file_location("generate_dashboard", ROOT / "dashboards" / "generate.py")
assert _spec is not None
assert _spec.loader is not None
generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate)

BOARD: dict[str, Any] = json.loads(DASHBOARD.read_text())
PANELS = list(panels(BOARD))


@pytest.mark.parametrize("path", generate.generated(), ids=lambda path: path.name)
def test_the_files_are_what_the_generator_writes(path: Path) -> None:
    assert path.read_text() == generate.generated()[path], "run: make docs"


def test_grafanas_own_types_read_it_and_give_it_back() -> None:
    provisioned = json.loads(generate.PROVISIONED.read_text())
    again = json.loads(generate.JSONEncoder(sort_keys=True).encode(Dashboard.from_json(provisioned)))
    assert again["title"] == "tokentrace"
    assert [panel["title"] for panel in again["panels"]] == [panel["title"] for panel in provisioned["panels"]]
    assert [variable["name"] for variable in again["templating"]["list"]] == [
        variable["name"] for variable in provisioned["templating"]["list"]
    ]


def test_rows_and_panels_have_the_names_that_users_are_told() -> None:
    rows: dict[str, list[str]] = {}
    row = ""
    for panel in BOARD["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
            rows[row] = [inner["title"] for inner in panel.get("panels") or []]
        else:
            rows[row].append(panel["title"])
    assert rows["Overview"] == [
        "Cost over time", "Latency heatmap", "Model usage breakdown", "Quality score over time", "Alert history",
    ]  # fmt: skip
    assert list(rows) == ["Overview", "Attribution", "Budgets", "Tokens", "Reliability", "Worker", "Alert payloads"]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_panel_has_a_description_a_unit_a_place_and_a_name_for_each_line(panel: dict[str, Any]) -> None:
    assert len(panel["description"]) > 20
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    if panel["type"] in ("timeseries", "heatmap", "bargauge", "stat"):
        assert all(target["legendFormat"] for target in panel["targets"])


def test_panels_do_not_overlap_and_fill_the_width() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert 0 <= x < 24
                assert (x, y) not in taken, (panel["title"], taken.get((x, y)))
                taken[x, y] = panel["title"]
    ids = [panel["id"] for panel in [*BOARD["panels"], *PANELS] if panel["type"] != "row"]
    assert len({*ids}) == len(PANELS)
    for y in {y for _, y in taken}:
        assert sum(1 for _, row in taken if row == y) == 24, y


def test_every_variable_is_used_and_every_variable_that_is_used_exists() -> None:
    variables = {variable["name"] for variable in BOARD["templating"]["list"]}
    assert variables == {"datasource", "job", "namespace", "model", "provider", "caller", "replica", "loki"}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(BOARD["panels"])))
    assert used - {"__rate_interval", "__interval", "__range"} == variables


def test_importing_asks_for_the_prometheus_and_provisioning_takes_the_default_one() -> None:
    assert [(input["name"], input["pluginId"]) for input in BOARD["__inputs"]] == [("DS_PROMETHEUS", "prometheus")]
    assert json.dumps(BOARD).count("${DS_PROMETHEUS}") == 2  # text and value of the variable `datasource`
    assert {panel["datasource"]["uid"] for panel in PANELS} == {"$datasource", "$loki"}
    provisioned = json.loads(generate.PROVISIONED.read_text())
    assert "__inputs" not in provisioned
    assert "DS_PROMETHEUS" not in json.dumps(provisioned)
    # A file that Grafana is provisioned with goes into a ConfigMap, which holds less than this.
    assert len(generate.PROVISIONED.read_bytes()) < 250_000


def test_no_expression_sums_before_it_takes_the_rate_or_divides_what_is_not_summed() -> None:
    for expression in of_dashboard():
        assert not re.search(r"(rate|increase)\s*\(\s*(sum|avg|max)", expression.text), expression
        assert "avg" not in expression.text, expression
        for counter in re.finditer(r"tokentrace_\w+(_total|_bucket|_sum|_count)\b", expression.text):
            before = expression.text[: counter.start()]
            assert re.search(r"(rate|increase)\($", before), f"{counter[0]} is summed without a rate: {expression}"


def test_alert_history_shows_each_firing_once_whichever_replica_evaluated_it(tmp_path: Path) -> None:
    """Two replicas were the evaluator, one after the other; the one that fired last knows the value."""
    if shutil.which("promtool") is None:
        unavailable("promtool is not installed (Debian: apt-get install prometheus)")
    fired, value = (
        filled(expression.text) for expression in of_dashboard() if expression.place.startswith("Alert history")
    )
    labels = 'rule="spend", job="tokentrace", instance='
    test = {
        "rule_files": [],
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {
                        "series": f"tokentrace_alert_last_fired_timestamp_seconds{{{labels}'0'}}".replace("'", '"'),
                        "values": "0 60 60 60 60",
                    },
                    {
                        "series": f"tokentrace_alert_last_value{{{labels}'0'}}".replace("'", '"'),
                        "values": "0 31 31 31 31",
                    },
                    {
                        "series": f"tokentrace_alert_last_fired_timestamp_seconds{{{labels}'1'}}".replace("'", '"'),
                        "values": "0 0 0 180 180",
                    },
                    {
                        "series": f"tokentrace_alert_last_value{{{labels}'1'}}".replace("'", '"'),
                        "values": "0 0 0 27 27",
                    },
                ],
                "promql_expr_test": [
                    {"expr": expr, "eval_time": at, "exp_samples": expected}
                    for expr, at, expected in (
                        (fired, "0m", []),
                        (fired, "1m", [{"labels": '{rule="spend"}', "value": 60_000}]),
                        (value, "1m", [{"labels": '{rule="spend"}', "value": 31}]),
                        (fired, "4m", [{"labels": '{rule="spend"}', "value": 180_000}]),
                        (value, "4m", [{"labels": '{rule="spend"}', "value": 27}]),
                    )
                ],
            }
        ],
    }
    path = tmp_path / "history.yml"
    path.write_text(yaml.safe_dump(test))
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
