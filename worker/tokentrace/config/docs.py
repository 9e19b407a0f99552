"""Configuration reference, generated from the models: the JSON Schema, and the table in `docs/configuration.md`."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from tokentrace.config.models import Config
from tokentrace.config.section import Section


def json_schema() -> str:
    """Return the JSON Schema of tokentrace.yml, as text with a final line feed."""
    schema = Config.model_json_schema(mode="validation")
    keys_of = {name: section.get("properties", {}) for name, section in {"Config": schema, **schema["$defs"]}.items()}
    for model in _subclasses(Section):
        if (keys := keys_of.get(model.__name__)) is not None:
            for name, text in _docstrings(model).items():
                keys[model.model_fields[name].alias or name]["description"] = text
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "tokentrace.yml"}
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def markdown_table() -> str:
    """Return every key with its default and meaning, as a Markdown table."""
    rows = ["| key | default | meaning |", "|---|---|---|"]
    rows += [f"| `{key}` | {default} | {meaning} |" for key, default, meaning in _keys(Config, "")]
    return "\n".join(rows) + "\n"


def _keys(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        sections = list(_sections(field.annotation))
        for inner, suffix in sections:
            yield from _keys(inner, f"{key}{suffix}.")
        if sections:
            continue
        meaning = field.description or _docstrings(model).get(name, "")
        yield key, _default(model, name), meaning.replace("|", "\\|")


def _subclasses(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for subclass in model.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


@cache
def _docstrings(model: type[BaseModel]) -> Mapping[str, str]:
    """Return key -> the docstring under it, in the model or in one that it inherits from."""
    found: dict[str, str] = {}
    for one in reversed(model.__mro__):
        if issubclass(one, Section):
            found |= _own_docstrings(one)
    return found


def _own_docstrings(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    try:
        source = textwrap.dedent(inspect.getsource(model))
    except OSError:  # a model that was made by a call
        return
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    for key, text in pairwise(definition.body):
        match key, text:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str() as docstring)):
                yield name, inspect.cleandoc(docstring)


def _sections(annotation: Any) -> Iterator[tuple[type[BaseModel], str]]:
    """Yield `_section` of a key's value, or of each form that it can have."""
    inner, suffix = _section(annotation)
    if inner is not None:
        yield inner, suffix
        return
    for form in get_args(annotation):
        inner, suffix = _section(get_args(form)[0]) if get_origin(form) is Annotated else (None, "")
        if inner is not None:
            yield inner, suffix


def _section(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """Return (the model of a key's value, the suffix of its entries: `[]` of a list, `.<name>` of a mapping)."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    arguments = get_args(annotation)
    for argument in arguments:
        if isinstance(argument, type) and issubclass(argument, BaseModel):
            if Ellipsis in arguments:
                return argument, "[]"
            return argument, ".<name>" if str in arguments else ""
    return None, ""


def _default(model: type[BaseModel], name: str) -> str:
    field = model.model_fields[name]
    if field.default_factory is not None:
        return "host name"
    if field.is_required():
        return "required"
    if field.default is None or field.default == "":
        return "unset"
    value = field.default
    for metadata in field.metadata:
        if hasattr(metadata, "func") and type(metadata).__name__ == "PlainSerializer":
            value = metadata.func(value)
    if isinstance(value, tuple):
        value = ", ".join(f"{item:g}" if isinstance(item, float) else str(item) for item in value) or "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value or 'none'}`"
