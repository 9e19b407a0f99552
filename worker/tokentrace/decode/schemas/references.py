"""Schema references: merges a registered schema and the schemas that it refers to into one self-contained schema.

A registered schema may use types that other subjects define. Avro itself has no references. The first use of such a
type is therefore replaced by its definition; later uses refer to it by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NAMED = ("record", "error", "enum", "fixed")


def inline(schema: Any, references: Mapping[str, Any]) -> Any:
    """Return a copy of `schema` (parsed JSON) with inlined definitions. references: full type name -> schema."""
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
    """Give a definition without a namespace an empty one, so that it does not inherit the enclosing namespace."""
    if isinstance(schema, dict) and schema.get("type") in _NAMED and "." not in schema["name"]:
        return {"namespace": "", **schema}
    return schema
