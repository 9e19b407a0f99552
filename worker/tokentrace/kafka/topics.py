"""tokentrace's own topics: made with the right settings where they are missing, checked where they are not.

A topic with settings that would lose data is refused with the command that mends it; nothing is changed silently.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclOperation,
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from tokentrace.errors import FatalError

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_S: Final = 15.0

#: Room for the headers that a dead letter has more than the message that it carries.
DEAD_LETTER_MARGIN_BYTES: Final = 64 * 1024
DEFAULT_MAX_MESSAGE_BYTES: Final = 1048588

READ: Final = (AclOperation.READ,)
WRITE: Final = (AclOperation.WRITE,)

#: Replicas are spread over them by name.
STATE_PARTITIONS: Final = 12


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic that tokentrace owns. settings: those it is made with. required: those it is refused without.

    A required setting holds as text, or as a number where `at_least` names it. operations: what a worker does with it.
    """

    name: str
    partitions: int
    settings: Mapping[str, str]
    required: Mapping[str, str]
    at_least: frozenset[str] = frozenset()
    exactly_so_many_partitions: bool = False
    operations: Sequence[AclOperation] = READ + WRITE


def state_topic(name: str) -> TopicSpec:
    """Totals by replica and group, compacted: the last record of each key is kept for good."""
    settings = {
        "cleanup.policy": "compact",
        "min.cleanable.dirty.ratio": "0.1",
        "segment.bytes": str(64 << 20),
        "max.compaction.lag.ms": str(3600 * 1000),
        "max.message.bytes": str(8 << 20),
    }
    return TopicSpec(name, STATE_PARTITIONS, settings, {"cleanup.policy": "compact"})


def rollups_topic(name: str, evaluated: bool) -> TopicSpec:
    """Increments by commit. One partition: one replica of the group reads all of them, where alerts are evaluated."""
    settings = {
        "cleanup.policy": "delete",
        "retention.ms": str(7 * 24 * 3600 * 1000),
        "max.message.bytes": str(8 << 20),
    }
    operations = READ + WRITE if evaluated else WRITE
    return TopicSpec(
        name, 1, settings, {"cleanup.policy": "delete"}, exactly_so_many_partitions=True, operations=operations
    )


def ids_topic(name: str, partitions: int) -> TopicSpec:
    """What worker.deduplicate remembers, compacted: as many partitions as what it remembers spans of.

    A new owner of a partition reads what was written of it since the topic was compacted, so that is done often.
    """
    settings = {
        "cleanup.policy": "compact",
        "min.cleanable.dirty.ratio": "0.1",
        "segment.bytes": str(16 << 20),
        "max.compaction.lag.ms": str(600 * 1000),
        "delete.retention.ms": str(600 * 1000),
        "max.message.bytes": str(8 << 20),
    }
    return TopicSpec(name, partitions, settings, {"cleanup.policy": "compact"})


def alerts_topic(name: str) -> TopicSpec:
    """What fired, and the evaluator's memory; compacted. One partition: its records have an order."""
    settings = {
        "cleanup.policy": "compact",
        "min.cleanable.dirty.ratio": "0.1",
        "segment.bytes": str(64 << 20),
        "max.compaction.lag.ms": str(3600 * 1000),
        "max.message.bytes": str(8 << 20),
    }
    return TopicSpec(name, 1, settings, {"cleanup.policy": "compact"}, exactly_so_many_partitions=True)


