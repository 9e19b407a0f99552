"""Looking at the durable state, and mending it by hand: what `tokentrace state` does.

Every change is one transaction under the replica's own transactional id, so that a worker of that name which still
runs is fenced rather than overruled.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from tokentrace.errors import FatalError, UsageError
from tokentrace.model.measures import SUMS
from tokentrace.model.snapshot import EXPIRED, ExpiredKey, Group
from tokentrace.model.spans import STATUSES
from tokentrace.state.records import cell_key, decode_record, encode_replica, folded_key, replica_key
from tokentrace.state.restore import StateReader, Stored, partition_of

_silent = logging.getLogger("librdkafka")
_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class ReplicaTotals:
    """What one replica has counted, ever. sums: (group, status) -> sum by name, in the units of the state."""

    replica: str
    committed_at_s: float
    positions: Mapping[tuple[str, int], int]
    sums: Mapping[tuple[Group, str], Mapping[str, int]]


class StateAdmin:
    """The state of one consumer group."""

    def __init__(self, client_config: Mapping[str, Any], topic: str, group_id: str, source_topic: str) -> None:
        self._config = dict(client_config)
        self._topic = topic
        self._group_id = group_id
        self._source_topic = source_topic
        self._reader = StateReader(self._config, topic, group_id)

    def replicas(self) -> list[ReplicaTotals]:
        """Every replica that ever committed, by name. Raises UsageError where there is no state."""
        return [_totals(replica, stored) for replica, stored in sorted(self._read().items())]

    def counted_up_to(self) -> dict[int, int]:
        """Input partition -> the highest offset up to which any replica has counted."""
        highest: dict[int, int] = {}
        for each in self.replicas():
            for (topic, partition), offset in each.positions.items():
                if topic == self._source_topic:
                    highest[partition] = max(offset, highest.get(partition, 0))
        return highest

    def set_offsets_forward(self) -> dict[int, tuple[int, int]]:
        """Set the group's offsets to what is counted, where they are behind. partition -> (from, to).

        Raises UsageError while the group has members, whose offsets nobody may change.
        """
        admin = AdminClient(self._config, logger=_silent)
        request = ConsumerGroupTopicPartitions(self._group_id)
        try:
            answer = admin.list_consumer_group_offsets([request])[self._group_id].result(_TIMEOUT_S)
            committed = {
                each.partition: each.offset
                for each in answer.topic_partitions or []
                if each.topic == self._source_topic
            }
            moved = {
                partition: (committed.get(partition, 0), offset)
                for partition, offset in self.counted_up_to().items()
                if committed.get(partition, 0) < offset
            }
            if moved:
                offsets = [TopicPartition(self._source_topic, partition, to) for partition, (_, to) in moved.items()]
                change = ConsumerGroupTopicPartitions(self._group_id, offsets)
                done = admin.alter_consumer_group_offsets([change])[self._group_id].result(_TIMEOUT_S)
                for each in done.topic_partitions or []:
                    if each.error is not None:
                        raise KafkaException(each.error)
        except KafkaException as failure:
            raise UsageError(
                f"The offsets of group {self._group_id!r} cannot be changed ({failure.args[0].str()}); "
                "stop its workers first."
            ) from failure
        return moved

    def forget_positions(self, replica: str) -> None:
        """Let the replica be given spans again that it has counted; its totals stay."""
        stored = self._one(replica)
        if stored.replica is None:
            return
        record = decode_record(stored.replica)
        for each in record["partitions"]:
            each["offset"] = 0
        self._write(replica, [(replica_key(replica), encode_replica(record))])

    def forget_totals(self, replica: str) -> int:
        """Remove everything that the replica has counted. Returns how many records went."""
        stored = self._one(replica)
        keys = [cell_key(replica, group, status) for group, status in stored.cells]
        keys += [folded_key(replica, folded) for folded in stored.folded]
        if stored.replica is not None:
            keys.append(replica_key(replica))
        self._write(replica, [(key, None) for key in keys])
        return len(keys)

    def _read(self) -> dict[str, Stored]:
        admin = AdminClient(self._config, logger=_silent)
        try:
            topics = admin.list_topics(timeout=_TIMEOUT_S).topics
        except KafkaException as failure:
            servers = self._config["bootstrap.servers"]
            raise UsageError(
                f"No Kafka broker answers at {servers} ({failure.args[0].str()}); check kafka.bootstrap_servers."
            ) from failure
        if self._topic not in topics:
            raise UsageError(f"There is no topic {self._topic!r}; an exactly-once worker makes it when it starts.")
        return self._reader.read(range(self._reader.partitions()))

    def _one(self, replica: str) -> Stored:
        stored = self._read()
        if replica not in stored:
            known = ", ".join(sorted(stored)) or "none"
            raise UsageError(f"No replica {replica!r} has ever committed; those that have: {known}.")
        return stored[replica]

    def _write(self, replica: str, records: list[tuple[bytes, bytes | None]]) -> None:
        partition = partition_of(replica, self._reader.partitions())
        producer = Producer({**self._config, "transactional.id": replica}, logger=_silent)
        try:
            producer.init_transactions(_TIMEOUT_S)
            producer.begin_transaction()
            for key, value in records:
                producer.produce(self._topic, key=key, value=value, partition=partition)
                producer.poll(0)
            producer.commit_transaction(_TIMEOUT_S)
        except (KafkaException, BufferError) as failure:
            raise FatalError(f"The state of replica {replica!r} could not be written: {failure}.") from failure


def _totals(replica: str, stored: Stored) -> ReplicaTotals:
    record = decode_record(stored.replica) if stored.replica is not None else None
    sums: dict[tuple[Group, str], Counter[str]] = {}
    folded = [(_shown(each), each.status, written) for each, written in stored.folded.items()]
    for group, status, written in [*((group, status, each) for (group, status), each in stored.cells.items()), *folded]:
        counts = decode_record(written.value)["counts"]
        sums.setdefault((group, STATUSES[status]), Counter()).update({name: counts[name] for name in SUMS})
    return ReplicaTotals(
        replica,
        record["committed_at"] / 1e6 if record else 0.0,
        {(each["topic"], each["partition"]): each["offset"] for each in record["partitions"]} if record else {},
        sums,
    )


def _shown(folded: ExpiredKey) -> Group:
    """Labels for what is not told apart by them any more."""
    if folded.model is None:
        return Group(EXPIRED, EXPIRED, EXPIRED)
    return Group(folded.model, folded.provider or "", EXPIRED)


def summed(replicas: list[ReplicaTotals], *by: str) -> dict[tuple[str, ...], Counter[str]]:
    """Sums over replicas by some of replica, model, provider, caller, status."""
    result: dict[tuple[str, ...], Counter[str]] = {}
    for each in replicas:
        for (group, status), sums in each.sums.items():
            labels = {"replica": each.replica, **group._asdict(), "status": status}
            result.setdefault(tuple(labels[name] for name in by), Counter()).update(sums)
    return result
