"""Schema references: several registered schemas made into one that stands alone.

A registered schema may name types that other subjects define. Avro itself knows no references, so the first mention
of such a type is replaced by its definition, and later mentions find it by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NAMED = ("record", "error", "enum", "fixed")


def inline(schema: Any, references: Mapping[str, Any]) -> Any:
    """A copy of `schema` (parsed JSON) with the definitions put in. references: full type name -> its schema."""
    return _inline(schema, "", references, set())


def _inline(schema: Any, namespace: str, references: Mapping[str, Any], done: set[str]) -> Any:
    if isinstance(schema, list):
        return [_inline(branch, namespace, references, done) for branch in schema]
    if isinstance(schema, str):
        name = schema if "." in schema or not namespace else f"{namespace}.{schema}"
        if name not in references or name in done:
            return schema
        done.add(name)
        return _rooted(_inline(references[name], "", references, done))
    if not isinstance(schema, dict):
        return schema
    inlined = dict(schema)
    if inlined.get("type") in _NAMED and isinstance(full_name := inlined.get("name"), str):
        namespace = full_name.rpartition(".")[0] if "." in full_name else str(inlined.get("namespace", namespace) or "")
    for key in ("type", "items", "values"):
        if key in inlined:
            inlined[key] = _inline(inlined[key], namespace, references, done)
    if isinstance(inlined.get("fields"), list):
        inlined["fields"] = [_inline(field, namespace, references, done) for field in inlined["fields"]]
    return inlined


def _rooted(schema: Any) -> Any:
    """A definition without a namespace says so, or it would take on that of the schema that it is put into."""
    if isinstance(schema, dict) and schema.get("type") in _NAMED and "." not in schema["name"]:
        return {"namespace": "", **schema}
    return schema
