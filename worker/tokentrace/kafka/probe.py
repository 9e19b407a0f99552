"""Probe of a cluster for `tokentrace config check --connect` and `doctor`: what answers, and what is allowed."""

from __future__ import annotations

import re
from typing import Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AclOperation  # type: ignore[attr-defined]

from tokentrace.errors import Unreachable, UsageError
from tokentrace.kafka.causes import of_any_attempt
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.errors import REFUSED, error_of
from tokentrace.kafka.reader import result_of

#: Longest wait for the first answer, and for each answer after it.
CONNECT_TIMEOUT_S: Final = 10.0
REQUEST_TIMEOUT_S: Final = 15.0

#: Wait after which brokers of which all refuse the connection are not asked again: where a port is closed, it stays so.
_REFUSAL_TIMEOUT_S: Final = 2.0
_NOBODY: Final = re.compile(r"Connection refused|Failed to resolve")

#: Errors that say that no broker answers, but not why.
_UNSPECIFIC: Final = frozenset({KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT})


class ClusterProbe:
    """The cluster as one client sees it. Every method raises Unreachable, StopRequested."""

    def __init__(self, clients: KafkaClients, group_id: str) -> None:
        self._clients = clients
        self._group_id = group_id
        self._reasons: list[str] = []
        self._consumer = clients.consumer(group_id=group_id, on_error=self._keep)
        self._admin = clients.admin()

    def close(self) -> None:
        """Free the connections."""
        self._consumer.close()

    def brokers(self) -> int:
        """Return the number of brokers. Raises Unreachable with the reason, such as rejected credentials."""
        try:
            return self._brokers(_REFUSAL_TIMEOUT_S)
        except KafkaException as failure:
            # What went wrong with each broker arrives as an event.
            self._consumer.poll(0.5)
            if self._is_refused():
                raise self._unreachable(failure) from failure
        try:
            return self._brokers(CONNECT_TIMEOUT_S)
        except KafkaException as failure:
            self._consumer.poll(0.5)
            raise self._unreachable(failure) from failure

    def _brokers(self, timeout_s: float) -> int:
        count = len(self._consumer.list_topics(timeout=timeout_s).brokers)
        self._clients.causes.clear()
        return count

    def _is_refused(self) -> bool:
        """Return whether the port of each broker is closed, or its name unknown."""
        nobody = [reason for reason in self._reasons if _NOBODY.search(reason)]
        names = [name.rpartition("://")[2].strip() for name in self._clients.bootstrap_servers.split(",")]
        return all(any(name in reason for reason in nobody) for name in names)

    def _unreachable(self, failure: KafkaException) -> Unreachable:
        """Return what to raise for a request without an answer, with the reasons, each once."""
        problem = self._clients.unreachable(error_of(failure)).rstrip(".")
        if self._clients.causes.text:
            return Unreachable(problem)
        reasons = (of_any_attempt(reason).rstrip(".") for reason in self._reasons)
        return Unreachable(". ".join([problem, *dict.fromkeys(reasons)][:3]))

    def partitions(self, topic: str) -> int:
        """Return a topic's number of partitions, 0 if it does not exist. Raises UsageError if Kafka refuses access."""
        try:
            found = self._consumer.list_topics(topic, timeout=REQUEST_TIMEOUT_S).topics[topic]
        except KafkaException as failure:
            raise Unreachable(self._clients.unreachable(error_of(failure))) from failure
        if found.error is not None and found.error.code() in REFUSED:
            raise UsageError(f"Kafka refuses access to topic {topic!r}: {found.error.str()}")
        return 0 if found.error is not None else len(found.partitions)

    def may_create_topics(self) -> bool | None:
        """Return whether this client may create topics, None if the brokers do not say."""
        try:
            answer = self._admin.describe_cluster(include_authorized_operations=True, request_timeout=REQUEST_TIMEOUT_S)
            allowed = result_of(answer, self._clients.stop).authorized_operations
        except KafkaException:
            return None
        return None if allowed is None else AclOperation.CREATE in allowed

    def may_join_group(self) -> bool | None:
        """Return whether this client may read in its consumer group, None if the brokers do not say."""
        try:
            answers = self._admin.describe_consumer_groups(
                [self._group_id], include_authorized_operations=True, request_timeout=REQUEST_TIMEOUT_S
            )
            allowed = result_of(answers[self._group_id], self._clients.stop).authorized_operations
        except KafkaException as failure:
            return False if error_of(failure).code() in REFUSED else None
        return None if allowed is None else AclOperation.READ in allowed

    def members(self) -> set[str] | None:
        """Return the client ids of the group's members, None if the brokers do not say."""
        try:
            answers = self._admin.describe_consumer_groups([self._group_id], request_timeout=REQUEST_TIMEOUT_S)
            return {member.client_id for member in result_of(answers[self._group_id], self._clients.stop).members}
        except KafkaException:
            return None

    def _keep(self, error: KafkaError) -> None:
        self._clients.causes.note(error)
        if error.code() not in _UNSPECIFIC:
            self._reasons.append(error.str())
