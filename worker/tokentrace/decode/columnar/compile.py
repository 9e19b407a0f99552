"""Plan: a resolved writer schema becomes the steps that decode its messages in lockstep.

Records are written out, fields that nothing wants are only passed over, and neighbours of constant width become one
step. A schema that contains itself, or whose arrays may hold items of no bytes at all, has no such form.
"""

from __future__ import annotations

from typing import Final

from tokentrace.decode.columnar.steps import (
    Absent,
    Choice,
    Fixed,
    Integer,
    NotANumber,
    Refuse,
    Repeat,
    Step,
    Steps,
    Symbol,
    Text,
)
from tokentrace.decode.resolve import Resolution, Type, accepted_kinds, children, timestamp_scale
from tokentrace.model.spans import FLOAT_FIELDS

#: Types within types; a step calls the steps inside it. The reference allows more (walk.MAX_DEPTH).
MAX_DEPTH: Final = 50

#: Bytes of constant width; a datum of more cannot be (a Kafka message has less), and sums of them stay in 64 bits.
MAX_WIDTH: Final = 1 << 31

_WIDTHS: Final = {"null": 0, "boolean": 1, "float": 4, "double": 8}


class _NoPlan(Exception):
    """The schema has no column form."""


def plan(resolution: Resolution) -> Steps | None:
    """The steps over a whole datum, or None for a schema that has no column form."""
    if resolution.recursive or resolution.unbounded:
        return None
    planner = _Planner()
    steps: Steps = ()
    try:
        if _height(resolution.root, {}) > MAX_DEPTH:
            return None
        for name, type_ in resolution.root.fields:
            column = resolution.feeds.get(name)
            steps += planner.skip(type_) if column is None else planner.extract(type_, column)
        return _joined(steps)
    except (_NoPlan, RecursionError):
        return None


def _height(type_: Type, known: dict[int, int]) -> int:
    """Levels of types within a type, itself included."""
    if id(type_) not in known:
        known[id(type_)] = 1 + max((_height(each, known) for each in children(type_)), default=0)
    return known[id(type_)]


class _Planner:
    """Plans types; a named type that recurs is planned once."""

    def __init__(self) -> None:
        self._skips: dict[int, Steps] = {}

    def skip(self, type_: Type) -> Steps:
        """Steps over a value that nothing wants."""
        steps = self._skips.get(id(type_))
        if steps is None:
            steps = self._skips[id(type_)] = self._skip(type_)
        return steps

    def _skip(self, type_: Type) -> Steps:
        kind = type_.kind
        if kind in ("int", "long"):
            return (Integer(),)
        if kind in ("string", "bytes"):
            return (Text(),)
        if kind == "enum":
            return (Symbol(type_.symbols),) if type_.symbols else (Refuse(),)
        if kind == "union":
            return (Choice(tuple(self.skip(branch) for branch in type_.branches)),)
        if kind == "record":
            return _joined(tuple(step for _, inner in type_.fields for step in self.skip(inner)))
        if type_.items is not None:
            return (Repeat(self.skip(type_.items), keyed=kind == "map"),)
        return _joined((Fixed(type_.size if kind == "fixed" else _WIDTHS[kind]),))

    def extract(self, type_: Type, column: str) -> Steps:
        """Steps that store a field's value in a column; a null, or a branch that feeds nothing, leaves it absent."""
        if column == "attributes":
            column, inside = "eval_score", self._attributes
        else:
            inside = self._value
        if type_.kind == "union":
            return (Absent(column), Choice(tuple(inside(branch, column) for branch in type_.branches)))
        if column == "eval_score":
            return (Absent(column), *inside(type_, column))
        return inside(type_, column)

    def _attributes(self, type_: Type, column: str) -> Steps:
        if type_.kind != "map" or type_.items is None:
            return self.skip(type_)
        score = _score(type_.items, column)
        if type_.items.kind == "union":
            score = (Absent(column), Choice(tuple(_score(branch, column) for branch in type_.items.branches)))
        return (Repeat(self.skip(type_.items), keyed=True, score=score),)

    def _value(self, type_: Type, column: str) -> Steps:
        kind = type_.kind
        if kind == "null":
            return ()
        if kind not in accepted_kinds(column):
            return (Refuse(),)
        if kind == "enum":
            return (Symbol(type_.symbols, column),) if type_.symbols else (Refuse(),)
        if kind in ("string", "bytes"):
            return (Text(column),)
        return _number(type_, column)


def _number(type_: Type, column: str) -> Steps:
    if type_.kind in ("int", "long"):
        scale = timestamp_scale(type_) if column.endswith("_at_us") else (1, 1)
        return (Integer(column, *scale),)
    size = _WIDTHS[type_.kind]
    return (Fixed(size, ((0, size, column),)),)


def _score(type_: Type, column: str) -> Steps:
    """Steps that store an attribute's value; they end anywhere, since the value is passed over besides."""
    if type_.kind == "null":
        return ()
    if type_.kind in accepted_kinds(FLOAT_FIELDS[0]):
        return _number(type_, column)
    return (NotANumber(column),)


def _joined(steps: Steps) -> Steps:
    """The same steps, with neighbours of constant width as one, and none of no width."""
    joined: list[Step] = []
    for step in steps:
        last = joined[-1] if joined else None
        if isinstance(step, Fixed) and isinstance(last, Fixed):
            reads = tuple((last.width + offset, size, column) for offset, size, column in step.reads)
            step = joined[-1] = Fixed(last.width + step.width, last.reads + reads)
        elif step != Fixed(0):
            joined.append(step)
        if isinstance(step, Fixed) and step.width > MAX_WIDTH:
            raise _NoPlan
    return tuple(joined)
