"""Rules and dashboards with other labels and matchers: every query has them, and nothing else changes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.test_main import run
from tests.conftest import unavailable
from tokentrace.errors import UsageError
from tokentrace.tools.assets import assets
from tokentrace.tools.mixin import DASHBOARDS, RULES, RULES_TESTS, Mixin

FLEET = "cluster,job,namespace"
SELECTOR = 'cluster=~"eu|us",env="prod"'
SHIPPED = assets()


def queries(value: Any) -> list[str]:
    """Every query of rules or of a dashboard, in their order."""
    if isinstance(value, list):
        return [query for item in value for query in queries(item)]
    if not isinstance(value, dict):
        return []
    texts = [value[key] for key in ("expr", "query") if isinstance(value.get(key), str)]
    return [text for text in texts if "tokentrace_" in text] + [
        query for item in value.values() for query in queries(item)
    ]


def read(path: str, content: bytes) -> Any:
    return json.loads(content) if path.endswith(".json") else list(yaml.safe_load_all(content))


def test_without_settings_every_file_is_as_it_was_byte_for_byte() -> None:
    assert Mixin.of("job,namespace", "").apply(SHIPPED) == SHIPPED
    assert {*RULES, *DASHBOARDS, RULES_TESTS} <= set(SHIPPED)
    for path in DASHBOARDS:
        assert Mixin().dashboard(SHIPPED[path].decode()).encode() == SHIPPED[path]


def test_only_files_with_queries_change() -> None:
    changed = Mixin.of(FLEET, SELECTOR).apply(SHIPPED)
    assert {path for path in changed if changed[path] != SHIPPED[path]} == {*RULES, *DASHBOARDS}
    assert set(SHIPPED) - set(changed) == {RULES_TESTS}
    with_queries = {path for path, content in SHIPPED.items() if re.search(rb"\w\(tokentrace_\w+", content)}
    assert with_queries <= {*RULES, *DASHBOARDS, RULES_TESTS}, "a file with queries that the settings do not reach"


@pytest.mark.parametrize("path", [*RULES, *DASHBOARDS])
def test_every_series_of_every_query_has_the_matchers(path: str) -> None:
    changed = Mixin.of("job,namespace", SELECTOR).apply(SHIPPED)
    wanted = '{cluster=~"eu|us", env="prod"'
    before, after = queries(read(path, SHIPPED[path])), queries(read(path, changed[path]))
    assert len(before) == len(after) > 0
    series = 0
    for old, new in zip(before, after, strict=True):
        parts = re.split(r"(?<![\w:])(tokentrace_\w+)", new)
        series += len(parts) // 2
        assert all(part.startswith(wanted) for part in parts[2::2]), new
        assert new.replace(f"{wanted}, ", "{").replace(f"{wanted}}}", "") == old, "and nothing else is changed"
    assert series > 0


@pytest.mark.parametrize("path", RULES)
def test_rules_go_by_the_labels_of_the_fleet(path: str) -> None:
    changed = Mixin.of(FLEET, "").apply(SHIPPED)[path].decode()
    assert changed.replace("cluster, job, namespace", "job, namespace") == SHIPPED[path].decode()
    for query in queries(read(path, changed.encode())):
        for labels in re.findall(r"\b(?:by|on) \(([^)]*)\)", query):
            named = labels.split(", ")
            assert "cluster" in named or "job" not in named, query


def test_dashboard_has_a_variable_for_each_label_of_the_fleet() -> None:
    for path in DASHBOARDS:
        board = json.loads(Mixin.of("k8s_cluster,service", 'env="prod"').apply(SHIPPED)[path])
        variables = {variable["name"]: variable for variable in board["templating"]["list"]}
        assert list(variables) == [
            "datasource", "k8s_cluster", "service", "model", "provider", "caller", "replica", "loki",
        ]  # fmt: skip
        assert variables["service"]["label"] == "Service"
        assert variables["k8s_cluster"]["query"]["query"] == (
            'label_values(tokentrace_worker_build_info{env="prod"}, k8s_cluster)'
        )
        assert variables["service"]["query"]["query"] == (
            'label_values(tokentrace_worker_build_info{env="prod", k8s_cluster=~"$k8s_cluster"}, service)'
        )
        text = json.dumps(board)
        assert "$job" not in text
        assert "$namespace" not in text
        assert 'k8s_cluster=~\\"$k8s_cluster\\", service=~\\"$service\\"' in text


@pytest.mark.parametrize(
    ("fleet", "selector", "words"),
    [
        ("job,", "", "'' is not the name of a label"),
        ("job,name-space", "", "'name-space' is not the name of a label"),
        ("job,instance", "", "The label instance does not tell fleets apart"),
        ("job,job", "", "A label is given twice: job, job."),
        ("job", "cluster=eu", "'cluster=eu' is not a matcher"),
        ("job", 'cluster="eu" env="prod"', "is not a matcher"),
        ("job", 'a="b",c', "'c' is not a matcher"),
        ("job", 'a="b: c"', "is not a matcher"),
        ("job", 'a="b # c"', "is not a matcher"),
        ("job", '{a="b"}', "is not a matcher"),
    ],
)
def test_settings_that_prometheus_or_the_files_would_not_read_are_refused(
    fleet: str, selector: str, words: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        Mixin.of(fleet, selector)


def test_export_writes_the_files_with_the_settings(tmp_path: Path) -> None:
    options = ["--fleet-labels", FLEET, "--selector", 'env="prod"', "--runbook-url", "https://wiki.example.com/a"]
    done = run("assets", "export", "x", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    rules = (tmp_path / "x/deploy/prometheus/rules.yml").read_text()
    assert 'sum by (cluster, job, namespace) (increase(tokentrace_cost_total{env="prod"}[1h])) > 25' in rules
    assert "runbook_url: https://wiki.example.com/a#tokentracecostspike" in rules
    assert not (tmp_path / "x" / RULES_TESTS).exists()
    done = run("assets", "export", "x", "--selector", "env=prod", folder=tmp_path)
    assert (done.returncode, "'env=prod' is not a matcher" in done.stderr) == (2, True)


def promtool(*words: str, folder: Path) -> None:
    if shutil.which("promtool") is None:
        unavailable("promtool is not installed (Debian: apt-get install prometheus)")
    done = subprocess.run(["promtool", *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_shipped_tests_of_the_rules_hold_with_more_labels(tmp_path: Path) -> None:
    changed = Mixin.of(FLEET, "").apply(SHIPPED)
    (tmp_path / "rules.yml").write_bytes(changed["deploy/prometheus/rules.yml"])
    (tmp_path / "rules_test.yml").write_bytes(changed[RULES_TESTS])
    promtool("test", "rules", "rules_test.yml", folder=tmp_path)


@pytest.mark.parametrize(
    ("fleet", "selector", "gone"),
    [("job,namespace", "", []), (FLEET, "", ["eu"]), (FLEET, 'cluster="us"', []), (FLEET, 'cluster=~"eu|as"', ["eu"])],
)
def test_a_fleet_that_is_gone_is_named_where_its_cluster_is_a_label(
    fleet: str, selector: str, gone: list[str], tmp_path: Path
) -> None:
    """Three clusters in one Prometheus; the workers of one have gone, under the same job and namespace."""
    rules = Mixin.of(fleet, selector).apply(SHIPPED)["deploy/prometheus/rules.yml"]
    (tmp_path / "rules.yml").write_bytes(rules)
    promtool("check", "rules", "rules.yml", folder=tmp_path)
    labels = 'job="tokentrace", namespace="llm", instance="tokentrace-0", version="0.1.0"'
    series = {"eu": "1 1 1 stale", "us": "1x20", "as": "1x20"}
    alerts = [
        {
            "exp_labels": {"severity": "critical", "cluster": cluster, "job": "tokentrace", "namespace": "llm"},
            "exp_annotations": {
                "summary": "No tokentrace worker is scraped.",
                "runbook_url": "docs/runbook.md#tokentracedown",
            },
        }
        for cluster in gone
    ]
    test = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "30s",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": f'tokentrace_worker_build_info{{cluster="{cluster}", {labels}}}', "values": values}
                    for cluster, values in series.items()
                ],
                "alert_rule_test": [{"eval_time": "10m", "alertname": "TokentraceDown", "exp_alerts": alerts}],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test))
    promtool("test", "rules", "test.yml", folder=tmp_path)
