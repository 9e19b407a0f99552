"""Schema compiler: turns a resolved writer schema into the program that decodes its messages in columns.

Nested records are inlined, fields without a column are only skipped, and adjacent values of constant width become one
step. A recursive schema, or one whose array items may take no bytes, has no columnar form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Final, Literal

from tokentrace.decode.columnar.chosen import ITEM_TEXT, ChosenValues, FixedText, NumberText, Peek
from tokentrace.decode.columnar.decimals import MAX_BYTES, MAX_SHIFT, DecimalAmount
from tokentrace.decode.columnar.known_entries import KnownEntries
from tokentrace.decode.columnar.optional import MOST_ABSENT, Boolean, UnitValues
from tokentrace.decode.columnar.program import Program, Step
from tokentrace.decode.columnar.steps import (
    Absent,
    Blocks,
    Enum,
    FixedWidth,
    Integer,
    SetNaN,
    SetNull,
    String,
    Union,
    Unsupported,
)
from tokentrace.decode.decimals import NANO_DIGITS
from tokentrace.decode.resolve import COST, USAGE, Resolution, accepted_kinds, accepts, timestamp_scale
from tokentrace.decode.schema_tree import Type, children
from tokentrace.decode.texts import NUMBER_KINDS, field_of, key_of
from tokentrace.model.dimensions import FIELD
from tokentrace.model.spans import FLOAT_FIELDS, MODIFIERS, OPTIONAL_FIELDS

#: Deepest nesting of types, since a step calls the steps inside it. Fastavro may go deeper (datum_check.MAX_DEPTH).
MAX_DEPTH: Final = 50

#: Largest constant width in bytes: larger than any Kafka message, and small enough for sums to fit in 64 bits.
MAX_WIDTH: Final = 1 << 31

#: Kinds of the values of a map of units.
_KINDS: Final[Mapping[str, Literal["int", "float", "double", "other"]]] = {
    "int": "int", "long": "int", "float": "float", "double": "double",
}  # fmt: skip
_WIDTHS: Final = {"null": 0, "boolean": 1, "float": 4, "double": 8}


class _NotColumnar(Exception):
    """The schema has no columnar form."""


def compile_program(resolution: Resolution) -> Program | None:
    """Compile the program for a whole datum; None if the schema has no columnar form."""
    if resolution.recursive or resolution.unbounded:
        return None
    compiler = _Compiler(resolution.texts)
    steps: Program = ()
    try:
        if _height(resolution.root, {}) > MAX_DEPTH:
            return None
        for optional, fields in groupby(resolution.root.fields, lambda item: _may_be_absent(resolution, *item)):
            if optional:
                steps += compiler.absent([(type_, resolution.field_columns[name]) for name, type_ in fields])
                continue
            for name, type_ in fields:
                column, text = resolution.field_columns.get(name), FIELD + name
                if text not in resolution.texts:
                    steps += compiler.skip(type_) if column is None else compiler.extract(type_, column)
                elif column is None:
                    steps += compiler.text(type_, text)
                else:
                    steps += (Peek(compiler.text(type_, text)), *compiler.extract(type_, column))
        return _joined(steps)
    except (_NotColumnar, RecursionError):
        return None


def readable_texts(resolution: Resolution) -> set[str]:
    """Return the sources of dimensions that the schema has a field for."""
    names, columns = {name for name, _ in resolution.root.fields}, resolution.field_columns.values()
    return {
        source
        for source in resolution.texts
        if ("attributes" in columns if (field := field_of(source)) is None else field in names)
    }


def _may_be_absent(resolution: Resolution, name: str, type_: Type) -> bool:
    """Return whether a field fills optional columns only, and is one zero byte where it is absent."""
    column = resolution.field_columns.get(name)
    if FIELD + name in resolution.texts:
        return False
    if column == USAGE:
        return type_.kind == "map" or (type_.kind == "union" and type_.branches[0].kind == "null")
    return (
        (column in OPTIONAL_FIELDS or column in MODIFIERS)
        and type_.kind == "union"
        and type_.branches[0].kind == "null"
    )


def _height(type_: Type, known: dict[int, int]) -> int:
    """Return the levels of nested types, including the type itself. known: id of a type -> its height."""
    if id(type_) not in known:
        known[id(type_)] = 1 + max((_height(child, known) for child in children(type_)), default=0)
    return known[id(type_)]


class _Compiler:
    """Compiles types. A named type that occurs again is compiled once."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._skips: dict[int, Program] = {}
        self._attribute_texts = [(key.encode(), source) for source in texts if (key := key_of(source)) is not None]

    def skip(self, type_: Type) -> Program:
        """Compile the steps that skip a value."""
        steps = self._skips.get(id(type_))
        if steps is None:
            steps = self._skips[id(type_)] = self._skip(type_)
        return steps

    def _skip(self, type_: Type) -> Program:
        kind = type_.kind
        if kind in ("int", "long"):
            return (Integer(),)
        if kind in ("string", "bytes"):
            return (String(),)
        if kind == "enum":
            return (Enum(type_.symbols),) if type_.symbols else (Unsupported(),)
        if kind == "union":
            return (Union(tuple(self.skip(branch) for branch in type_.branches)),)
        if kind == "record":
            return _joined(tuple(step for _, inner in type_.fields for step in self.skip(inner)))
        if type_.items is not None:
            return (Blocks(self.skip(type_.items), keyed=kind == "map"),)
        return _joined((FixedWidth(type_.size if kind == "fixed" else _WIDTHS[kind]),))

    def extract(self, type_: Type, column: str) -> Program:
        """Compile the steps that store a field's value in a column; a null leaves the column absent."""
        if column == USAGE or column in OPTIONAL_FIELDS or column in MODIFIERS:
            return self._optional(type_, column)
        if column == "attributes":
            column, store = "eval_score", self._attributes
        else:
            store = self._value
        if type_.kind == "union":
            return (SetNull(column), Union(tuple(store(branch, column) for branch in type_.branches)))
        if column == "eval_score":
            return (SetNull(column), *store(type_, column))
        return store(type_, column)

    def absent(self, fields: Sequence[tuple[Type, str]]) -> Program:
        """Compile the steps of adjacent optional fields: (type, column) of each."""
        steps: Program = ()
        for first in range(0, len(fields), MOST_ABSENT):
            some = fields[first : first + MOST_ABSENT]
            inside = _joined(tuple(step for type_, column in some for step in self._optional(type_, column)))
            steps += (Absent(len(some), inside),)
        return steps

    def _optional(self, type_: Type, column: str) -> Program:
        """Compile the steps of an optional column, which is absent until a value is stored."""
        if type_.kind == "union":
            return (Union(tuple(self._optional(branch, column) for branch in type_.branches)),)
        if type_.kind == "null":
            return ()
        if column == USAGE:
            assert type_.items is not None
            return (
                Blocks(self.skip(type_.items), keyed=True, units=UnitValues(_KINDS.get(type_.items.kind, "other"))),
            )
        if column in MODIFIERS:
            return self._value(type_, column)
        return (Boolean(column),) if type_.kind == "boolean" else _number(type_, column)

    def _attributes(self, type_: Type, column: str) -> Program:
        if type_.kind != "map" or type_.items is None:
            return self.skip(type_)
        score = _score(type_.items, column)
        if type_.items.kind == "union":
            score = (SetNull(column), Union(tuple(_score(branch, column) for branch in type_.items.branches)))
        if not self._attribute_texts:
            return (Blocks(self.skip(type_.items), keyed=True, score=score),)
        chosen = ChosenValues(tuple(self._attribute_texts), self.text(type_.items, ITEM_TEXT))
        return (KnownEntries(Blocks(self.skip(type_.items), keyed=True, score=score, chosen=chosen)),)

    def text(self, type_: Type, source: str) -> Program:
        """Compile the steps that store a value as a text, and move past it."""
        kind = type_.kind
        if kind == "union":
            return (Union(tuple(self.text(branch, source) for branch in type_.branches)),)
        if kind in ("string", "bytes"):
            return (String(source),)
        if kind == "enum":
            return (Enum(type_.symbols, source),) if type_.symbols else (Unsupported(),)
        if kind == "fixed":
            return (FixedText(source, type_.size),)
        if kind in NUMBER_KINDS:
            return (NumberText(source, kind),)
        # A key that is repeated in a map may have had a value.
        return (SetNull(source), *self.skip(type_))

    def _value(self, type_: Type, column: str) -> Program:
        kind = type_.kind
        if kind == "null":
            return ()
        if not accepts(column, type_):
            return (Unsupported(),)
        if type_.scale is not None and column == COST:
            size = type_.size if kind == "fixed" else None
            if (size or 0) > MAX_BYTES or type_.scale - NANO_DIGITS > MAX_SHIFT:
                return (Unsupported(),)
            return (DecimalAmount(column, type_.scale, size),)
        if kind == "enum":
            return (Enum(type_.symbols, column),) if type_.symbols else (Unsupported(),)
        if kind in ("string", "bytes"):
            return (String(column),)
        return _number(type_, column)


def _number(type_: Type, column: str) -> Program:
    if type_.kind in ("int", "long"):
        scale = timestamp_scale(type_) if column.endswith("_at_us") else (1, 1)
        return (Integer(column, *scale),)
    size = _WIDTHS[type_.kind]
    return (FixedWidth(size, ((0, size, column),)),)


def _score(type_: Type, column: str) -> Program:
    """Compile the steps that store an attribute's value. They need not move past it: another program skips it."""
    if type_.kind == "null":
        return ()
    if type_.kind in accepted_kinds(FLOAT_FIELDS[0]):
        return _number(type_, column)
    return (SetNaN(column),)


def _joined(steps: Program) -> Program:
    """Merge adjacent steps of constant width, and remove those of no width."""
    joined: list[Step] = []
    for step in steps:
        last = joined[-1] if joined else None
        if isinstance(step, FixedWidth) and isinstance(last, FixedWidth):
            reads = tuple((last.width + offset, size, column) for offset, size, column in step.reads)
            step = joined[-1] = FixedWidth(last.width + step.width, last.reads + reads)
        elif step != FixedWidth(0):
            joined.append(step)
        if isinstance(step, FixedWidth) and step.width > MAX_WIDTH:
            raise _NotColumnar
    return tuple(joined)
