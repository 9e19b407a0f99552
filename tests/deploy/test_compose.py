"""compose.yaml and what Grafana is provisioned with: files that exist, names that agree, queries that are tested."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.expressions import of_queries, of_rules
from tests.services import ROOT
from tokentrace.config import load_config

FOLDER = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


def test_every_file_that_is_mounted_exists_and_every_service_that_is_waited_for() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", ()):
            assert (FOLDER / volume.split(":")[0]).exists(), (name, volume)
        for other in service.get("depends_on", ()):
            assert other in SERVICES
    build = SERVICES["worker-0"]["build"]
    assert (FOLDER / build["context"] / build["dockerfile"]).exists()


def test_prometheus_scrapes_each_worker_once() -> None:
    workers = {name for name in SERVICES if name.startswith("worker-")}
    assert {SERVICES[name]["hostname"] for name in workers} == workers
    config = yaml.safe_load((FOLDER / "compose" / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    targets = [target for static_config in job["static_configs"] for target in static_config["targets"]]
    assert sorted(targets) == sorted(f"{name}:9090" for name in workers)
    mounted = {volume.split(":")[1] for volume in SERVICES["prometheus"]["volumes"]}
    assert mounted == {"/etc/prometheus/prometheus.yml", *(f"/etc/prometheus/{name}" for name in config["rule_files"])}


def test_workers_and_traffic_have_a_configuration_that_names_this_kafka() -> None:
    config = load_config(FOLDER / "compose" / "tokentrace.yml")
    assert config.kafka.bootstrap_servers == "kafka:9092"
    (command,) = SERVICES["topic"]["command"]
    assert f"--topic {config.kafka.topic} " in command
    assert config.http_server.addr.port == 9090


def test_everything_is_reached_from_this_machine_and_from_no_other() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    hosts = [re.fullmatch(r"127\.0\.0\.1:\$\{(\w+):-(\d+)\}:\d+", port) for port in ports]
    assert None not in hosts
    names, numbers = zip(*(found.groups() for found in hosts if found), strict=True)
    assert len(set(names)) == len(set(numbers)) == 5
    # Kafka tells its clients an address at which they reach it: here that of the port.
    kafka = SERVICES["kafka"]
    assert f"HOST://{kafka['ports'][0].rpartition(':')[0]}" in kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    page = (ROOT / "docs" / "deploy.md").read_text()
    assert [name for name in names if f"`{name}`" not in page] == []
    assert f"127.0.0.1:{dict(zip(names, numbers, strict=True))['WORKER_1_PORT']}" in page


def test_workers_are_healthy_once_they_are_ready() -> None:
    for name in ("worker-0", "worker-1"):
        check = SERVICES[name]["healthcheck"]["test"]
        mounted = {volume.split(":")[1] for volume in SERVICES[name]["volumes"]}
        assert check == ["CMD", "tokentrace", "health", "--ready", "--config", *mounted]


def test_images_have_whole_names() -> None:
    """Podman does not guess the registry of a short one."""
    named = {service["image"] for service in SERVICES.values() if "build" not in service}
    assert all(image.startswith("docker.io/") and ":" in image for image in named)


def test_the_commands_of_the_services_are_commands_of_tokentrace() -> None:
    command = SERVICES["traffic"]["command"]
    help_ = subprocess.run(
        [sys.executable, "-m", "tokentrace", command[0], "--help"], capture_output=True, text=True, check=True
    ).stdout
    for option in command:
        assert not option.startswith("--") or option in help_


def test_grafanas_data_source_dashboard_and_alert_find_each_other() -> None:
    provisioning = FOLDER / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["isDefault"] is True  # the provisioned dashboard takes the default one
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "tokentrace.yml").read_text())["providers"]
    mounted = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    assert mounted["./grafana/dashboards"] == provider["options"]["path"]
    assert mounted["./grafana/provisioning"] == "/etc/grafana/provisioning"
    (group,) = yaml.safe_load((provisioning / "alerting" / "tokentrace.yml").read_text())["groups"]
    (rule,) = group["rules"]
    query, threshold = rule["data"]
    assert (query["datasourceUid"], threshold["datasourceUid"]) == (source["uid"], "__expr__")
    assert rule["condition"] == threshold["refId"]
    assert threshold["model"]["expression"] == query["refId"]
    assert threshold["model"]["conditions"] == [{"evaluator": {"type": "gt", "params": [3000]}}]
    assert (query["relativeTimeRange"]["from"], rule["for"]) == (600, "5m")
    # The same quantile is a recording rule, whose numbers are compared with a recount.
    assert query["model"]["expr"] in {expression.text for expression in (*of_rules(), *of_queries())}


def test_no_file_that_a_user_deploys_names_a_path_or_a_host_of_the_authors() -> None:
    for path in sorted([*FOLDER.rglob("*"), *(ROOT / "dashboards").glob("*.json")]):
        if path.is_file() and "__pycache__" not in path.parts:
            assert not re.search(r"/(work|tmp/h|root|home)/", path.read_text()), path


def test_readme_points_to_files_that_are_there() -> None:
    for name in re.findall(r"`(deploy/[\w./-]+|dashboards/[\w./-]+)`", (ROOT / "README.md").read_text()):
        assert (ROOT / Path(name)).exists(), name
