"""tokentrace's own topics: created with the right settings if they are missing, checked if they are there.

A topic with settings that would lose data is rejected with the command that fixes it; nothing is changed silently.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclOperation,
    ConfigResource,
    NewTopic,
    ResourceType,
    TopicDescription,
)

from tokentrace.errors import FatalError
from tokentrace.kafka.clients import BATCH_BYTES, KafkaClients
from tokentrace.kafka.errors import UNAUTHORIZED, error_of
from tokentrace.kafka.reader import failed, list_topics, partition_count, result_of, retry_transient

_T = TypeVar("_T")

log = logging.getLogger(__name__)

#: Longest time for which brokers may elect a controller or leaders, or not know a topic that was created a moment ago.
ELECTION_TIMEOUT_S: Final = 60.0

#: Room for the headers that a dead letter adds to its message.
DEAD_LETTER_MARGIN_BYTES: Final = 64 * 1024
DEFAULT_MAX_MESSAGE_BYTES: Final = 1048588

READ: Final = (AclOperation.READ,)
WRITE: Final = (AclOperation.WRITE,)

#: A topic that takes less than a batch could refuse every commit.
_TAKES_BATCHES: Final = {"max.message.bytes": str(BATCH_BYTES)}
_AT_LEAST: Final = frozenset(_TAKES_BATCHES)

#: Shortest retention of a rollups topic that tokentrace creates, seconds.
ROLLUPS_RETENTION_S: Final = 7 * 86_400.0

#: Replicas are spread over the partitions by name.
STATE_PARTITIONS: Final = 12


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic that tokentrace owns.

    settings: the settings it is created with. required: the settings without which it is rejected, compared as text, or
    as a lower bound if `at_least` names them. operations: what a worker does with the topic.
    """

    name: str
    partitions: int
    settings: Mapping[str, str]
    required: Mapping[str, str]
    at_least: frozenset[str] = frozenset()
    fixed_partitions: bool = False
    operations: Sequence[AclOperation] = READ + WRITE


def state_topic(name: str) -> TopicSpec:
    """Totals by replica and group, compacted: the last record of each key is kept forever."""
    settings = {
        "cleanup.policy": "compact",
        "min.cleanable.dirty.ratio": "0.1",
        "segment.bytes": str(64 << 20),
        "max.compaction.lag.ms": str(3600 * 1000),
        "max.message.bytes": str(8 << 20),
    }
    return TopicSpec(name, STATE_PARTITIONS, settings, {"cleanup.policy": "compact", **_TAKES_BATCHES}, _AT_LEAST)


def rollups_topic(name: str, evaluated: bool, retention_s: float = ROLLUPS_RETENTION_S) -> TopicSpec:
    """Increments by commit. One partition, so that one replica reads all of them and evaluates the alerts.

    retention_s: how long a topic that is created keeps its records.
    """
    settings = {
        "cleanup.policy": "delete",
        "retention.ms": str(round(retention_s * 1000)),
        "max.message.bytes": str(8 << 20),
    }
    operations = READ + WRITE if evaluated else WRITE
    required = {"cleanup.policy": "delete", **_TAKES_BATCHES}
    return TopicSpec(name, 1, settings, required, _AT_LEAST, fixed_partitions=True, operations=operations)


def ids_topic(name: str, partitions: int) -> TopicSpec:
    """The state of worker.deduplicate, compacted: as many partitions as the source topic has.

    A new owner of a partition reads everything since the last compaction, so the topic is compacted often.
    """
    settings = {**_compacted(16, 600), "delete.retention.ms": str(600 * 1000)}
    return TopicSpec(name, partitions, settings, {"cleanup.policy": "compact", **_TAKES_BATCHES}, _AT_LEAST)


def alerts_topic(name: str) -> TopicSpec:
    """Alerts and the evaluator's state, compacted. One partition, so that the records have an order."""
    required = {"cleanup.policy": "compact", **_TAKES_BATCHES}
    return TopicSpec(name, 1, _compacted(64, 3600), required, _AT_LEAST, fixed_partitions=True)


