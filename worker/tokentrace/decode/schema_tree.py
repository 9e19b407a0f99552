"""Schema tree: turns an Avro writer schema into typed nodes, and into the parsed form that fastavro reads with.

Either form fails for the same schemas, with SchemaError("schema_unusable").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import fastavro
from fastavro.schema import SchemaParseException, UnknownType

from tokentrace.decode.decimals import decimal_scale
from tokentrace.errors import SchemaError

PRIMITIVES: Final = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})

Kind = Literal[
    "null", "boolean", "int", "long", "float", "double", "bytes", "string",
    "fixed", "enum", "array", "map", "union", "record",
]  # fmt: skip

#: Most types in a schema with its named types expanded. Nested records can double the number at every level.
MAX_NODES: Final = 100_000


@dataclass(frozen=True, eq=False, slots=True)
class Type:
    """Node of a writer schema. Every use of a named type is the same object, so a tree may have cycles.

    size: of a fixed, in bytes. symbols: of an enum. items: of an array, or a map's values. branches: of a union.
    fields: of a record, in writing order. logical: the logical type, or "". scale: of a decimal, bytes or fixed.
    name: the full name of a record, fixed or enum.
    """

    kind: Kind
    logical: str = ""
    size: int = 0
    symbols: tuple[str, ...] = ()
    items: Type | None = None
    branches: tuple[Type, ...] = ()
    fields: tuple[tuple[str, Type], ...] = ()
    scale: int | None = None
    name: str = ""

    def options(self) -> tuple[Type, ...]:
        """Return the branches of a union, or the type itself."""
        return self.branches if self.kind == "union" else (self,)


@dataclass(frozen=True, slots=True)
class SchemaTree:
    """A valid writer schema.

    recursive: some type contains itself. unbounded: the items of some array may take no bytes.
    """

    root: Type
    recursive: bool
    unbounded: bool


def read_tree(schema: Any) -> SchemaTree:
    """Read a schema (parsed JSON) into a tree. Raises SchemaError("schema_unusable")."""
    parse_schema(schema)
    try:
        root = _TypeReader().read(schema, "")
        return SchemaTree(root, *_find_hazards(root))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise _invalid(error) from error


def parse_schema(schema: Any) -> Any:
    """Parse a schema for fastavro, without its logical types. Raises SchemaError("schema_unusable").

    The decoders need plain numbers and bytes; fastavro would turn logical types into dates and decimals.
    """
    try:
        return fastavro.parse_schema(_without_logical_types(schema))
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


def children(type_: Type) -> tuple[Type, ...]:
    """Return the types directly inside a type."""
    inside = (*type_.branches, *(inner for _, inner in type_.fields))
    return (*inside, type_.items) if type_.items is not None else inside


class _TypeReader:
    """Reads schema JSON, and keeps the named types read so far by full name."""

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
            logical, scale = str(schema.get("logicalType", "")), decimal_scale(schema) if kind == "bytes" else None
            return Type(kind, logical=logical, scale=scale)  # type: ignore[arg-type]
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
            type_ = Type("fixed", size=size, scale=decimal_scale(schema), name=name)
        elif kind == "enum":
            type_ = Type("enum", symbols=tuple(schema["symbols"]), name=name)
        else:
            type_ = Type("record", name=name)
        self._named[name] = type_
        if type_.kind == "record":
            fields = tuple((field["name"], self.read(field["type"], namespace)) for field in schema["fields"])
            if len(dict(fields)) < len(fields):
                raise ValueError(f"record {name} has two fields with the same name")
            # A field may contain the record itself, so the record must exist before its fields.
            object.__setattr__(type_, "fields", fields)
        return type_


def _without_logical_types(schema: Any) -> Any:
    """Return a copy without logical types, and without a `type` that only wraps another type."""
    if isinstance(schema, list):
        return [_without_logical_types(branch) for branch in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: value for key, value in schema.items() if key != "logicalType"}
    if "name" not in plain and isinstance(plain.get("type"), (dict, list)):
        return _without_logical_types(plain["type"])
    for key in ("type", "items", "values"):
        if key in plain:
            plain[key] = _without_logical_types(plain[key])
    if isinstance(plain.get("fields"), list):
        plain["fields"] = [_without_logical_types(field) for field in plain["fields"]]
    return plain


def _find_hazards(root: Type) -> tuple[bool, bool]:
    """Return (some type contains itself, the items of some array may take no bytes). Raises ValueError for size."""
    recursive = unbounded = False
    path: set[int] = set()
    done: dict[int, tuple[int, bool]] = {}

    def visit(type_: Type) -> tuple[int, bool]:
        """Return (the nodes in the expanded type, its datum may take no bytes)."""
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
                raise ValueError(f"the schema expands to more than {MAX_NODES} types")
            zero_width = type_.kind == "null" or (type_.kind == "fixed" and type_.size == 0)
            empty = zero_width or (type_.kind == "record" and all(may_be_empty for _, may_be_empty in inside))
            unbounded |= type_.kind == "array" and inside[0][1]
            done[id(type_)] = nodes, empty
        return done[id(type_)]

    visit(root)
    return recursive, unbounded


def unusable(why: str) -> SchemaError:
    """Return the error for a schema that cannot be read as a span."""
    return SchemaError("schema_unusable", f"The writer schema cannot be read as a span: {why}.")


def _invalid(error: Exception) -> SchemaError:
    return unusable(f"it is not a valid Avro schema ({type(error).__name__}: {error})")
