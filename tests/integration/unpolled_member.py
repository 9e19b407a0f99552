"""A member of a group that is closed while a rebalance waits for its callback: arguments BOOTSTRAP TOPIC KIND."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.election import Election
from tokentrace.kafka.membership import SourceSettings, cooperative_session
from tokentrace.kafka.single_partition import SinglePartitionConsumer
from tokentrace.kafka.source import KafkaSource

SESSION_S = 6.0
#: Time that a revoke takes. The library may end the group meanwhile.
COMMIT_S = 0.3


class Follower:
    """A listener of either kind that has no state."""

    def acquire(self) -> int:
        return 0

    def on_revoke(self, _: list[int]) -> None:
        time.sleep(COMMIT_S)

    def hand_over(self) -> None:
        time.sleep(COMMIT_S)

    def refuse_offsets(self, _: Any) -> set[int]:
        return set()

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_: None


def member(clients: KafkaClients, topic: str, kind: str) -> SimpleNamespace:
    """A member of a kind.

    poll: runs its callbacks, and returns whether it has its partitions. failure: what the library refused a callback.
    """
    follower = Follower()
    if kind in ("static", "dynamic"):
        settings = SourceSettings(
            topic=topic, group_id=topic, member_id="a", session_timeout_s=SESSION_S, leave_on_stop=kind == "dynamic"
        )
        source = KafkaSource(settings, clients)
        partitions = len(source._consumer.list_topics(topic).topics[topic].partitions)

        def poll() -> bool:
            source.poll(10, 0.05)
            return len(source.positions) == partitions

        source.subscribe(follower)
        return SimpleNamespace(poll=poll, close=source.close, failure=lambda: source._callback_failure)
    names: dict[str, Any] = {"topic": topic, "group_id": topic, "session_timeout_s": SESSION_S}
    if kind == "election":
        election = Election(clients, **names)
        run = election._guarded

        def guarded(action: Callable[[], None]) -> None:
            time.sleep(COMMIT_S)
            run(action)

        election._guarded = guarded  # type: ignore[method-assign]
        return SimpleNamespace(
            poll=lambda: election.poll(0.05), close=election.close, failure=lambda: election._failure
        )
    single = SinglePartitionConsumer(clients, **names)
    single.subscribe(follower)

    def read() -> bool:
        single.poll(10, 0.05)
        return single._owned

    return SimpleNamespace(poll=read, close=single.close, failure=lambda: single._failure)


def main(bootstrap: str, topic: str, kind: str) -> None:
    """Join, stop polling, let another member join, and close."""
    clients = KafkaClients(bootstrap_servers=bootstrap)
    first = member(clients, topic, kind)
    until_s = time.monotonic() + 60.0
    while not first.poll():
        assert time.monotonic() < until_s
    joined: list[list[TopicPartition]] = []

    def on_assign(consumer: Consumer, partitions: list[TopicPartition]) -> None:
        joined.append(partitions)
        consumer.incremental_assign(partitions)

    second = clients.consumer(group_id=topic, settings=cooperative_session(SESSION_S))
    second.subscribe([topic], on_assign=on_assign)
    while not joined:
        assert time.monotonic() < until_s
        second.consume(1, 0.05)
    # The group has answered both members, and the callback of the first waits until it polls.
    time.sleep(0.5)
    first.close()
    print("closed", first.failure(), flush=True)
    second.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
