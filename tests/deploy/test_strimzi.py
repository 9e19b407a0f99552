"""Objects for Strimzi: the topics that the workers would create, and the rights that the documentation gives."""

from __future__ import annotations

from typing import Any

from tests.deploy.manifests import FOLDER, build
from tests.integration.test_rights import Right, documented
from tokentrace.config import Config
from tokentrace.kafka.topics import DEFAULT_MAX_MESSAGE_BYTES, Topics
from tokentrace.runtime.topic_setup import topic_specs

SPANS = "llm-spans"


class NewCluster(Topics):
    """A cluster with Kafka's defaults, and as many partitions for the spans as the manifest has."""

    def __init__(self, partitions: int) -> None:
        self._count = partitions

    def max_message_bytes(self, topic: str) -> int:
        return DEFAULT_MAX_MESSAGE_BYTES

    def _partitions(self, topic: str) -> int:
        return self._count


def objects(kind: str) -> dict[str, dict[str, Any]]:
    """Return name -> specification."""
    found = build(FOLDER / "strimzi")
    for document in found:
        assert document["apiVersion"] == "kafka.strimzi.io/v1"
        assert document["metadata"]["labels"]["strimzi.io/cluster"] == "kafka"
        assert document["metadata"]["namespace"] == "kafka"
    return {document["metadata"]["name"]: document["spec"] for document in found if document["kind"] == kind}


def test_topics_are_those_that_the_workers_create() -> None:
    topics = objects("KafkaTopic")
    config = Config.model_validate(
        {
            "worker": {"deduplicate": {"by": "span_id", "window": "10m"}},
            "alerts": [{"name": "a", "metric": "total_cost", "op": "gt", "threshold": 1, "window": "5m"}],
            "budgets": [{"name": "b", "amount": 1}],
        }
    )
    specs = topic_specs(config, NewCluster(topics[SPANS]["partitions"]))
    assert sorted(topics) == sorted([SPANS, *(spec.name for spec in specs)])
    for spec in specs:
        topic = topics[spec.name]
        assert topic["partitions"] == spec.partitions
        settings = {name: str(value) for name, value in topic["config"].items()}
        assert settings == {**spec.settings, "min.insync.replicas": "2"}
        assert topic["replicas"] == 3, "what a worker asks for where there are three brokers"


def test_user_has_the_documented_rights_and_no_more() -> None:
    (user,) = objects("KafkaUser").values()
    given = {
        Right(rule["resource"]["type"], rule["resource"]["name"], operation)
        for rule in user["authorization"]["acls"]
        for operation in rule["operations"]
    }
    replicas = "tokentrace.tokentrace-"
    assert {rule["resource"]["patternType"] for rule in user["authorization"]["acls"]} == {"literal", "prefix"}
    prefixed = [rule for rule in user["authorization"]["acls"] if rule["resource"]["patternType"] == "prefix"]
    assert [rule["resource"] for rule in prefixed] == [
        {"type": "transactionalId", "name": replicas, "patternType": "prefix"}
    ]
    # The ids of every replica begin so; the table has those of the first.
    wanted = {
        Right("transactionalId", replicas, right.operation)
        if right.resource == "transactional id" and right.name.startswith(f"{replicas}0")
        else right
        for right in documented()
    }
    assert given == wanted
