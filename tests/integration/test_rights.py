"""A Kafka that asks for rights: the table in docs/deploy.md is what a worker needs, no more and no less."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

from tests.conftest import unavailable
from tests.integration.test_state import tokentrace
from tests.services import Unavailable
from tests.services.kafka import KafkaBroker
from tests.services.workers import WorkerProcess, wait_for, write_config
from tests.spanfactory import message, span

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy.md"


_numbers = itertools.count()
_Acl = TypeVar("_Acl", AclBinding, AclBindingFilter)


class Right(NamedTuple):
    resource: str
    name: str
    operation: str


def documented() -> list[Right]:
    """Every right that the table gives."""
    rows = re.findall(r"^\| (topic|group|transactional id) \| `(.+?)` \| (.+?) \|", DEPLOY.read_text(), re.MULTILINE)
    return [Right(resource, name, operation) for resource, name, given in rows for operation in given.split(", ")]


@pytest.fixture(scope="module")
def guarded(real_service: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    try:
        broker = KafkaBroker(tmp_path_factory.mktemp("guarded"), ask_for_rights=True)
    except Unavailable as error:
        unavailable(str(error))
    broker.start()
    yield broker
    broker.stop()


class Place:
    """Topics, a group and a replica of their own, with alice's rights to them."""

    def __init__(self, broker: KafkaBroker, name: str, rights: list[Right]) -> None:
        self.broker, self.topic, self.group = broker, f"{name}-spans", name
        broker.create_topic(self.topic, 4)
        if rights:
            self.grant(rights)

    def grant(self, rights: list[Right]) -> None:
        admin = self.broker.admin()
        for future in admin.create_acls(self._acls(rights, AclBinding)).values():
            future.result()

    def revoke(self, rights: list[Right]) -> None:
        admin = self.broker.admin()
        for future in admin.delete_acls(self._acls(rights, AclBindingFilter)).values():
            assert len(future.result()) == 1

    def _acls(self, rights: list[Right], kind: type[_Acl]) -> list[_Acl]:
        return [
            kind(
                ResourceType[right.resource.replace(" ", "_").upper()],
                right.name.replace("llm-spans", self.topic).replace("tokentrace", self.group),
                ResourcePatternType.LITERAL,
                "User:alice",
                "*",
                AclOperation[re.sub(r"(?<=[a-z])(?=[A-Z])", "_", right.operation).upper()],
                AclPermissionType.ALLOW,
            )
            for right in rights
        ]

    def sections(self, folder: Path | None = None) -> dict[str, Any]:
        """Configuration of a worker. folder: where it keeps the ledger, None without one."""
        return {
            "kafka": {
                "bootstrap_servers": self.broker.sasl_bootstrap,
                "topic": self.topic,
                "group_id": self.group,
                "properties": {
                    "security.protocol": "sasl_plaintext",
                    "sasl.mechanism": "PLAIN",
                    "sasl.username": "alice",
                    "sasl.password": "alice-secret",
                },
            },
            "worker": {"replica_id": f"{self.group}-0", "deduplicate": {"by": "span_id", "window": "10m"}},
            "alerts": [
                {
                    "name": "spend", "metric": "total_cost", "op": "gt", "threshold": 0, "window": "5m",
                    "delivery": {"type": "kafka"},
                }
            ],
            "budgets": [{"name": "month", "amount": 10, "delivery": {"type": "kafka"}}],
            "ledger": {} if folder is None else {"url": f"sqlite:///{folder}/ledger.db", "in_worker": True},
        }  # fmt: skip

    def publish(self, *values: bytes) -> None:
        producer = Producer({"bootstrap.servers": self.broker.bootstrap})
        for value in values:
            producer.produce(self.topic, value, partition=0)
        assert producer.flush(60) == 0


def test_with_the_documented_rights_a_worker_counts_alerts_and_goes_on_after_a_restart(
    guarded: KafkaBroker, tmp_path: Path
) -> None:
    place = Place(guarded, "whole", documented())
    place.publish(*(message(span(span_id=f"{index:016x}")) for index in range(50)), b"junk")
    config = write_config(tmp_path / "whole.yml", place.sections(tmp_path), "")
    worker = WorkerProcess(config, tmp_path / "whole.log")
    try:
        assert wait_for(lambda: counted(worker) == 50), worker.log()
        worker.wait_for_log("This replica evaluates the alerts")
        assert worker.terminate() == 0
        place.publish(*(message(span(span_id=f"{index:016x}")) for index in range(40, 60)))
        worker.restart()
        assert wait_for(lambda: counted(worker) == 60), worker.log()
        assert json.loads(tokentrace(config, "state", "show", "--json"))["totals"]["spans"] == 60
        assert [alert["name"] for alert in json.loads(tokentrace(config, "alerts", "list", "--json"))["alerts"]] == [
            "spend"
        ]
        place.grant(
            [
                Right("topic", "llm-spans.dead-letters", "Read"),
                Right("group", "tokentrace.dlq-replay", "Read"),
                Right("topic", "llm-spans", "Write"),
                Right("transactional id", "tokentrace.dlq-replay", "Write"),
            ]
        )
        assert "1 dead letters" in tokentrace(config, "dlq", "list")
        assert f"Sent 1 messages back to {place.topic}." in tokentrace(config, "dlq", "replay")
        assert worker.terminate() == 0
        assert complaints(worker) == [], worker.log()
    finally:
        worker.end()


