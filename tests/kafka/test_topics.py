"""tokentrace's own topics: what is created, what is rejected with which command, and what an answer of Kafka means."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError
from confluent_kafka.admin import AclOperation  # type: ignore[attr-defined]

from tests.kafka.fakes import Scripted, ScriptedClients, failure
from tokentrace.errors import ClientFailed, FatalError, UsageError
from tokentrace.kafka import topics as module
from tokentrace.kafka.topics import READ, WRITE, Topics, alerts_topic, rollups_topic, state_topic

UNKNOWN = KafkaError.UNKNOWN_TOPIC_OR_PART


class Cluster(Scripted):
    """An admin client of a cluster with these topics. answers: errors that requests are answered with first."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.brokers = 1
        self.topics: dict[str, dict[str, str]] = {}
        self.partition_counts: dict[str, list[int]] = {}
        self.allowed: set[AclOperation] | None = None
        self.answers: list[int] = []
        self.created: list[Any] = []

    def _answer(self, result: Callable[[], Any]) -> Future[Any]:
        answer: Future[Any] = Future()
        if self.answers:
            answer.set_exception(failure(self.answers.pop(0)))
        else:
            answer.set_result(result())
        return answer

    def list_topics(self, topic: str | None = None, **_: Any) -> Any:
        self._call("list_topics")
        found = {}
        for name in self.topics:
            counts = self.partition_counts.get(name, [1])
            found[name] = SimpleNamespace(partitions=range(counts.pop(0) if len(counts) > 1 else counts[0]))
        return SimpleNamespace(topics=found, brokers=range(self.brokers))

    def create_topics(self, topics: list[Any], **_: Any) -> Any:
        self.created += topics
        return {topic.topic: self._answer(lambda: None) for topic in topics}

    def describe_configs(self, resources: list[Any], **_: Any) -> Any:
        self._call("describe_configs")
        return {
            resource: self._answer(
                lambda name=resource.name: {
                    key: SimpleNamespace(value=value) for key, value in self.topics[name].items()
                }
            )
            for resource in resources
        }

    def describe_topics(self, asked: Any, **_: Any) -> Any:
        self._call("describe_topics")
        description = SimpleNamespace(authorized_operations=self.allowed)
        return {name: self._answer(lambda: description) for name in asked.topic_names}


@pytest.fixture
def parts() -> tuple[Topics, Cluster]:
    clients = ScriptedClients(admin=Cluster)
    topics = Topics(clients)
    return topics, clients.made[0]


Parts = tuple[Topics, Cluster]


@pytest.mark.parametrize(("brokers", "replicas", "in_sync"), [(1, 1, "1"), (2, 2, "1"), (5, 3, "2")])
def test_a_missing_topic_is_created_to_survive_the_loss_of_a_broker(
    parts: Parts, brokers: int, replicas: int, in_sync: str
) -> None:
    topics, cluster = parts
    cluster.brokers = brokers
    topics.ensure([state_topic("g.state")])
    [created] = cluster.created
    assert (created.topic, created.num_partitions, created.replication_factor) == ("g.state", 12, replicas)
    assert created.config["cleanup.policy"] == "compact"
    assert created.config["min.insync.replicas"] == in_sync


def test_a_topic_that_cannot_be_created_is_reported_with_the_command(parts: Parts) -> None:
    topics, cluster = parts
    cluster.answers = [KafkaError.POLICY_VIOLATION]
    with pytest.raises(FatalError, match=r"kafka-topics.sh --create --topic g.alerts --partitions 1 --config cleanup"):
        topics.ensure([alerts_topic("g.alerts")])


def test_a_topic_that_another_worker_creates_at_the_same_time_is_waited_for_and_checked(parts: Parts) -> None:
    topics, cluster = parts
    cluster.topics["g.state"] = {"cleanup.policy": "delete"}
    cluster.partition_counts["g.state"] = [0, 0, 12]
    cluster.answers = [KafkaError.TOPIC_ALREADY_EXISTS, UNKNOWN, UNKNOWN]
    cluster.list_topics = _first_without(cluster, "g.state")  # type: ignore[method-assign]
    with pytest.raises(FatalError, match=r"kafka-configs.sh .* --entity-name g.state --add-config cleanup.policy=comp"):
        topics.ensure([state_topic("g.state")])


def _first_without(cluster: Cluster, name: str) -> Callable[..., Any]:
    """Topics as they are listed before, then after another worker has created one."""
    listed = iter([SimpleNamespace(topics={}, brokers=range(1))])
    after = cluster.list_topics
    return lambda *arguments, **keywords: next(listed, None) or after(*arguments, **keywords)


@pytest.mark.parametrize(
    ("spec", "settings", "partitions", "message"),
    [
        (
            state_topic("t"),
            {"cleanup.policy": "delete"},
            12,
            "cleanup.policy=delete, which could lose data or stop commits; fix it",
        ),
        (
            rollups_topic("t", True),
            {"max.message.bytes": "500000"},
            1,
            "has max.message.bytes=500000, .* --add-config max.message.bytes=8388608$",
        ),
        (rollups_topic("t", True), {"cleanup.policy": "delete"}, 3, "has 3 partitions and must have 1; delete it with"),
    ],
    ids=["settings", "size", "partitions"],
)
def test_a_topic_that_would_lose_data_is_rejected(
    parts: Parts, spec: module.TopicSpec, settings: dict[str, str], partitions: int, message: str
) -> None:
    topics, cluster = parts
    cluster.topics["t"], cluster.partition_counts["t"] = settings, [partitions]
    with pytest.raises(FatalError, match=message):
        topics.ensure([spec])


