"""Schema resolution: maps the fields of a writer schema to the columns of a span.

A writer's field fills the span's field of the same name, else the field that has its name as an alias in
`schemas/span.avsc`. Type rules (Avro 1.12, "Schema Resolution", widened where nothing can be misread): int columns take
int and long; float columns take int, long, float and double, and the cost takes a decimal too; strings take string,
bytes and an enum's symbol; status takes an enum or a string by symbol. Any of these may be a branch of a union; null
means absent. A schema that can never fill a column is rejected here, once. The decoders check what depends on the
datum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Final

from tokentrace.decode.schema_tree import SchemaTree, Type, read_tree, unusable
from tokentrace.errors import SchemaError
from tokentrace.model.bundled_schemas import bundled_schema
from tokentrace.model.spans import (
    FLOAT_FIELDS,
    IDENTITY_FIELDS,
    INCLUDES_CACHE,
    INT_FIELDS,
    MODIFIERS,
    OPTIONAL_FIELDS,
    STRING_FIELDS,
)

#: Timestamp logical type -> (multiply, divide) that turn its unit into microseconds.
TIMESTAMP_UNITS: Final[dict[str, tuple[int, int]]] = {
    f"{prefix}timestamp-{unit}": scale
    for prefix in ("", "local-")
    for unit, scale in (("millis", (1000, 1)), ("micros", (1, 1)), ("nanos", (1, 1000)))
}

#: Stands for all columns that the map of units fills.
USAGE: Final = "usage"

#: The column that takes decimals.
COST: Final = "cost_usd"

#: Column type -> kinds of writer types that can fill it.
ACCEPTED: Final[dict[str, frozenset[str]]] = {
    "int": frozenset({"int", "long"}),
    "float": frozenset({"int", "long", "float", "double"}),
    "string": frozenset({"string", "bytes", "enum"}),
    "flag": frozenset({"boolean"}),
    "status": frozenset({"string", "bytes", "enum"}),
}


@dataclass(frozen=True, slots=True)
class Resolution:
    """A writer schema that can be read as spans.

    root: the record. field_columns: writer field name -> column of SpanColumns (`attributes` fills eval_score, and
    `usage` the column of each unit in it).
    recursive, unbounded: see SchemaTree. texts: sources of dimensions to read, see `decode.texts`.
    """

    root: Type
    field_columns: Mapping[str, str]
    recursive: bool
    unbounded: bool
    texts: tuple[str, ...] = ()


#: A branch of a top-level union: how it is read, why it cannot be, or the name of one that is not a record with a
#: model, and so not a span.
Branch = Resolution | SchemaError | str


def resolve(schema: Any, identity: bool = True, texts: tuple[str, ...] = ()) -> Resolution:
    """Resolve a writer schema (parsed JSON). identity: read trace and span ids. texts: sources of dimensions.

    Raises SchemaError("schema_unusable").
    """
    tree = read_tree(schema)
    if tree.root.kind != "record":
        raise unusable(f"its top level is {_with_article(tree.root.kind)}, not a record")
    return _resolution(tree, tree.root, identity, texts)


def resolve_branches(schema: Any, identity: bool = True, texts: tuple[str, ...] = ()) -> list[Branch] | None:
    """Resolve the branches of a writer schema whose top level is a union; None if it is another schema.

    Arguments as of `resolve`. Raises SchemaError("schema_unusable") if no branch is a span.
    """
    tree = read_tree(schema)
    if tree.root.kind != "union":
        return None
    branches = [_branch(tree, type_, identity, texts) for type_ in tree.root.branches]
    if all(isinstance(branch, str) for branch in branches):
        raise unusable("its top level is a union in which no record has a model")
    return branches


def check_readable(schema: Any) -> None:
    """Check that a schema can be read as spans. Raises SchemaError("schema_unusable")."""
    branches = resolve_branches(schema)
    if branches is None:
        resolve(schema)
        return
    for branch in branches:
        if isinstance(branch, SchemaError):
            raise branch


def _branch(tree: SchemaTree, type_: Type, identity: bool, texts: tuple[str, ...]) -> Branch:
    named, aliased = _columns()
    columns = {named.get(name, aliased.get(name)) for name, _ in type_.fields}
    if "model" not in columns:
        return type_.name or type_.kind
    try:
        return _resolution(tree, type_, identity, texts)
    except SchemaError as error:
        return error


def _resolution(tree: SchemaTree, root: Type, identity: bool, texts: tuple[str, ...]) -> Resolution:
    field_columns = MappingProxyType(_field_columns(root, identity))
    return Resolution(root, field_columns, tree.recursive, tree.unbounded, texts)


def resolve_record(record: Type) -> Mapping[str, str]:
    """Map the fields of a record to columns, as in `Resolution`. Raises SchemaError("schema_unusable")."""
    return _field_columns(record, identity=True)


def field_names() -> Mapping[str, str]:
    """Map the fields of spans that are read to columns."""
    return _columns()[0]


def accepted_kinds(column: str) -> frozenset[str]:
    """Return the kinds of writer types that can fill a column of SpanColumns."""
    if column == "status":
        return ACCEPTED["status"]
    if column in STRING_FIELDS or column in MODIFIERS:
        return ACCEPTED["string"]
    if column == INCLUDES_CACHE:
        return ACCEPTED["flag"]
    return ACCEPTED["float" if column in FLOAT_FIELDS else "int"]


def accepts(column: str, type_: Type) -> bool:
    """Return whether a writer type that is not a union can fill a column of SpanColumns."""
    return type_.kind in accepted_kinds(column) or (column == COST and type_.scale is not None)


def accepted_in_words(column: str) -> str:
    """Return what `accepts` in words, for error messages."""
    return " or ".join(sorted({*accepted_kinds(column), *(["decimal"] if column == COST else [])}))


def timestamp_scale(type_: Type) -> tuple[int, int]:
    """Return (multiply, divide), which turn an int or long of this type (not a union) into microseconds.

    Division rounds down; a product outside int64 becomes the nearest int64.
    """
    return TIMESTAMP_UNITS.get(type_.logical, (1, 1))


def _field_columns(root: Type, identity: bool) -> dict[str, str]:
    """Map writer field names to columns. A field with the column's name has precedence over an alias."""
    named, aliased = _columns()
    field_columns: dict[str, str] = {}
    for name, type_ in root.fields:
        column = named.get(name)
        if column is None and (column := aliased.get(name)) is not None:
            others = [other for other, _ in root.fields if other != name]
            if any(named.get(other) == column for other in others):
                continue
            if any(aliased.get(other) == column for other in others):
                raise unusable(f"more than one field is an alias of {column}")
        if column in IDENTITY_FIELDS and not identity:
            continue
        if column is not None and _can_fill(name, column, type_):
            field_columns[name] = column
    return field_columns