def budgets_topic(name: str) -> TopicSpec:
    """Sums and verdicts of the budgets, compacted. One partition, so that a reader has all of a commit or nothing.

    Gateways read it from its beginning, so it is compacted often.
    """
    required = {"cleanup.policy": "compact", **_TAKES_BATCHES}
    return TopicSpec(name, 1, _compacted(16, 600), required, _AT_LEAST, fixed_partitions=True)


def _compacted(segment_mib: int, lag_s: int) -> dict[str, str]:
    """Return the settings of a compacted topic. lag_s: longest time until its records are compacted."""
    return {
        "cleanup.policy": "compact",
        "min.cleanable.dirty.ratio": "0.1",
        "segment.bytes": str(segment_mib << 20),
        "max.compaction.lag.ms": str(lag_s * 1000),
        "max.message.bytes": str(8 << 20),
    }


class Topics:
    """Creates and checks topics.

    Every method raises FatalError if Kafka answers with an error, ClientFailed if that passes with an outage,
    Unreachable if no broker answers, StopRequested.
    """

    def __init__(self, clients: KafkaClients) -> None:
        self._clients = clients
        self._admin = clients.admin()
        #: By this object.
        self._created: set[str] = set()

    def dead_letters(self, name: str, source_topic: str) -> TopicSpec:
        """Return the dead-letter topic, which must take every message that the source topic takes."""
        limit = self.max_message_bytes(source_topic)
        size = {"max.message.bytes": str(limit + DEAD_LETTER_MARGIN_BYTES)}
        retention = {"cleanup.policy": "delete", "retention.ms": str(14 * 24 * 3600 * 1000)}
        required = {"max.message.bytes": str(limit)}
        return TopicSpec(name, 1, {**retention, **size}, required, frozenset(size), operations=WRITE)

    def ids(self, name: str, source_topic: str) -> TopicSpec:
        """Return the topic of `ids_topic` for this source topic."""
        return ids_topic(name, self._partitions(source_topic))

    def ensure(self, specs: Sequence[TopicSpec]) -> None:
        """Create the topics that are missing and check the others.

        Raises FatalError with the command that creates or fixes a topic.
        """
        cluster = list_topics(self._clients, self._admin)
        for spec in specs:
            if spec.name in cluster.topics or not self._create(spec, len(cluster.brokers)):
                self._check(spec)

    def look(self, specs: Sequence[TopicSpec]) -> tuple[list[str], dict[str, str]]:
        """Return (the topics that are missing, topic -> what is wrong with its settings). Creates nothing."""
        cluster = list_topics(self._clients, self._admin)
        wrong: dict[str, str] = {}
        for spec in specs:
            if spec.name in cluster.topics:
                try:
                    self._check(spec)
                except FatalError as error:
                    wrong[spec.name] = str(error)
        return [spec.name for spec in specs if spec.name not in cluster.topics], wrong

    def check_rights(self, needed: Mapping[str, Sequence[AclOperation]]) -> None:
        """Check the ACLs of this client at the start, those included that it needs only after a restart.

        needed: topic -> operations. Raises FatalError with all that are missing. A topic is skipped if the broker does
        not report authorized operations, or does not allow this client to describe it.
        """
        missing = []
        for topic, operations in needed.items():
            description = self._ask(topic, "rights to", partial(self._describe, topic))
            allowed = None if description is None else description.authorized_operations
            if allowed is not None:
                missing += [f"{wanted.name.capitalize()} on {topic}" for wanted in operations if wanted not in allowed]
        if missing:
            raise FatalError(f"Missing Kafka ACLs: {', '.join(missing)}. Add them with kafka-acls.sh --add.")

    def max_message_bytes(self, topic: str) -> int:
        """Return the largest batch that a topic takes; Kafka's default if this client may not describe the topic."""
        return int(self._settings(topic).get("max.message.bytes", DEFAULT_MAX_MESSAGE_BYTES))

    def retention_s(self, topic: str) -> float | None:
        """Return how long a topic keeps its records, in seconds; None for forever, or if it may not be described."""
        retention_ms = int(self._settings(topic).get("retention.ms", -1))
        return None if retention_ms < 0 else retention_ms / 1000

    def _create(self, spec: TopicSpec, brokers: int) -> bool:
        """Return True if the topic was created, False if another worker has created it."""
        # With three brokers or more, one may fail without losing or stopping anything.
        settings = {**spec.settings, "min.insync.replicas": "2" if brokers >= 3 else "1"}
        topic = NewTopic(spec.name, spec.partitions, min(brokers, 3), config=settings)

        def request(timeout_s: float) -> None:
            result_of(self._admin.create_topics([topic], request_timeout=timeout_s)[spec.name], self._clients.stop)

        try:
            retry_transient(request, ELECTION_TIMEOUT_S, self._clients.stop)
        except KafkaException as failure:
            error = error_of(failure)
            if error.code() == KafkaError.TOPIC_ALREADY_EXISTS:
                return False
            options = " ".join(f"--config {key}={value}" for key, value in spec.settings.items())
            raise failed(
                error,
                f"Topic {spec.name!r} cannot be created ({error.str()}); create it with: kafka-topics.sh --create "
                f"--topic {spec.name} --partitions {spec.partitions} {options}",
            ) from failure
        self._created.add(spec.name)
        log.info("Created topic %s.", spec.name)
        return True

    def _check(self, spec: TopicSpec) -> None:
        partitions = self._partitions(spec.name)
        if spec.fixed_partitions and partitions != spec.partitions:
            raise FatalError(
                f"Topic {spec.name!r} has {partitions} partitions and must have {spec.partitions}; delete it with: "
                f"kafka-topics.sh --delete --topic {spec.name}, and the next worker to start recreates it."
            )
        actual = self._settings(spec.name)
        wrong = {
            key: wanted
            for key, wanted in spec.required.items()
            if key in actual and not _holds(actual[key], wanted, key in spec.at_least)
        }
        if wrong:
            found = ", ".join(f"{key}={actual[key]}" for key in wrong)
            fixed = ",".join(f"{key}={spec.settings.get(key, wanted)}" for key, wanted in wrong.items())
            raise FatalError(
                f"Topic {spec.name!r} has {found}, which could lose data or stop commits; fix it with: "
                f"kafka-configs.sh --alter --entity-type topics --entity-name {spec.name} --add-config {fixed}"
            )

    def _partitions(self, topic: str) -> int:
        return partition_count(self._clients, self._admin, topic, ELECTION_TIMEOUT_S)

    def _settings(self, topic: str) -> Mapping[str, str]:
        """Return the topic's effective settings; none if this client may not describe them."""
        resource = ConfigResource(ResourceType.TOPIC, topic)

        def request(timeout_s: float) -> dict[str, str]:
            answer = self._admin.describe_configs([resource], request_timeout=timeout_s)[resource]
            entries = result_of(answer, self._clients.stop)
            return {key: entry.value for key, entry in entries.items() if entry.value is not None}

        return self._ask(topic, "settings of", request) or {}

    def _describe(self, topic: str, timeout_s: float) -> TopicDescription:
        answers = self._admin.describe_topics(
            TopicCollection([topic]), include_authorized_operations=True, request_timeout=timeout_s
        )
        description: TopicDescription = result_of(answers[topic], self._clients.stop)
        return description

    def _ask(self, topic: str, what: str, request: Callable[[float], _T]) -> _T | None:
        """Make a request about a topic; None if this client is not authorized to make it.

        A topic that was created a moment ago is unknown to some brokers for a while.
        """
        try:
            new = topic if topic in self._created else ""
            return retry_transient(request, ELECTION_TIMEOUT_S, self._clients.stop, new=new)
        except KafkaException as failure:
            error = error_of(failure)
            if error.code() not in UNAUTHORIZED:
                raise failed(error, f"The {what} topic {topic!r} cannot be read: {error.str()}.") from failure
            log.info("The %s topic %s may not be read: %s.", what, topic, error.str())
            return None


def _holds(actual: str, wanted: str, at_least: bool) -> bool:
    return int(actual) >= int(wanted) if at_least else actual == wanted
