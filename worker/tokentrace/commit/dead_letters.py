"""Dead letters as Kafka records: the original message, with the reason and the origin in headers.

A message can be larger than the dead-letter topic takes: its publisher compressed it better. Its record is a reference
then, with the origin, the length and the hash of the value, so that the original can be read from where it is.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from tokentrace.errors import FatalError, UsageError
from tokentrace.kafka.clients import BATCH_BYTES, KafkaClients
from tokentrace.kafka.producer import Headers, Record, record_bytes
from tokentrace.kafka.topics import DEFAULT_MAX_MESSAGE_BYTES, Topics
from tokentrace.model.messages import WHOLE_MESSAGE, DeadLetter

log = logging.getLogger(__name__)

PREFIX: Final = "tokentrace."
#: Bytes of the value that a reference keeps, and of its error.
REFERENCE_BYTES: Final = 1024
#: Limits below this are not tried: a reference takes less.
SMALLEST_LIMIT: Final = 4096
LOG_INTERVAL_S: Final = 10.0


class DeadLetterTopic:
    """Makes the records of the dead-letter topic, within the size that it takes.

    truncated: reason -> messages of which a reference was committed instead of the message.
    """

    def __init__(self, clients: KafkaClients, name: str, group_id: str) -> None:
        """group_id: the group that replays the letters; others may write to the same topic."""
        self.name = name
        self._group_id = group_id
        self.truncated: Counter[str] = Counter()
        self._clients = clients
        self._limit = DEFAULT_MAX_MESSAGE_BYTES
        #: The letters of the last `records` that are references, by the identity of their messages.
        self._references: set[tuple[str, int, int, int]] = set()
        self._logged_s = -LOG_INTERVAL_S

    @property
    def batch_bytes(self) -> Mapping[str, int]:
        """Topic -> most bytes of a batch."""
        return {self.name: min(self._limit, BATCH_BYTES)}

    def read_limit(self) -> None:
        """Read the size that the topic takes. Raises FatalError or UsageError as `Topics`."""
        self._limit = Topics(self._clients).max_message_bytes(self.name)

    def records(self, letters: Sequence[DeadLetter]) -> list[Record]:
        """Return the records of one commit, one for each letter."""
        self._references.clear()
        records = []
        for letter in letters:
            record = dead_letter_record(self.name, letter, self._group_id)
            if record_bytes(record) > self._limit:
                record = reference_record(self.name, letter, self._group_id, self._limit)
                self._references.add(letter.origin)
            records.append(record)
        return records

    def on_written(self, letters: Sequence[DeadLetter]) -> None:
        """Count the references among those letters of the last `records` that are durable now."""
        reasons = Counter(letter.reason for letter in letters if letter.origin in self._references)
        self._references.clear()
        if not reasons:
            return
        self.truncated.update(reasons)
        if (now_s := time.monotonic()) >= self._logged_s + LOG_INTERVAL_S:
            self._logged_s = now_s
            log.warning(
                "%d rejected messages were too large for topic %s (max.message.bytes=%d): it has references to them, "
                "and the messages remain in their own topic for as long as that retains them. "
                "`tokentrace dlq replay` reads them there.",
                reasons.total(), self.name, self._limit,
            )  # fmt: skip

    def on_too_large(self) -> None:
        """Expect less of the topic, which has refused a record for its size: its limit was lowered."""
        before = found = self._limit
        try:
            found = Topics(self._clients).max_message_bytes(self.name)
        except (FatalError, UsageError) as error:
            log.info("%s", error)
        self._limit = max(found if found < before else before // 2, SMALLEST_LIMIT)
        if self._limit < before:
            log.warning(
                "Topic %s takes less than %d bytes. Dead letters of more than %d bytes are written as references until "
                "this worker restarts; raise max.message.bytes of the topic to keep them whole.",
                self.name, before, self._limit,
            )  # fmt: skip


def dead_letter_record(topic: str, letter: DeadLetter, group_id: str) -> Record:
    """Return the record of a dead letter: the key and value of its message, and `headers_of` it."""
    return Record(topic, letter.envelope.key, letter.envelope.value, headers=headers_of(letter, group_id))


def reference_record(topic: str, letter: DeadLetter, group_id: str, limit: int) -> Record:
    """Return a record that refers to the message of a dead letter: the first bytes of its value, and `headers_of` it.

    `tokentrace.truncated` is the length of the message's value, `tokentrace.sha256` its hash in hex. The message's own
    key and headers are left out where they do not fit into `limit` bytes.
    """
    value = letter.envelope.value or b""
    added: Headers = [
        (f"{PREFIX}truncated", str(len(value)).encode()),
        (f"{PREFIX}sha256", hashlib.sha256(value).hexdigest().encode()),
    ]
    record = Record(
        topic, letter.envelope.key, value[:REFERENCE_BYTES], headers=[*headers_of(letter, group_id), *added]
    )
    if record_bytes(record) <= limit:
        return record
    return record._replace(key=None, headers=[*_added_headers(letter, group_id, REFERENCE_BYTES), *added])


def headers_of(letter: DeadLetter, group_id: str) -> list[tuple[str, str | bytes | None]]:
    """Return the message's own headers, then tokentrace's: reason, error, topic, partition, offset, group and span.

    The last says which span of the message a letter has, from 0; a letter that is the whole message has none.

    tokentrace's headers of a replayed message are replaced.
    """
    original = [(name, value) for name, value in letter.envelope.headers if not name.startswith(PREFIX)]
    return [*original, *_added_headers(letter, group_id)]


def _added_headers(
    letter: DeadLetter, group_id: str, error_bytes: int | None = None
) -> list[tuple[str, str | bytes | None]]:
    envelope = letter.envelope
    part = [(f"{PREFIX}span", str(letter.part).encode())] if letter.part != WHOLE_MESSAGE else []
    return [
        (f"{PREFIX}reason", letter.reason.encode()),
        (f"{PREFIX}error", letter.error.encode("utf-8", "replace")[:error_bytes]),
        (f"{PREFIX}topic", envelope.topic.encode()),
        (f"{PREFIX}partition", str(envelope.partition).encode()),
        (f"{PREFIX}offset", str(envelope.offset).encode()),
        (f"{PREFIX}group", group_id.encode()),
        *part,
    ]
