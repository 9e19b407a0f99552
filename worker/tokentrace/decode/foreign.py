"""Foreign framings: what a value is that has no framing which is read, as far as its first bytes tell."""

from __future__ import annotations


def recognised(value: bytes) -> str:
    """Return a sentence on what a value is instead, empty if its first bytes do not tell."""
    if value[:1] == b"{":
        return "It looks like JSON, which kafka.framing: json reads."
    if value[:4] == b"Obj\x01":
        return "It is an Avro container file; a message has one datum, without the file's header."
    if value[:2] == b"\x1f\x8b" or value[:4] == b"\x28\xb5\x2f\xfd":
        return "It is compressed; leave compression to Kafka's producer (compression.type)."
    return ""