def test_dead_letters_must_take_what_the_source_topic_takes(parts: Parts) -> None:
    topics, cluster = parts
    cluster.topics = {"spans": {"max.message.bytes": "5000000"}, "dead": {"max.message.bytes": "5000000"}}
    spec = topics.dead_letters("dead", "spans")
    assert spec.settings["max.message.bytes"] == "5065536"
    topics.ensure([spec])
    cluster.topics["dead"]["max.message.bytes"] = "4999999"
    with pytest.raises(FatalError, match=r"max.message.bytes=4999999, .* --add-config max.message.bytes=5065536"):
        topics.ensure([spec])


@pytest.mark.parametrize("code", [UNKNOWN, KafkaError.LEADER_NOT_AVAILABLE, KafkaError._TIMED_OUT])
def test_retention_of_a_topic_that_was_created_a_moment_ago_is_waited_for(parts: Parts, code: int) -> None:
    topics, cluster = parts
    cluster.topics["t"] = {"retention.ms": "60000"}
    cluster.answers = [code, code]
    assert topics.retention_s("t") == 60.0


@pytest.mark.parametrize("settings", [{"retention.ms": "-1"}, {}])
def test_retention_is_none_for_a_topic_that_keeps_its_records(parts: Parts, settings: dict[str, str]) -> None:
    topics, cluster = parts
    cluster.topics["t"] = settings
    assert topics.retention_s("t") is None


def test_rights_to_a_topic_that_was_created_a_moment_ago_are_waited_for(parts: Parts) -> None:
    topics, cluster = parts
    cluster.allowed = set(READ)
    cluster.answers = [UNKNOWN, UNKNOWN]
    with pytest.raises(FatalError, match=r"^Missing Kafka ACLs: Write on t\. Add them with kafka-acls.sh"):
        topics.check_rights({"t": READ + WRITE})


def test_waiting_for_a_topic_that_was_created_a_moment_ago_is_not_a_warning(
    parts: Parts, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics, cluster = parts
    monkeypatch.setattr("tokentrace.kafka.waiting.FIRST_LOG_S", 0.0)
    cluster.allowed = {*READ, *WRITE}
    caplog.set_level("INFO")
    topics.ensure([state_topic("new")])
    cluster.answers = [UNKNOWN]
    topics.check_rights({"new": READ})
    cluster.answers = [UNKNOWN]
    topics.check_rights({"old": READ})
    assert [
        (record.levelname, record.getMessage()[:21]) for record in caplog.records if "retrying" in record.message
    ] == [
        ("INFO", "Topic new is new, and"),
        ("WARNING", "Kafka does not answer"),
    ]


def test_all_missing_rights_are_reported_at_once(parts: Parts) -> None:
    topics, cluster = parts
    cluster.allowed = set()
    with pytest.raises(FatalError, match="Read on a, Read on b, Write on b"):
        topics.check_rights({"a": READ, "b": READ + WRITE})
    cluster.allowed = {*READ, *WRITE}
    topics.check_rights({"a": READ, "b": READ + WRITE})


def test_rights_that_the_broker_does_not_report_are_not_missing(parts: Parts) -> None:
    topics, cluster = parts
    cluster.allowed = None
    topics.check_rights({"t": READ})


@pytest.mark.parametrize("code", [KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED])
def test_only_missing_authorization_means_that_a_topic_may_not_be_described(parts: Parts, code: int) -> None:
    topics, cluster = parts
    cluster.topics["t"] = {"retention.ms": "60000"}
    cluster.allowed = set()
    cluster.answers = [code, code]
    assert topics.retention_s("t") is None
    topics.check_rights({"t": READ})
    assert cluster.answers == []


@pytest.mark.parametrize("code", [KafkaError.INVALID_REQUEST, KafkaError.UNSUPPORTED_VERSION])
def test_any_other_answer_is_an_error(parts: Parts, code: int) -> None:
    topics, cluster = parts
    cluster.answers = [code, code]
    with pytest.raises(FatalError, match="The settings of topic 't' cannot be read: scripted"):
        topics.retention_s("t")
    with pytest.raises(FatalError, match="The rights to topic 't' cannot be read: scripted"):
        topics.check_rights({"t": READ})


def test_a_topic_is_created_once_a_controller_is_elected(parts: Parts) -> None:
    topics, cluster = parts
    cluster.answers = [KafkaError.NOT_CONTROLLER, KafkaError._TIMED_OUT]
    topics.ensure([state_topic("new")])
    assert [topic.topic for topic in cluster.created] == ["new"] * 3


def test_a_topic_that_stays_unknown_is_an_error_in_time(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    topics, cluster = parts
    monkeypatch.setattr(module, "ELECTION_TIMEOUT_S", 0.0)
    cluster.answers = [UNKNOWN]
    with pytest.raises(ClientFailed, match="The settings of topic 't' cannot be read"):
        topics.retention_s("t")
    cluster.answers = [KafkaError.NOT_CONTROLLER]
    with pytest.raises(ClientFailed, match="Topic 'new' cannot be created"):
        topics.ensure([state_topic("new")])


def test_brokers_that_do_not_answer_are_named(parts: Parts) -> None:
    topics, cluster = parts
    cluster.errors["list_topics"] = [failure(KafkaError._TRANSPORT) for _ in range(1000)]
    with pytest.raises(UsageError, match=r"No Kafka broker answers at x:1 \(scripted\)"):
        topics.ensure([])