class Topics:
    """Makes and checks topics through one admin client."""

    def __init__(self, client_config: Mapping[str, Any]) -> None:
        self._admin = AdminClient(dict(client_config), logger=logging.getLogger("librdkafka"))

    def dead_letters(self, name: str, source_topic: str) -> TopicSpec:
        """The dead-letter topic, which must take every message that the source topic takes."""
        limit = int(self._settings(source_topic).get("max.message.bytes", DEFAULT_MAX_MESSAGE_BYTES))
        size = {"max.message.bytes": str(limit + DEAD_LETTER_MARGIN_BYTES)}
        kept = {"cleanup.policy": "delete", "retention.ms": str(14 * 24 * 3600 * 1000)}
        required = {"max.message.bytes": str(limit)}
        return TopicSpec(name, 1, {**kept, **size}, required, frozenset(size), operations=WRITE)

    def ids(self, name: str, source_topic: str) -> TopicSpec:
        """The topic of `ids_topic` for this source topic."""
        return ids_topic(name, self._partitions(source_topic))

    def ensure(self, specs: Sequence[TopicSpec]) -> None:
        """Create what is missing and check what is there. Raises FatalError with the command that mends it."""
        cluster = self._admin.list_topics(timeout=REQUEST_TIMEOUT_S)
        for spec in specs:
            if spec.name in cluster.topics or not self._create(spec, len(cluster.brokers)):
                self._check(spec)

    def check_rights(self, needed: Mapping[str, Sequence[AclOperation]]) -> None:
        """Whether this client may do what it is going to do. needed: topic -> operations.

        A right that is only needed later, as that to read what was committed after a restart, is missed now. Raises
        FatalError with all that are missing. Brokers that do not tell are believed.
        """
        asked = TopicCollection(list(needed))
        answers = self._admin.describe_topics(
            asked, include_authorized_operations=True, request_timeout=REQUEST_TIMEOUT_S
        )
        missing = []
        for topic, answer in answers.items():
            try:
                allowed = answer.result().authorized_operations
            except KafkaException as failure:
                log.info("The rights to topic %s cannot be read: %s.", topic, failure.args[0].str())
                continue
            if allowed is not None:
                missing += [f"{each.name.capitalize()} on {topic}" for each in needed[topic] if each not in allowed]
        if missing:
            raise FatalError(
                f"Kafka does not let this worker do all that it has to; missing: {', '.join(missing)}. Grant it with "
                "kafka-acls.sh --add --allow-principal."
            )

    def retention_s(self, topic: str) -> float | None:
        """How long a topic keeps its records, None where that is for good or cannot be known."""
        retention_ms = int(self._settings(topic).get("retention.ms", -1))
        return None if retention_ms < 0 else retention_ms / 1000

    def _create(self, spec: TopicSpec, brokers: int) -> bool:
        """True when the topic was made; false when another worker was quicker."""
        # One broker may fail without losing or stopping anything, where there are enough of them.
        settings = {**spec.settings, "min.insync.replicas": "2" if brokers >= 3 else "1"}
        new = NewTopic(spec.name, spec.partitions, min(brokers, 3), config=settings)
        try:
            self._admin.create_topics([new], request_timeout=REQUEST_TIMEOUT_S)[spec.name].result()
        except KafkaException as failure:
            error = failure.args[0]
            if error.code() == KafkaError.TOPIC_ALREADY_EXISTS:
                return False
            given = " ".join(f"--config {key}={value}" for key, value in spec.settings.items())
            raise FatalError(
                f"Topic {spec.name!r} cannot be created ({error.str()}); create it with: kafka-topics.sh --create "
                f"--topic {spec.name} --partitions {spec.partitions} {given}"
            ) from failure
        log.info("Created topic %s.", spec.name)
        return True

    def _check(self, spec: TopicSpec) -> None:
        partitions = self._partitions(spec.name)
        if spec.exactly_so_many_partitions and partitions != spec.partitions:
            raise FatalError(
                f"Topic {spec.name!r} has {partitions} partitions and must have {spec.partitions}; delete it with: "
                f"kafka-topics.sh --delete --topic {spec.name}, and the next worker makes it anew."
            )
        actual = self._settings(spec.name)
        wrong = {
            key: wanted
            for key, wanted in spec.required.items()
            if key in actual and not _holds(actual[key], wanted, key in spec.at_least)
        }
        if wrong:
            found = ", ".join(f"{key}={actual[key]}" for key in wrong)
            mended = ",".join(f"{key}={spec.settings.get(key, wanted)}" for key, wanted in wrong.items())
            raise FatalError(
                f"Topic {spec.name!r} has {found}, which could lose data; mend it with: kafka-configs.sh --alter "
                f"--entity-type topics --entity-name {spec.name} --add-config {mended}"
            )

    def _partitions(self, topic: str) -> int:
        """How many it has; a topic that another worker has made just now shows none for a moment."""
        deadline_s = time.monotonic() + REQUEST_TIMEOUT_S
        while True:
            count = len(self._admin.list_topics(topic, timeout=REQUEST_TIMEOUT_S).topics[topic].partitions)
            if count or time.monotonic() > deadline_s:
                return count
            time.sleep(0.1)

    def _settings(self, topic: str) -> dict[str, str]:
        """The topic's effective settings; empty where this user may not see them."""
        resource = ConfigResource(ResourceType.TOPIC, topic)
        try:
            entries = self._admin.describe_configs([resource], request_timeout=REQUEST_TIMEOUT_S)[resource].result()
        except KafkaException as failure:
            log.info("The settings of topic %s cannot be read: %s.", topic, failure.args[0].str())
            return {}
        return {key: entry.value for key, entry in entries.items() if entry.value is not None}


def _holds(actual: str, wanted: str, at_least: bool) -> bool:
    return int(actual) >= int(wanted) if at_least else actual == wanted
