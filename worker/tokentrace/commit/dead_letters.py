"""Dead letters as Kafka records: the original message, with why and whence in headers."""

from __future__ import annotations

from tokentrace.model.messages import DeadLetter

PREFIX = "tokentrace."


def headers_of(letter: DeadLetter) -> list[tuple[str, str | bytes | None]]:
    """The message's own headers, then `tokentrace.reason`, `.error`, `.topic`, `.partition` and `.offset`.

    Headers of ours that a replayed message brings along are replaced.
    """
    envelope = letter.envelope
    own = [(name, value) for name, value in envelope.headers if not name.startswith(PREFIX)]
    return [
        *own,
        (f"{PREFIX}reason", letter.reason.encode()),
        (f"{PREFIX}error", letter.error.encode("utf-8", "replace")),
        (f"{PREFIX}topic", envelope.topic.encode()),
        (f"{PREFIX}partition", str(envelope.partition).encode()),
        (f"{PREFIX}offset", str(envelope.offset).encode()),
    ]