def test_top_shows_what_the_rights_allow_and_says_what_not(guarded: KafkaBroker, tmp_path: Path) -> None:
    place = Place(guarded, "top", documented())
    place.publish(*(message(span(span_id=f"{index:016x}")) for index in range(50)), b"junk")
    config = write_config(tmp_path / "top.yml", place.sections(), "")
    worker = WorkerProcess(config, tmp_path / "top.log")
    command = ("top", "--kafka", "--once", "--json")
    try:
        assert wait_for(lambda: counted(worker) == 50), worker.log()
        assert worker.terminate() == 0
        whole = json.loads(tokentrace(config, *command))
        assert (whole["total"]["spans"], whole["rejected"], set(whole["absent"])) == (50, 1, {"lag_seconds"})
        place.revoke([Right("topic", "tokentrace.rollups", "Read")])
        without_rates = json.loads(tokentrace(config, *command))
        assert without_rates["total"] == whole["total"] | dict.fromkeys(("spans_per_s", "usd_per_hour", "tokens_per_s"))
        assert "Topic authorization failed" in without_rates["absent"]["rates"]
        place.grant([Right("topic", "tokentrace.rollups", "Read")])
        place.revoke([Right("topic", "tokentrace.state", "Read")])
        of_window = json.loads(tokentrace(config, *command, "--window", "1h"))
        assert of_window["total"]["spans"] == 50
        assert (of_window["rejected"], of_window["lag_records"]) == (None, 0)
        assert set(of_window["absent"]) == {"all_time", "rejected", "lag_seconds"}
        table = tokentrace(config, *command[:-1])
        assert "records behind · - rejected · " in table
        assert "not shown: all-time totals, rejected messages (" in " ".join(table.split())
        place.revoke([Right("topic", "tokentrace.rollups", "Read")])
        refused = tokentrace(config, *command, code=1)
        assert re.search("top.state.*cannot be.*top.rollups.*cannot be", refused), refused
    finally:
        worker.end()


def complaints(worker: WorkerProcess) -> list[str]:
    """Return what it logged that is more than information, except for late brokers on a busy machine, and for junk."""
    late = ("tokentrace.kafka.waiting", "tokentrace.kafka.topic_wait", "tokentrace.kafka.broker_watch")
    others = (*late, "tokentrace.aggregate.feedback")
    records = [json.loads(line) for line in worker.log().splitlines()]
    return [
        record["message"] for record in records
        if record["level"] != "info" and record["logger"] not in others
        and not record["message"].startswith("Kafka does not finish")
    ]  # fmt: skip


@pytest.mark.parametrize("topic", ["tokentrace.state", "llm-spans.dead-letters"])
def test_a_right_that_is_taken_away_ends_the_worker_and_loses_nothing(
    guarded: KafkaBroker, tmp_path: Path, topic: str
) -> None:
    place = Place(guarded, f"place{next(_numbers)}", documented())
    worker = WorkerProcess(write_config(tmp_path / "w.yml", place.sections(tmp_path), ""), tmp_path / "w.log")
    try:
        place.publish(*(message(span(span_id=f"{index:016x}")) for index in range(50)), b"junk")
        assert wait_for(lambda: counted(worker) == 50), worker.log()
        place.revoke([Right("topic", topic, "Write")])
        place.publish(*(message(span(span_id=f"{index:016x}")) for index in range(50, 60)), b"junk")
        assert worker.process.wait(180.0) == 1
        assert "Traceback" not in worker.log()
        last = worker.log().splitlines()[-1]
        assert last.startswith("tokentrace: Kafka does not let this worker commit")
        assert f"{place.group}.state" in last
        place.grant([Right("topic", topic, "Write")])
        worker.restart()
        assert wait_for(lambda: counted(worker) == 60), worker.log()
    finally:
        worker.end()


def counted(worker: WorkerProcess) -> int:
    if not worker.ready():
        return -1
    return int(sum(value for (name, _), value in worker.samples().items() if name == "tokentrace_spans_total"))


@pytest.mark.parametrize(
    "missing", [right for right in documented() if right.operation != "DescribeConfigs"], ids=" ".join
)
def test_a_right_that_is_missing_is_named(guarded: KafkaBroker, tmp_path: Path, missing: Right) -> None:
    place = Place(guarded, f"place{next(_numbers)}", [right for right in documented() if right != missing])
    place.publish(message(span()), b"junk")
    worker = WorkerProcess(write_config(tmp_path / "w.yml", place.sections(tmp_path), ""), tmp_path / "w.log")
    wanted = missing.name.replace("llm-spans", place.topic).replace("tokentrace", place.group)
    try:
        assert wait_for(lambda: complaint(worker, wanted) != ""), worker.log()
        if missing.resource == "topic" or missing.name in ("tokentrace", "tokentrace.tokentrace-0"):
            assert worker.process.wait(180.0) in (1, 2)
        else:
            assert wait_for(lambda: counted(worker) == 1), "counting goes on without alerts"
        assert "Traceback" not in worker.log()
    finally:
        worker.end()


@pytest.mark.parametrize(
    "command", ["state show", "alerts list", "budgets list", "dlq list", "check-span --topic", "spans"]
)
def test_a_command_without_rights_names_its_topic_and_calls_it_neither_empty_nor_absent(
    guarded: KafkaBroker, tmp_path: Path, command: str
) -> None:
    place = Place(guarded, f"place{next(_numbers)}", [])
    config = write_config(tmp_path / "w.yml", place.sections(), "")
    done = subprocess.run(
        [sys.executable, "-m", "tokentrace", *command.split(), "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "may not be described with these credentials" in done.stderr
    assert place.group in done.stderr
    assert "does not exist" not in done.stdout + done.stderr


def complaint(worker: WorkerProcess, wanted: str) -> str:
    """Return the warning or error in the log that names this."""
    return next((line for line in worker.log().splitlines() if wanted in line and '"level": "info"' not in line), "")
