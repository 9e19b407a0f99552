"""The script that grants rights: its roles are the documented rights, and each runs with its own and nothing more."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from tests.integration.test_rights import Place, Right, complaints, counted, documented, guarded
from tests.services import ROOT
from tests.services.kafka import KafkaBroker
from tests.services.workers import WorkerProcess, wait_for, write_config
from tests.spanfactory import message, span

__all__ = ["guarded"]

SCRIPT = ROOT / "deploy" / "kafka" / "rights.sh"
WORKER = ("worker", "deduplicate", "alerts", "budgets", "ledger")
_KINDS = {"--topic": "topic", "--group": "group", "--transactional-id": "transactional id"}

#: Stands in for kafka-acls.sh, which comes with Kafka's archive: prints its arguments, one to a line of JSON.
_STAND_IN = f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n"


def granted(folder: Path, *roles: str, **environment: str) -> dict[Right, str]:
    """Return what the script grants -> the pattern of its name."""
    program = folder / "acls"
    program.write_text(_STAND_IN)
    program.chmod(0o755)
    done = subprocess.run(
        ["sh", str(SCRIPT), "User:alice", *roles, "--", "--bootstrap-server", "kafka:9093", "--command-config", "a b"],
        env={"PATH": os.environ["PATH"], "KAFKA_ACLS": str(program), **environment},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[Right, str] = {}
    for line in done.stdout.splitlines():
        words = json.loads(line)
        assert words[:4] == ["--bootstrap-server", "kafka:9093", "--command-config", "a b"]
        given = list(itertools.pairwise(words[4:]))
        assert {"--add", "--force"} <= set(words)
        assert dict(given)["--allow-principal"] == "User:alice"
        (kind,) = (_KINDS[word] for word in words if word in _KINDS)
        (name,) = (value for word, value in given if word in _KINDS)
        for word, operation in given:
            if word == "--operation":
                found[Right(kind, name, operation)] = dict(given)["--resource-pattern-type"]
    return found


def test_the_roles_of_a_worker_are_the_documented_rights(tmp_path: Path) -> None:
    replicas = {"tokentrace.tokentrace-0", "tokentrace.tokentrace-0.alerts"}
    found = granted(tmp_path, *WORKER)
    prefixed = {right for right, pattern in found.items() if pattern == "prefixed"}
    assert prefixed == {Right("transactional id", "tokentrace.tokentrace-", "Write")}
    table = set(documented())
    assert set(found) - prefixed == {right for right in table if right.name not in replicas}
    assert {right.operation for right in table if right.name in replicas} == {"Write"}


def test_names_come_from_the_environment(tmp_path: Path) -> None:
    names = {"TOPIC": "calls", "DEAD_LETTERS": "odd", "GROUP": "team", "REPLICAS": "pod-"}
    found = {right.name for right in granted(tmp_path, *WORKER, "dlq", "dlq-replay", "state", **names)}
    assert found == {
        "calls", "odd", "team", "team.alerts", "team.budgets", "team.dlq-replay", "team.ids", "team.ledger",
        "team.pod-", "team.rollups", "team.state",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "usage:"),
        (["User:a"], "usage:"),
        (["User:a", "--"], "usage:"),
        (["a", "worker"], "the principal is User:NAME"),
        (["User:a", "wroker"], "there is no role wroker"),
    ],
)
def test_wrong_use_is_refused_before_anything_is_granted(words: list[str], said: str) -> None:
    done = subprocess.run(["sh", str(SCRIPT), *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, said in done.stderr) == (2, "", True)


def test_a_failing_grant_ends_the_script(tmp_path: Path) -> None:
    words = ["sh", str(SCRIPT), "User:alice", "worker"]
    done = subprocess.run(words, env={**os.environ, "KAFKA_ACLS": "false"}, check=False)
    assert done.returncode == 1


class Rights:
    """Rights of alice to the names of a place."""

    def __init__(self, place: Place, folder: Path) -> None:
        self._place, self._folder = place, folder
        self._admin: AdminClient = place.broker.admin()

    def of(self, *roles: str) -> dict[Right, str]:
        """Return what the script grants for these roles of the place."""
        place = self._place
        return granted(self._folder, *roles, TOPIC=place.topic, GROUP=place.group, REPLICAS=f"{place.group}-")

    def set(self, rights: dict[Right, str]) -> None:
        """Let alice have these rights alone."""
        everything = AclBindingFilter(
            ResourceType.ANY, None, ResourcePatternType.ANY, "User:alice", None, AclOperation.ANY, AclPermissionType.ANY
        )
        for future in self._admin.delete_acls([everything]).values():
            future.result()
        bindings = [
            AclBinding(
                ResourceType[right.resource.replace(" ", "_").upper()],
                right.name,
                ResourcePatternType[pattern.upper()],
                "User:alice",
                "*",
                AclOperation[right.operation.replace("Configs", "_Configs").upper()],
                AclPermissionType.ALLOW,
            )
            for right, pattern in rights.items()
        ]
        for future in (self._admin.create_acls(bindings) if bindings else {}).values():
            future.result()


#: Role -> its commands, and words of their answers: a topic that may not be seen is as one that is not there.
COMMANDS = {
    "state": ((("state", "show"), "gpt-4o"), (("alerts", "list"), "spend"), (("budgets", "list", "--all"), "month")),
    "dlq": ((("dlq", "list"), "1 dead letters"),),
    "dlq-replay": ((("dlq", "replay"), "Sent 1 messages"),),
}


def answers(config: Path, words: tuple[str, ...], expected: str) -> bool:
    """Return whether a command ends with 0 and gives this answer. It never shows a traceback."""
    command = [sys.executable, "-m", "tokentrace", *words, "--config", str(config)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=90)
    assert "Traceback" not in done.stderr
    return done.returncode == 0 and expected in done.stdout


def test_each_role_runs_with_its_rights(guarded: KafkaBroker, tmp_path: Path) -> None:
    place = Place(guarded, "roles", documented())
    rights = Rights(place, tmp_path)
    rights.set(rights.of(*WORKER))
    place.publish(*(message(span(span_id=f"{index:016x}")) for index in range(50)), b"junk")
    config = write_config(tmp_path / "roles.yml", place.sections(tmp_path), "")
    worker = WorkerProcess(config, tmp_path / "roles.log")
    try:
        assert wait_for(lambda: counted(worker) == 50), worker.log()
        worker.wait_for_log("This replica evaluates the alerts")
        assert worker.terminate() == 0
        assert complaints(worker) == [], worker.log()
    finally:
        worker.end()
    for role, commands in COMMANDS.items():
        rights.set({})
        for words, expected in commands:
            assert not answers(config, words, expected), f"{words} needs rights"
        rights.set(rights.of(role))
        for words, expected in commands:
            assert wait_for(lambda asked=(words, expected): answers(config, *asked)), words


@pytest.mark.nightly
@pytest.mark.parametrize("role", COMMANDS)
def test_a_role_has_no_right_that_none_of_its_commands_needs(guarded: KafkaBroker, tmp_path: Path, role: str) -> None:
    place = Place(guarded, f"least-{role}", documented())
    place.publish(message(span()), b"junk")
    config = write_config(tmp_path / "least.yml", place.sections(tmp_path), "")
    worker = WorkerProcess(config, tmp_path / "least.log")
    try:
        assert wait_for(lambda: counted(worker) == 1), worker.log()
        assert worker.terminate() == 0
    finally:
        worker.end()
    rights = Rights(place, tmp_path)
    whole = rights.of(role)
    # Only for a dead letter that is a reference to its message, of which this place has none.
    references = Right("topic", place.topic, "Read")
    for missing in (right for right in whole if right != references):
        rights.set({right: pattern for right, pattern in whole.items() if right != missing})
        assert not all(answers(config, *command) for command in COMMANDS[role]), f"nothing needs {missing}"
