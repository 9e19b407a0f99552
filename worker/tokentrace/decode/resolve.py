"""Resolution: a writer schema as a typed tree, and which of its fields feed which columns of a span.

A writer's field feeds a span's field of the same name, or of one of its aliases in `schemas/span.avsc`. Type rules
(Avro 1.12, "Schema Resolution", widened where nothing can be misread): int columns take int and long; float columns
take int, long, float and double; strings take string, bytes and an enum's symbol; status takes an enum or a string by
symbol. Any of these may stand in a union; null is absent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, Literal

from ..errors import SchemaError
from ..schemas.files import bundled_schema
from ..spans import FLOAT_FIELDS, STRING_FIELDS

PRIMITIVES: Final = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})

Kind = Literal[
    "null", "boolean", "int", "long", "float", "double", "bytes", "string", "fixed", "enum", "array", "map", "union", "record"
]  # fmt: skip

#: Microseconds a unit of each timestamp logical type, as (multiply, divide).
TIMESTAMP_UNITS: Final[dict[str, tuple[int, int]]] = {
    f"{prefix}timestamp-{unit}": scale
    for prefix in ("", "local-")
    for unit, scale in (("millis", (1000, 1)), ("micros", (1, 1)), ("nanos", (1, 1000)))
}

#: Column -> kinds of writer types that can feed it.
ACCEPTED: Final[dict[str, frozenset[str]]] = {
    "int": frozenset({"int", "long"}),
    "float": frozenset({"int", "long", "float", "double"}),
    "string": frozenset({"string", "bytes", "enum"}),
    "status": frozenset({"string", "bytes", "enum"}),
}


@dataclass(eq=False, slots=True)
class Type:
    """One node of a writer schema. Named types that recur are the same object, so that a tree may have cycles.

    size: of a fixed. symbols: of an enum. items: of an array, or a map's values. branches: of a union.
    fields: of a record, in writing order. logical: the logical type, where there is one.
    """

    kind: Kind
    logical: str = ""
    size: int = 0
    symbols: tuple[str, ...] = ()
    items: Type | None = None
    branches: tuple[Type, ...] = ()
    fields: list[tuple[str, Type]] = field(default_factory=list)

    def options(self) -> tuple[Type, ...]:
        """The branches of a union, or the type itself."""
        return self.branches if self.kind == "union" else (self,)


@dataclass(frozen=True, slots=True)
class Resolution:
    """A writer schema that can be read as spans.

    root: the record. feeds: writer field name -> column of SpanColumns (`attributes` feeds eval_score).
    recursive: some type contains itself. unbounded: an array's items may take no bytes at all.
    """

    root: Type
    feeds: dict[str, str]
    recursive: bool
    unbounded: bool


def resolve(schema: Any) -> Resolution:
    """Resolve a writer schema (parsed JSON). Raises SchemaError("schema_unusable")."""
    try:
        root = _TypeReader().read(schema, "")
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise _unusable(f"it is no valid Avro schema ({error})") from error
    if root.kind != "record":
        raise _unusable(f"its top level is {_article(root.kind)}, not a record")
    feeds: dict[str, str] = {}
    sources: dict[str, str] = {}
    for name, type_ in root.fields:
        column = _columns().get(name)
        if column is None:
            continue
        if column in sources:
            raise _unusable(f"both {sources[column]!r} and {name!r} would feed {column}")
        if column == "attributes":
            if not any(option.kind == "map" for option in type_.options()):
                continue
        elif not any(option.kind in accepted_kinds(column) for option in type_.options()):
            wanted = " or ".join(sorted(accepted_kinds(column)))
            raise _unusable(f"field {name!r} is {_describe(type_)}; {column} takes {wanted}")
        sources[column] = name
        feeds[name] = column
    recursive, unbounded = _hazards(root)
    return Resolution(root, feeds, recursive, unbounded)


def accepted_kinds(column: str) -> frozenset[str]:
    """Kinds of writer types that can feed a column of SpanColumns."""
    if column == "status":
        return ACCEPTED["status"]
    if column in STRING_FIELDS:
        return ACCEPTED["string"]
    return ACCEPTED["float" if column in FLOAT_FIELDS else "int"]


def timestamp_scale(type_: Type) -> tuple[int, int]:
    """(multiply, divide) that turn a long of this type, or of a union's long branch, into microseconds."""
    for option in type_.options():
        if option.kind == "long":
            return TIMESTAMP_UNITS.get(option.logical, (1, 1))
    return (1, 1)


