"""`tokentrace init`, `assets` and `schema`: the files that the wheel brings, and a configuration made from them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.cli.test_main import run
from tests.services import ROOT
from tokentrace.config import load_config
from tokentrace.tools.assets import SHIPPED, assets


def test_init_writes_a_commented_configuration_that_is_valid(tmp_path: Path) -> None:
    done = run("init", "--yes", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:2] == ["Wrote tokentrace.yml.", "Wrote tokentrace.schema.json."]
    assert load_config(tmp_path / "tokentrace.yml", {}) == load_config(ROOT / "tokentrace.yml", {})
    text = (tmp_path / "tokentrace.yml").read_text()
    assert text.startswith("# yaml-language-server: $schema=tokentrace.schema.json\n")
    assert len(text.splitlines()) == len((ROOT / "tokentrace.yml").read_text().splitlines())
    assert run("config", "check", folder=tmp_path).returncode == 0


def test_init_takes_its_answers_from_options(tmp_path: Path) -> None:
    arguments = ["--bootstrap-servers", "k1:9093,k2:9093", "--topic", "calls", "--group-id", "team", "--registry-url"]
    access = ["--security-protocol", "sasl_ssl", "--sasl-mechanism", "PLAIN"]
    done = run("init", "sub", "--yes", *arguments, "https://registry:8081", *access, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    config = load_config(tmp_path / "sub" / "tokentrace.yml", {"KAFKA_USERNAME": "u", "KAFKA_PASSWORD": "p"})
    assert (config.kafka.bootstrap_servers, config.kafka.topic, config.kafka.group_id) == (
        "k1:9093,k2:9093", "calls", "team",
    )  # fmt: skip
    assert config.schema_registry.url == "https://registry:8081"
    assert config.kafka.properties == {
        "security.protocol": "sasl_ssl", "sasl.mechanism": "PLAIN", "sasl.username": "u", "sasl.password": "p",
    }  # fmt: skip
    assert "Set KAFKA_USERNAME and KAFKA_PASSWORD" in done.stdout
    assert "--config sub/tokentrace.yml" in done.stdout


def test_init_refuses_a_wrong_answer_and_a_file_that_is_there(tmp_path: Path) -> None:
    done = run("init", "--yes", "--topic", "a b", folder=tmp_path)
    assert done.returncode == 2
    assert "kafka.topic: the name of a topic has letters" in done.stderr
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "tokentrace.yml").write_text("mine")
    done = run("init", "--yes", folder=tmp_path)
    assert done.returncode == 2
    assert "tokentrace.yml exists and differs" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["tokentrace.yml"]
    assert run("init", "--yes", "--force", folder=tmp_path).returncode == 0
    assert run("init", "--yes", folder=tmp_path).returncode == 0, "the same again changes nothing"


def test_init_writes_manifests_on_request(tmp_path: Path) -> None:
    assert run("init", "--yes", "--kubernetes", "--compose", folder=tmp_path).returncode == 0
    for name in ("kubernetes/base/statefulset.yaml", "compose.yaml", "compose/tokentrace.yml", "prometheus/rules.yml"):
        assert (tmp_path / "deploy" / name).read_bytes() == (ROOT / "deploy" / name).read_bytes()


def test_assets_are_exported_as_they_are(tmp_path: Path) -> None:
    done = run("assets", "export", "out", folder=tmp_path)
    assert done.stdout == f"Wrote {len(assets())} files to out.\n"
    for path in assets():
        assert (tmp_path / "out" / path).read_bytes() == (ROOT / path).read_bytes()
    listed = [line.split()[-1] for line in run("assets", "list").stdout.splitlines()]
    assert listed == list(assets())
    for name in ("tokentrace.yml", "schemas/span.avsc", "dashboards/grafana.json", "deploy/prometheus/rules.yml"):
        assert name in listed


def test_exported_rules_can_have_the_address_of_the_runbook(tmp_path: Path) -> None:
    url = "https://wiki.example.com/runbook.html"
    only = [word for part in ("prometheus", "helm", "kubernetes") for word in ("--only", f"deploy/{part}")]
    done = run("assets", "export", "x", *only, "--runbook-url", url, folder=tmp_path)
    assert done.returncode == 0
    rules = yaml.safe_load((tmp_path / "x/deploy/prometheus/rules.yml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule]
    assert len(alerts) > 10
    for alert in alerts:
        assert alert["annotations"]["runbook_url"] == f"{url}#{alert['alert'].lower()}"
    values = yaml.safe_load((tmp_path / "x/deploy/helm/tokentrace/values.yaml").read_text())
    assert values["prometheusRule"]["runbookUrl"] == url
    setting = yaml.safe_load((tmp_path / "x/deploy/kubernetes/overlays/production/runbook.yaml").read_text())
    assert setting["data"]["url"] == url
    assert not (tmp_path / "x/tokentrace.yml").exists()
    assert run("assets", "export", "x", "--only", "nothing", folder=tmp_path).returncode == 2


def test_schema_prints_an_avro_schema() -> None:
    assert run("schema", "span").stdout == (ROOT / "schemas" / "span.avsc").read_text()
    assert json.loads(run("schema", "show").stdout) == json.loads(run("schema", "span").stdout)
    names = [path.stem for path in (ROOT / "schemas").glob("*.avsc")]
    listed = run("schema", "--help").stdout
    for name in names:
        assert f"  {name} " in listed
        assert run("schema", name).stdout == (ROOT / "schemas" / f"{name}.avsc").read_text()
    done = run("schema", "spam")
    assert (done.returncode, "No such command 'spam'" in done.stderr) == (2, True)


def test_the_wheel_brings_every_asset() -> None:
    """The installed wheel is tried in tests/deploy/test_image.py."""
    included = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert included["force-include"] == {
        "schemas": "tokentrace/_schemas", **{path: f"tokentrace/_assets/{path}" for path in SHIPPED},
    }  # fmt: skip


@pytest.mark.parametrize("path", SHIPPED)
def test_a_shipped_path_exists(path: str) -> None:
    assert (ROOT / path).exists()
