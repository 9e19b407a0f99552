"""Dimensions: labels of one's own, such as a team or a feature, and where spans have their values.

A source is `attributes.<key>`, `span.<field>`, `header.<name>` or `key`. The decoders read the first two, as the bytes
that the writer gave; numbers and booleans become text. `aggregate.dimensions` makes label values of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tokentrace.model.snapshot import BASE_LABELS

ATTRIBUTE: Final = "attributes."
FIELD: Final = "span."
HEADER: Final = "header."
KEY: Final = "key"

#: Most dimensions of a configuration.
MAX_DIMENSIONS: Final = 8
#: Value of what an allow-list does not have, unless the configuration names another.
OTHER: Final = "__other__"


@dataclass(frozen=True, slots=True)
class Dimension:
    """A dimension, as it is configured.

    default: value of a span without one. limit: most distinct values. max_length: bytes of UTF-8.
    mapping: (glob, value), the first match applies. values: allow-list, None for any value; others become `other`.
    hash_key: key of the hash that replaces values, empty where they stay.
    """

    name: str
    source: str
    default: str = ""
    limit: int = 1000
    max_length: int = 100
    mapping: tuple[tuple[str, str], ...] = ()
    values: frozenset[str] | None = None
    other: str = OTHER
    hash_key: bytes = b""


def decoded_sources(dimensions: Iterable[Dimension]) -> tuple[str, ...]:
    """Return the sources that the decoders have to read, each once. Labels of every span have columns already."""
    sources = dict.fromkeys(dimension.source for dimension in dimensions)
    labels = {FIELD + label for label in BASE_LABELS}
    return tuple(source for source in sources if source.startswith((ATTRIBUTE, FIELD)) and source not in labels)
