"""Modifiers of a call: its service tier, the place where it ran and its speed, as one code a span.

Providers write the ordinary tier in many ways; all of them are read as the empty value, and so is everything that is
absent. A batch without any of the fields has no codes. Strings are told apart by a hash of all three, over whole
columns, and compared with what stands for the hash, so that codes are exact.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.arrays import Ints
from tokentrace.model.globs import matches
from tokentrace.model.spans import MODIFIERS, ORDINARY_MODIFIERS, SpanBatch, Strings, string_words

#: Longest text of a modifier, bytes; a longer one is cut.
MAX_BYTES: Final = 64
#: Other names of tiers.
_TIERS: Final = {"on_demand_flex": "flex", "on_demand_priority": "priority", "batches": "batch", "batch_api": "batch"}
_MULTIPLY: Final = np.uint64(0x9E3779B97F4A7C15)
_FOLD: Final = np.uint64(29)
#: Distinct values of a batch that are looked for one by one before the rest is sorted.
_FEW: Final = 32


class Modifiers(NamedTuple):
    """Modifiers of a call: what changes its price besides its usage; empty for the ordinary."""

    service_tier: str = ""
    inference_region: str = ""
    speed: str = ""

    @classmethod
    def of(cls, *texts: str) -> Modifiers:
        """Read the fields' texts, in the order of MODIFIERS."""
        return cls(*(_read(name, text) for name, text in zip(MODIFIERS, texts, strict=True)))

    def without(self, names: frozenset[str]) -> Modifiers:
        """Return the others."""
        return self._replace(**dict.fromkeys(names, ""))

    @property
    def names(self) -> frozenset[str]:
        """The fields that are not ordinary."""
        return frozenset(name for name, value in zip(MODIFIERS, self, strict=True) if value)


NONE: Final = Modifiers()


def _read(name: str, text: str) -> str:
    value = text.strip().lower()
    plain = value.replace("-", "_").replace(" ", "_")
    if plain in ORDINARY_MODIFIERS[name]:
        return ""
    # Names of regions have hyphens, and globs over them too.
    return value if name == "inference_region" else _TIERS.get(plain, plain)


class Classes:
    """Modifiers that all prices treat alike have one class. globs: of each field, those that any price asks for.

    A class is named by the first of its modifiers that was seen, so that few codes do for any number of values.
    """

    def __init__(self, globs: Mapping[str, set[str]]) -> None:
        self._globs = {name: sorted(globs[name]) for name in MODIFIERS}
        self._first: dict[tuple[str, tuple[str, ...]], str] = {}

    def of(self, call: Modifiers) -> Modifiers:
        """Return the first of the class."""
        return Modifiers(*(self._class(name, value) for name, value in zip(MODIFIERS, call, strict=True)))

    def examples(self) -> list[Modifiers]:
        """Return a call of every class, the ordinary one first: all combinations of what the prices ask for."""
        values = [["", *filter(None, map(_example, self._globs[name]))] for name in MODIFIERS]
        return list(dict.fromkeys(self.of(Modifiers(*texts)) for texts in itertools.product(*values)))

    def _class(self, name: str, value: str) -> str:
        if not value:
            return value
        hit = tuple(glob for glob in self._globs[name] if matches(glob, value))
        # A place that no price asks for is like none; a tier that none asks for is an estimate.
        if not hit and name == "inference_region":
            return ""
        return self._first.setdefault((name, hit), value)


def _example(glob: str) -> str:
    """Return a text that a glob matches, empty where none is found."""
    text = re.sub(r"\[(!?)(.)[^]]*\]", lambda found: "~" if found[1] else found[2], glob)
    text = text.replace("*", "").replace("?", "x")
    return text if text and matches(glob, text) else ""


class DistinctModifiers(NamedTuple):
    """kind: int64[k], index into `texts` of every span. texts: of each kind, in the order of MODIFIERS."""

    kind: Ints
    texts: list[tuple[str, ...]]


def distinct_modifiers(spans: SpanBatch, rows: Ints) -> DistinctModifiers:
    """Tell the modifiers of k spans apart. rows: int64[k]."""
    columns = {name: _cut(column.take(rows)) for name, column in spans.modifiers.items()}
    mixed = np.zeros(len(rows), np.uint64)
    for column in columns.values():
        _mix(mixed, spans.buffer, column)
    kind, first = _kinds(mixed)
    texts = [_texts_at(spans.buffer, columns, at) for at in first.tolist()]
    same = np.ones(len(rows), np.bool_)
    for column in columns.values():
        same &= _equal(spans.buffer, column, column.take(first[kind]))
    # Two texts with one hash, which hardly ever happens: each such span is a kind of its own.
    for at in np.flatnonzero(~same).tolist():
        kind[at] = len(texts)
        texts.append(_texts_at(spans.buffer, columns, at))
    return DistinctModifiers(kind, texts)


def _cut(strings: Strings) -> Strings:
    return Strings(strings.offset, np.minimum(strings.length, MAX_BYTES))


def _mix(mixed: NDArray[np.uint64], buffer: NDArray[np.uint8], strings: Strings) -> None:
    """Add strings to the hashes, in place."""
    mixed ^= strings.length.astype(np.uint64)
    mixed *= _MULTIPLY
    for some, words in string_words(buffer, strings):
        part = mixed if some is None else mixed[some]
        part = (part ^ words) * _MULTIPLY
        part ^= part >> _FOLD
        mixed[slice(None) if some is None else some] = part


def _kinds(mixed: NDArray[np.uint64]) -> tuple[Ints, Ints]:
    """Return (int64[k], the number of each hash; int64[d], where each of them is first)."""
    kind = np.zeros(len(mixed), np.int64)
    first: list[int] = []
    rest = np.arange(len(mixed))
    while len(rest) and len(first) < _FEW:
        hit = mixed.take(rest) == mixed[rest[0]]
        if first:
            kind[rest[hit]] = len(first)
        first.append(int(rest[0]))
        rest = rest[~hit]
    if len(rest):
        _, at, inverse = np.unique(mixed.take(rest), return_index=True, return_inverse=True)
        kind[rest] = len(first) + inverse
        first += rest[at].tolist()
    return kind, np.array(first, np.int64)


def _equal(buffer: NDArray[np.uint8], strings: Strings, others: Strings) -> NDArray[np.bool_]:
    """Return bool[k], whether the strings are the same."""
    same: NDArray[np.bool_] = strings.length == others.length
    if not same.all():
        strings, others = Strings(strings.offset, strings.length * same), Strings(others.offset, others.length * same)
    for (some, words), (_, by) in zip(string_words(buffer, strings), string_words(buffer, others), strict=True):
        same[slice(None) if some is None else some] &= words == by
    return same


def _texts_at(buffer: NDArray[np.uint8], columns: Mapping[str, Strings], at: int) -> tuple[str, ...]:
    texts = []
    for name in MODIFIERS:
        column = columns.get(name)
        first = int(column.offset[at]) if column is not None else 0
        last = first + int(column.length[at]) if column is not None else 0
        texts.append(buffer[first:last].tobytes().decode("utf-8", "replace"))
    return tuple(texts)
