"""`tokentrace config check --connect`: what the configuration names, tried on real services, and nothing changed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from tests.integration.test_rights import Place, Right, guarded
from tests.services import free_port
from tests.services.kafka import KafkaBroker
from tests.services.registry import SchemaRegistry
from tests.services.webhook import Webhook

__all__ = ["guarded"]


def check(folder: Path, text: str) -> tuple[int, list[str], str]:
    """Return the exit code, the lines of stdout and stderr."""
    path = folder / "mine.yml"
    path.write_text(text)
    command = [sys.executable, "-m", "tokentrace", "config", "check", "--connect", "--config", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_config_check_connects_to_everything_and_changes_nothing(
    kafka: KafkaBroker, registry: SchemaRegistry, topic: str, tmp_path: Path
) -> None:
    hook = Webhook()
    before = set(kafka.admin().list_topics(timeout=10).topics)
    code, lines, error = check(
        tmp_path,
        f"kafka: {{bootstrap_servers: '{kafka.bootstrap}', topic: {topic}, group_id: check-{topic}}}\n"
        f"schema_registry: {{url: '{registry.url}'}}\n"
        f"alerts: [{{name: a, kind: quality_drop, delivery: {{type: http, url: '{hook.url}'}}}}]\n",
    )
    assert (code, error) == (0, "")
    assert lines[:2] == [
        "ok       kafka.bootstrap_servers: 1 broker answers (line 1)",
        f"ok       kafka.topic: {topic} has 4 partitions (line 1)",
    ]
    assert any(line.startswith("ok       schema_registry.url: the registry at http://127") for line in lines)
    names = ", ".join(f"check-{topic}.{name}" for name in ("state", "rollups", "alerts"))
    assert f"ok       kafka.group_id: a worker creates the topics {topic}.dead-letters, {names} (line 1)" in lines
    assert any("the webhook at" in line and line.startswith("ok ") for line in lines)
    assert lines[-1].startswith(f"{tmp_path / 'mine.yml'}: OK.")
    # Kafka makes its own topic when a client first asks for a group's coordinator.
    assert set(kafka.admin().list_topics(timeout=10).topics) - {"__consumer_offsets"} == before - {"__consumer_offsets"}
    assert hook.received == []


def test_config_check_names_what_does_not_answer_or_has_wrong_settings(
    kafka: KafkaBroker, topic: str, tmp_path: Path
) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    kafka.create_topic(f"g-{topic}.state", 12, **{"cleanup.policy": "delete"})
    kafka.create_topic(f"g-{topic}.rollups", 1, **{"retention.ms": str(24 * 3600 * 1000)})
    code, lines, error = check(
        tmp_path,
        f"kafka:\n  bootstrap_servers: '{kafka.bootstrap}'\n  topic: {topic}\n  group_id: g-{topic}\n"
        f"schema_registry: {{url: '{nowhere}'}}\n"
        f"alerts: [{{name: a, kind: quality_drop, window: 2d, delivery: {{type: http, url: '{nowhere}/secret'}}}}]\n",
    )
    assert code == 1
    problems = [line.removeprefix("problem  ") for line in lines if line.startswith("problem  ")]
    assert [problem.split(": ")[0] for problem in problems] == [
        "kafka.group_id", "alerts[0].window", "schema_registry.url", "alerts[0].delivery.url",
    ]  # fmt: skip
    assert "--add-config cleanup.policy=compact" in problems[0]
    assert "retention.ms=" in problems[1]
    assert problems[1].endswith("(line 6)")
    assert "secret" not in "".join(lines)
    assert error == "tokentrace: 4 of the things that the configuration names cannot be used.\n"


def test_config_check_names_a_missing_topic_and_silent_brokers(kafka: KafkaBroker, topic: str, tmp_path: Path) -> None:
    missing = f"{topic}-missing"
    code, lines, _ = check(tmp_path, f"kafka:\n  bootstrap_servers: '{kafka.bootstrap}'\n  topic: {missing}\n")
    assert code == 1
    assert lines[1:] == [
        f"problem  kafka.topic: topic '{missing}' does not exist; create it or correct the name (line 3)"
    ]
    assert missing not in kafka.admin().list_topics(timeout=10).topics
    code, lines, _ = check(tmp_path, f"kafka: {{bootstrap_servers: '127.0.0.1:{free_port()}'}}")
    assert code == 1
    assert lines[0].startswith("problem  kafka.bootstrap_servers: No Kafka broker answers at 127.0.0.1:")
    assert "Connection refused" in lines[0]


def test_config_check_names_missing_rights_and_rejected_credentials(guarded: KafkaBroker, tmp_path: Path) -> None:
    place = Place(guarded, "connect", [Right("topic", "llm-spans", "Describe")])
    text = yaml.safe_dump(place.sections())
    code, lines, _ = check(tmp_path, text)
    assert code == 1
    problems = "\n".join(line for line in lines if line.startswith("problem"))
    assert "Read on connect-spans" in problems
    assert "Read on group connect is missing in the ACLs" in problems
    # Without rights to the cluster, nobody says whether topics may be created.
    assert any("where the ACLs allow Create" in line for line in lines)
    code, lines, _ = check(tmp_path, text.replace("alice-secret", "not-it"))
    assert code == 1
    assert lines[0].startswith("problem  kafka.bootstrap_servers: ")
    assert "uthentication" in lines[0]
    assert "not-it" not in lines[0]
