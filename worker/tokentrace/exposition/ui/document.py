"""Document: what the page answers with, as it is sent, and the error of too many of them."""

from __future__ import annotations

from dataclasses import dataclass


class Busy(Exception):
    """Too many new views were asked for."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it is sent. compressed: with gzip. tag: changes with the content."""

    body: bytes
    compressed: bytes
    tag: str