def _can_fill(name: str, column: str, type_: Type) -> bool:
    """Tell whether a field can fill its column. Raises SchemaError if all its values have unsuitable types."""
    kinds = {option.kind for option in type_.options()}
    if column == "attributes":
        return "map" in kinds
    # Writers may have had a field of this name before the span had it: one of another type is not the span's.
    if column == USAGE:
        numbers = ACCEPTED["float"] | {"null"}
        maps = [option.items for option in type_.options() if option.items is not None]
        return kinds - {"null"} == {"map"} and all({item.kind for item in items.options()} <= numbers for items in maps)
    if column in OPTIONAL_FIELDS or column in MODIFIERS:
        return bool(kinds - {"null"}) and kinds - {"null"} <= accepted_kinds(column)
    if any(accepts(column, option) for option in type_.options()):
        return True
    # A trace id that is not text is ignored, because the span id identifies a span.
    if kinds == {"null"} or column == "trace_id":
        return False
    raise unusable(f"field {name!r} is {_describe(type_)}; {column} takes {accepted_in_words(column)}")


@cache
def _columns() -> tuple[dict[str, str], dict[str, str]]:
    """Return (field name -> column, alias -> column) of the span's fields that tokentrace reads."""
    columns = {*STRING_FIELDS, *INT_FIELDS, *FLOAT_FIELDS, *OPTIONAL_FIELDS, *MODIFIERS}
    columns |= {"status", "attributes", USAGE}
    named, aliased = {}, {}
    for field in bundled_schema("span")["fields"]:
        column = {"started_at": "started_at_us", "ended_at": "ended_at_us"}.get(field["name"], field["name"])
        if column in columns:
            named[field["name"]] = column
            aliased.update(dict.fromkeys(field.get("aliases", ()), column))
    return named, aliased


def _describe(type_: Type) -> str:
    if type_.kind == "union":
        return "a union of " + ", ".join(branch.kind for branch in type_.branches)
    return _with_article(type_.kind)


def _with_article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiu' else 'a'} {kind}"
