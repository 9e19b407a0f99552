"""Dead letters as Kafka records: the original message, with the reason and the origin in headers."""

from __future__ import annotations

from tokentrace.kafka.producer import Record
from tokentrace.model.messages import DeadLetter

PREFIX = "tokentrace."


def dead_letter_record(topic: str, letter: DeadLetter) -> Record:
    """Return the record of a dead letter: the key and value of its message, and `headers_of` it."""
    return Record(topic, letter.envelope.key, letter.envelope.value, headers=headers_of(letter))


def headers_of(letter: DeadLetter) -> list[tuple[str, str | bytes | None]]:
    """Return the message's own headers, then `tokentrace.reason`, `.error`, `.topic`, `.partition` and `.offset`.

    tokentrace's headers of a replayed message are replaced.
    """
    envelope = letter.envelope
    original = [(name, value) for name, value in envelope.headers if not name.startswith(PREFIX)]
    return [
        *original,
        (f"{PREFIX}reason", letter.reason.encode()),
        (f"{PREFIX}error", letter.error.encode("utf-8", "replace")),
        (f"{PREFIX}topic", envelope.topic.encode()),
        (f"{PREFIX}partition", str(envelope.partition).encode()),
        (f"{PREFIX}offset", str(envelope.offset).encode()),
    ]
