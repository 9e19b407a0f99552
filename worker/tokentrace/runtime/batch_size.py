"""Batch size: how many messages a poll asks for, so that a batch is bounded in bytes and in spans as well as in number.

Kafka's clients give messages by number only. The size follows the messages seen: it shrinks at once when they are
larger, or hold more spans, and grows by steps when they are smaller. The first polls are small, since nothing is known
yet.
"""

from __future__ import annotations

from typing import Final

#: Messages of the first poll, and the most by which a poll may exceed the one before.
FIRST: Final = 32
GROWTH: Final = 4
#: Part of the mean size that is kept from one poll to the next, so that a few small messages among large ones
#: do not make the next poll large.
_KEPT: Final = 0.5


class BatchSize:
    """The size of the next poll. most: messages, and spans in them. most_bytes: of all values of a poll together."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._mean = 0.0
        self._spans = 1.0
        self.messages = min(most, FIRST)

    def observe(self, messages: int, size: int) -> None:
        """Take note of a batch of `messages` (1 or more) whose values have `size` bytes."""
        self._mean = max(size / messages, self._mean * _KEPT, 1.0)
        fits = max(min(int(self._most_bytes / self._mean), int(self._most / self._spans)), 1)
        self.messages = min(fits, self.messages * GROWTH, self._most)

    def observe_spans(self, messages: int, spans: int) -> None:
        """Take note of the spans of a batch, those that are kept in memory: a message may hold any number of them."""
        self._spans = max(spans / messages, self._spans * _KEPT, 1.0)
        self.messages = min(self.messages, max(int(self._most / self._spans), 1))