@cache
def _columns() -> dict[str, str]:
    """Writer field name or alias -> column."""
    columns = {}
    wanted = {"started_at": "started_at_us", "ended_at": "ended_at_us", "attributes": "attributes", "status": "status"}
    for each in bundled_schema("span")["fields"]:
        name = each["name"]
        column = wanted.get(name, name)
        if column in wanted.values() or column in _EXTRACTED:
            for alias in (name, *each.get("aliases", ())):
                columns[alias] = column
    return columns


_EXTRACTED: Final = frozenset(
    {
        *STRING_FIELDS, *FLOAT_FIELDS,
        "prompt_tokens", "completion_tokens", "total_tokens", "cached_prompt_tokens", "reasoning_tokens",
    }
)  # fmt: skip


class _TypeReader:
    """Reads schema JSON; knows the named types met so far, by full name."""

    def __init__(self) -> None:
        self._named: dict[str, Type] = {}

    def read(self, schema: Any, namespace: str) -> Type:
        if isinstance(schema, str):
            if schema in PRIMITIVES:
                return Type(schema)  # type: ignore[arg-type]
            return self._named[schema if "." in schema or not namespace else f"{namespace}.{schema}"]
        if isinstance(schema, list):
            branches = tuple(self.read(branch, namespace) for branch in schema)
            if not branches or any(branch.kind == "union" for branch in branches):
                raise ValueError("a union is empty or holds a union")
            return Type("union", branches=branches)
        kind = schema["type"]
        if not isinstance(kind, str) or kind not in {*PRIMITIVES, "fixed", "enum", "array", "map", "record", "error"}:
            return self.read(kind, namespace)
        logical = schema.get("logicalType", "")
        if kind in PRIMITIVES:
            return Type(kind, logical=logical)  # type: ignore[arg-type]
        if kind == "array":
            return Type("array", items=self.read(schema["items"], namespace))
        if kind == "map":
            return Type("map", items=self.read(schema["values"], namespace))
        return self._read_named(kind, logical, schema, namespace)

    def _read_named(self, kind: str, logical: str, schema: Any, namespace: str) -> Type:
        name = schema["name"]
        if "." in name:
            namespace = name.rpartition(".")[0]
        else:
            namespace = schema.get("namespace", namespace) or ""
            name = f"{namespace}.{name}" if namespace else name
        if name in self._named:
            raise ValueError(f"type {name} is defined twice")
        if kind == "fixed":
            type_ = Type("fixed", logical=logical, size=int(schema["size"]))
        elif kind == "enum":
            type_ = Type("enum", symbols=tuple(schema["symbols"]))
        else:
            type_ = Type("record")
        self._named[name] = type_
        if type_.kind == "record":
            for each in schema["fields"]:
                type_.fields.append((each["name"], self.read(each["type"], namespace)))
        return type_


def children(type_: Type) -> tuple[Type, ...]:
    """The types directly inside a type."""
    inside = (*type_.branches, *(inner for _, inner in type_.fields))
    return (*inside, type_.items) if type_.items is not None else inside


def _hazards(root: Type) -> tuple[bool, bool]:
    """Whether any type contains itself, and whether an array's items may be zero bytes wide."""
    recursive = unbounded = False
    done: set[int] = set()
    path: set[int] = set()
    stack: list[tuple[Type, bool]] = [(root, False)]
    while stack:
        type_, leaving = stack.pop()
        if leaving:
            path.discard(id(type_))
            continue
        if id(type_) in path:
            recursive = True
            continue
        if id(type_) in done:
            continue
        done.add(id(type_))
        path.add(id(type_))
        stack.append((type_, True))
        if type_.kind == "array" and type_.items is not None and _may_be_empty(type_.items, frozenset()):
            unbounded = True
        stack.extend((child, False) for child in children(type_))
    return recursive, unbounded


def _may_be_empty(type_: Type, inside: frozenset[int]) -> bool:
    """Whether a datum of this type can take no bytes. (A record within itself always has something to end it.)"""
    if type_.kind == "record":
        if id(type_) in inside:
            return True
        return all(_may_be_empty(inner, inside | {id(type_)}) for _, inner in type_.fields)
    return type_.kind == "null" or (type_.kind == "fixed" and type_.size == 0)


def _unusable(why: str) -> SchemaError:
    return SchemaError("schema_unusable", f"The writer schema cannot be read as a span: {why}.")


def _describe(type_: Type) -> str:
    if type_.kind == "union":
        return "a union of " + ", ".join(branch.kind for branch in type_.branches)
    return _article(type_.kind)


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiu' else 'a'} {kind}"
