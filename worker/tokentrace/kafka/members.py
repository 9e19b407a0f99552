"""Members: the replicas that are in a consumer group now, asked from outside it."""

from __future__ import annotations

from confluent_kafka import KafkaException

from tokentrace.errors import UsageError
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.errors import error_of
from tokentrace.kafka.reader import REQUEST_TIMEOUT_S, result_of


class GroupMembers:
    """The members of one group."""

    def __init__(self, clients: KafkaClients, group_id: str) -> None:
        self._admin = clients.admin()
        self._stop = clients.stop
        self._group_id = group_id

    def replicas(self) -> set[str]:
        """Return the replica ids of the members, which are their client ids. Raises UsageError without an answer."""
        asked = self._admin.describe_consumer_groups([self._group_id], request_timeout=REQUEST_TIMEOUT_S)
        try:
            found = result_of(asked[self._group_id], self._stop)
        except KafkaException as failure:
            reason = error_of(failure).str()
            raise UsageError(f"The members of group {self._group_id!r} cannot be read ({reason}).") from failure
        return {str(member.client_id) for member in found.members}
