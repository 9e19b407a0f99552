"""Membership: how a worker joins its consumer group, and the listener that follows its partitions."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from tokentrace.kafka.offsets import Start

#: librdkafka's default back-off of a full queue stalls a fast consumer for a second (measured: docs/performance.md).
TUNING: Final[dict[str, Any]] = {"fetch.queue.backoff.ms": 2, "queued.min.messages": 20000}


#: Most characters of a group.instance.id, which are those of topic names (KIP-345).
INSTANCE_ID_LENGTH: Final = 249


class RebalanceListener(Protocol):
    """Follows the member's partitions; called inside `poll`, on its thread."""

    def load_counted(self) -> bool: ...

    def refuse_offsets(self, starts: Mapping[int, Start]) -> Collection[int]: ...

    def load_state(self, partitions: Sequence[int]) -> None: ...

    def begin(self, positions: Mapping[int, int]) -> None: ...

    def counted(self, partition: int) -> int: ...

    def generation(self, partition: int) -> int: ...

    def on_removed(self, partition: int, first: int, records: int) -> None: ...

    def on_truncated(self, partition: int, end: int, records: int) -> None: ...

    def on_revoke(self, partitions: Sequence[int]) -> None: ...

    def on_lost(self, partitions: Sequence[int]) -> None: ...

    def on_assign(self, partitions: Sequence[int]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """Settings of a membership.

    start: where a partition begins that the group has never committed. leave_on_stop: whether the partitions are free
    when the member closes, rather than reserved for its return until the session ends. fetch: librdkafka properties
    of fetching, which the configuration may override.
    """

    topic: str
    group_id: str
    member_id: str
    start: Literal["earliest", "latest"] = "earliest"
    protocol: Literal["classic", "consumer"] = "classic"
    session_timeout_s: float = 45.0
    leave_on_stop: bool = False
    fetch: Mapping[str, Any] = field(default_factory=dict)

    @property
    def static(self) -> bool:
        """True for a member that has its partitions back at once after a restart."""
        # Not under KIP-848: there a killed static member is refused until its session has ended. librdkafka 2.16 has no
        # request by which a static member leaves (KIP-345), so one that leaves is dynamic.
        return self.protocol == "classic" and not self.leave_on_stop

    def consumer_settings(self) -> dict[str, Any]:
        """The librdkafka properties of the membership."""
        settings: dict[str, Any] = {"client.id": self.member_id, "group.protocol": self.protocol}
        if self.protocol == "classic":
            settings |= cooperative_session(self.session_timeout_s)
        if self.static:
            settings["group.instance.id"] = instance_id(self.group_id, self.member_id)
        return settings


def instance_id(group_id: str, member_id: str) -> str:
    """Return the group.instance.id of a static member.

    Kafka compares it within the group, so the part that names the group may be changed to what Kafka allows.
    """
    group = re.sub(r"[^a-zA-Z0-9._-]", "_", group_id)
    return f"{group}.{member_id}"[-INSTANCE_ID_LENGTH:]


def cooperative_session(session_timeout_s: float) -> dict[str, Any]:
    """The librdkafka properties of a member that keeps its partitions while others join."""
    return {
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": int(session_timeout_s * 1000),
        # The library's 3 s would let a short session expire between two heartbeats.
        "heartbeat.interval.ms": min(3000, int(session_timeout_s * 1000 / 4)),
    }
