"""Resolution: a writer schema as a typed tree, and which of its fields feed which columns of a span.

A writer's field feeds the span's field of the same name, else the one that has its name as an alias in
`schemas/span.avsc`. Type rules (Avro 1.12, "Schema Resolution", widened where nothing can be misread): int columns take
int and long; float columns take int, long, float and double; strings take string, bytes and an enum's symbol; status
takes an enum or a string by symbol. Any of these may stand in a union; null is absent. What a schema alone shows to
be impossible is refused here, once; what depends on the datum is left to the decoders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Final, Literal

import fastavro
from fastavro.schema import SchemaParseException, UnknownType

from tokentrace.decode.schemas.files import bundled_schema
from tokentrace.errors import SchemaError
from tokentrace.model.spans import FLOAT_FIELDS, IDENTITY_FIELDS, INT_FIELDS, STRING_FIELDS

PRIMITIVES: Final = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})

Kind = Literal[
    "null", "boolean", "int", "long", "float", "double", "bytes", "string",
    "fixed", "enum", "array", "map", "union", "record",
]  # fmt: skip

#: Microseconds a unit of each timestamp logical type, as (multiply, divide).
TIMESTAMP_UNITS: Final[dict[str, tuple[int, int]]] = {
    f"{prefix}timestamp-{unit}": scale
    for prefix in ("", "local-")
    for unit, scale in (("millis", (1000, 1)), ("micros", (1, 1)), ("nanos", (1, 1000)))
}

#: Column type -> kinds of writer types that can feed it.
ACCEPTED: Final[dict[str, frozenset[str]]] = {
    "int": frozenset({"int", "long"}),
    "float": frozenset({"int", "long", "float", "double"}),
    "string": frozenset({"string", "bytes", "enum"}),
    "status": frozenset({"string", "bytes", "enum"}),
}

#: Types that a schema may come to when its named types are written out. Records of records double with each level.
MAX_NODES: Final = 100_000


@dataclass(frozen=True, eq=False, slots=True)
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
    fields: tuple[tuple[str, Type], ...] = ()

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
    feeds: Mapping[str, str]
    recursive: bool
    unbounded: bool


def resolve(schema: Any, identity: bool = True) -> Resolution:
    """Resolve a writer schema (parsed JSON). identity: whether trace and span ids are wanted.

    Raises SchemaError("schema_unusable").
    """
    parse(schema)
    try:
        root = _TypeReader().read(schema, "")
        recursive, unbounded = _hazards(root)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise _invalid(error) from error
    if root.kind != "record":
        raise _unusable(f"its top level is {_article(root.kind)}, not a record")
    return Resolution(root, MappingProxyType(_feeds(root, identity)), recursive, unbounded)


def parse(schema: Any) -> Any:
    """The schema as fastavro reads data with it, logical types removed. Raises SchemaError("schema_unusable").

    Plain numbers and bytes are wanted; by their logical types fastavro would make dates and decimals of them.
    """
    try:
        return fastavro.parse_schema(_plain(schema))
    except (
        SchemaParseException,
        UnknownType,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        RecursionError,
    ) as error:
        raise _invalid(error) from error


def accepted_kinds(column: str) -> frozenset[str]:
    """Kinds of writer types that can feed a column of SpanColumns."""
    if column == "status":
        return ACCEPTED["status"]
    if column in STRING_FIELDS:
        return ACCEPTED["string"]
    return ACCEPTED["float" if column in FLOAT_FIELDS else "int"]


def wanted_kinds(column: str) -> str:
    """`accepted_kinds` in words, for messages."""
    return " or ".join(sorted(accepted_kinds(column)))


def timestamp_scale(type_: Type) -> tuple[int, int]:
    """(multiply, divide) that turn an int or long of this type, no union, into microseconds.

    Division rounds down; a product outside int64 becomes the nearest int64.
    """
    return TIMESTAMP_UNITS.get(type_.logical, (1, 1))


def children(type_: Type) -> tuple[Type, ...]:
    """The types directly inside a type."""
    inside = (*type_.branches, *(inner for _, inner in type_.fields))
    return (*inside, type_.items) if type_.items is not None else inside


def _feeds(root: Type, identity: bool) -> dict[str, str]:
    """Writer field name -> column. A field of the span's own name goes before one that only has its alias."""
    named, aliased = _columns()
    feeds: dict[str, str] = {}
    for name, type_ in root.fields:
        column = named.get(name)
        if column is None and (column := aliased.get(name)) is not None:
            others = [other for other, _ in root.fields if other != name]
            if any(named.get(other) == column for other in others):
                continue
            if any(aliased.get(other) == column for other in others):
                raise _unusable(f"more than one field is an alias of {column}")
        if column in IDENTITY_FIELDS and not identity:
            continue
        if column is not None and _can_feed(name, column, type_):
            feeds[name] = column
    return feeds


