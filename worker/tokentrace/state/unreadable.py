"""Unreadable records of tokentrace's own topics: the message says which record it is, and how to go on."""

from __future__ import annotations

from typing import Final, NamedTuple

from tokentrace.kafka.batch import message_offset, message_partition
from tokentrace.kafka.reader import Message

#: Longest part of a key that a message shows.
KEY_SHOWN: Final = 300


class RecordPlace(NamedTuple):
    """Place of a record in a topic of tokentrace's own."""

    topic: str
    partition: int
    offset: int
    key: bytes | None

    @classmethod
    def of(cls, message: Message) -> RecordPlace:
        return cls(message.topic() or "", message_partition(message), message_offset(message), message.key())

    def __str__(self) -> str:
        key = (self.key or b"").decode(errors="backslashreplace")[:KEY_SHOWN]
        return f"The record at offset {self.offset} of topic {self.topic!r}, partition {self.partition}, key {key!r}"


def remedy(replica: str) -> str:
    """Return the advice for a damaged record of a replica's totals."""
    return (
        f"Stop replica {replica!r}, then restore the topic from a copy, or delete the totals of this replica, which "
        f"then counts from the group's offsets on: tokentrace state reset --totals --replica {replica}."
    )