def _can_feed(name: str, column: str, type_: Type) -> bool:
    """Whether a field ever gives its column a value. Raises SchemaError where it only has values of other types."""
    kinds = {option.kind for option in type_.options()}
    if column == "attributes":
        return "map" in kinds
    if kinds & accepted_kinds(column):
        return True
    # A trace id in another form than text is passed over, and spans are known by their span ids.
    if kinds == {"null"} or column == "trace_id":
        return False
    raise _unusable(f"field {name!r} is {_describe(type_)}; {column} takes {wanted_kinds(column)}")


@cache
def _columns() -> tuple[dict[str, str], dict[str, str]]:
    """Field name -> column, and alias -> column, of the span's fields that tokentrace reads."""
    columns = {*STRING_FIELDS, *INT_FIELDS, *FLOAT_FIELDS, "status", "attributes"}
    named, aliased = {}, {}
    for field in bundled_schema("span")["fields"]:
        column = {"started_at": "started_at_us", "ended_at": "ended_at_us"}.get(field["name"], field["name"])
        if column in columns:
            named[field["name"]] = column
            aliased.update(dict.fromkeys(field.get("aliases", ()), column))
    return named, aliased


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
        if kind in PRIMITIVES:
            return Type(kind, logical=str(schema.get("logicalType", "")))  # type: ignore[arg-type]
        if kind == "array":
            return Type("array", items=self.read(schema["items"], namespace))
        if kind == "map":
            return Type("map", items=self.read(schema["values"], namespace))
        return self._read_named(kind, schema, namespace)

    def _read_named(self, kind: str, schema: Any, namespace: str) -> Type:
        name = schema["name"]
        if "." in name:
            namespace = name.rpartition(".")[0]
        else:
            namespace = schema.get("namespace", namespace) or ""
            name = f"{namespace}.{name}" if namespace else name
        if name in self._named:
            raise ValueError(f"type {name} is defined twice")
        if kind == "fixed":
            size = schema["size"]
            if not isinstance(size, int) or size < 0:
                raise ValueError(f"fixed type {name} has the size {size!r}")
            type_ = Type("fixed", size=size)
        elif kind == "enum":
            type_ = Type("enum", symbols=tuple(schema["symbols"]))
        else:
            type_ = Type("record")
        self._named[name] = type_
        if type_.kind == "record":
            fields = tuple((each["name"], self.read(each["type"], namespace)) for each in schema["fields"])
            if len(dict(fields)) < len(fields):
                raise ValueError(f"record {name} has two fields of one name")
            # The fields may hold the record itself, so it must exist before they do.
            object.__setattr__(type_, "fields", fields)
        return type_


def _plain(schema: Any) -> Any:
    """A copy without logical types, and without a `type` that only wraps another."""
    if isinstance(schema, list):
        return [_plain(branch) for branch in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: value for key, value in schema.items() if key != "logicalType"}
    if "name" not in plain and isinstance(plain.get("type"), (dict, list)):
        return _plain(plain["type"])
    for key in ("type", "items", "values"):
        if key in plain:
            plain[key] = _plain(plain[key])
    if isinstance(plain.get("fields"), list):
        plain["fields"] = [_plain(field) for field in plain["fields"]]
    return plain


def _hazards(root: Type) -> tuple[bool, bool]:
    """Whether any type contains itself, and whether an array's items may be zero bytes wide."""
    recursive = unbounded = False
    path: set[int] = set()
    done: dict[int, tuple[int, bool]] = {}

    def visit(type_: Type) -> tuple[int, bool]:
        """The nodes in a type written out, and whether a datum of it may take no bytes."""
        nonlocal recursive, unbounded
        if id(type_) in path:
            recursive = True
            return 0, True
        if id(type_) not in done:
            path.add(id(type_))
            inside = [visit(child) for child in children(type_)]
            path.discard(id(type_))
            nodes = 1 + sum(count for count, _ in inside)
            if nodes > MAX_NODES:
                raise ValueError(f"its types come to more than {MAX_NODES} when written out")
            width_less = type_.kind == "null" or (type_.kind == "fixed" and type_.size == 0)
            empty = width_less or (type_.kind == "record" and all(may_be_empty for _, may_be_empty in inside))
            unbounded |= type_.kind == "array" and inside[0][1]
            done[id(type_)] = nodes, empty
        return done[id(type_)]

    visit(root)
    return recursive, unbounded


def _unusable(why: str) -> SchemaError:
    return SchemaError("schema_unusable", f"The writer schema cannot be read as a span: {why}.")


def _invalid(error: Exception) -> SchemaError:
    return _unusable(f"it is no valid Avro schema ({type(error).__name__}: {error})")


def _describe(type_: Type) -> str:
    if type_.kind == "union":
        return "a union of " + ", ".join(branch.kind for branch in type_.branches)
    return _article(type_.kind)


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiu' else 'a'} {kind}"
