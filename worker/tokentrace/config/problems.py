"""Problems of a configuration file: each at its key and line, in the words of the documentation."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tokentrace.config.document import KeyPath, dotted
from tokentrace.config.hints import keys_meant, number_meant
from tokentrace.config.models import Config
from tokentrace.config.pricing import ModelRates
from tokentrace.model.secrets import hide_secrets

#: Most keys that the problem of an unknown key lists.
_LISTED_KEYS: Final = 16
#: Most characters of a wrong value that a problem quotes.
_QUOTED: Final = 60

#: Type of pydantic's error -> what the value must be. The names in braces are in the error's context.
_REQUIREMENTS: Final = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "more than {gt:,.15g}",
    "greater_than_equal": "at least {ge:,.15g}",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_type": "a whole number",
    "less_than": "less than {lt:,.15g}",
    "less_than_equal": "at most {le:,.15g}",
    "list_type": "a list",
    "model_type": "a section of keys",
    "path_type": "a path",
    "string_type": "text",
    "tuple_type": "a list",
}

#: Types of pydantic's errors where a section or a mapping is expected.
_SECTIONS: Final = frozenset({"model_type", "dict_type"})
#: Sections whose text would be a secret, or contain one.
_SECRETS: Final = frozenset({"auth", "headers", "properties"})
#: Section -> the key that alone makes one.
_MAIN_KEYS: Final = {"dimensions": "source", "delivery": "type", "schema_registry": "url", "ledger": "url"}
#: Keys of so many sections that one elsewhere says nothing.
_COMMON: Final = frozenset({"enabled", "url", "timeout", "ca", "key", "certificate", "window", "by", "tls", "auth"})

#: Signs of other languages -> the value of `op`.
_SIGNS: Final = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. path: the key, empty for the whole file. line: from 1, None if it has none."""

    path: KeyPath
    what: str
    line: int | None = None

    def text(self, file: Path) -> str:
        """Return `path.to.key: what is wrong (line N)`."""
        line = "" if self.line is None else f" (line {self.line})"
        return f"{dotted(self.path) or file}: {self.what}{line}"


def field_at(path: KeyPath) -> FieldInfo | None:
    """Return the field of the configuration's model at a path, None for an entry of a list or a mapping."""
    models: list[type[BaseModel]] = [Config]
    field: FieldInfo | None = None
    for part in path:
        fields = _named(models, part)
        field = fields[0] if fields else None
        models = [inner for field in fields for inner in _models_in(field.annotation)] if fields else models
    return field


def describe(path: KeyPath, error: Any) -> str:
    """Return what is wrong, from an entry of pydantic's `ValidationError.errors()`."""
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    if kind == "extra_forbidden":
        return _unknown(path, value)
    if kind == "missing":
        return "is required"
    if kind == "string_too_short":
        return "must not be empty"
    if kind == "literal_error":
        return _not_one_of(str(context["expected"]), value)
    if kind in _REQUIREMENTS:
        # A value of the wrong type for text may be a token.
        found = _found(value, quote=kind != "string_type", secret=kind in _SECTIONS and path[-1] in _SECRETS)
        return f"must be {_REQUIREMENTS[kind].format(**context)}, {found}{_hint(path, kind, value)}"
    what = str(error["msg"]).removeprefix("Value error, ")
    return what if what[:2].isupper() else what[:1].lower() + what[1:]


def _hint(path: KeyPath, kind: str, value: Any) -> str:
    """Return what to write instead, where the value shows that; else nothing."""
    key = _MAIN_KEYS.get(str(path[0] if len(path) == 2 and path[0] == "dimensions" else path[-1]))
    if kind == "model_type" and isinstance(value, str) and value and key:
        return f"; write {{{key}: {hide_secrets(value)}}}"
    if not kind.startswith(("int_", "float_")) or isinstance(value, bool):
        return ""
    if isinstance(value, str) and (meant := number_meant(value, share=path[0] == "alerts")):
        whole = "." not in meant or kind.startswith("float_")
        return f"; write {meant}" if whole else ""
    if isinstance(value, float) and path[-2:-1] == ("thresholds",) and 0 < value < 1:
        return f"; it is in percent: {value * 100:g}"
    return ""


def _found(value: Any, quote: bool, secret: bool = False) -> str:
    if value is None:
        return "and is empty"
    if isinstance(value, dict):
        return "not a mapping of keys"
    if isinstance(value, (list, tuple)):
        return "not a list"
    if not quote:
        return "not a number, a date, or true or false; put it in quotes"
    if isinstance(value, bool):
        return f"not {str(value).lower()}"
    if isinstance(value, str):
        return "not text" if secret else f"not the text {hide_secrets(value)[:_QUOTED]!r}"
    return f"not {value}"


def _not_one_of(expected: str, value: Any) -> str:
    # pydantic writes 'a', 'b' or 'c'.
    names = expected.replace("'", "")
    choices = names.replace(" or ", ", ").split(", ")
    what = f"must be {names}, {_found(value, quote=True)}"
    if isinstance(value, str):
        close = [_SIGNS[value]] if value in _SIGNS else difflib.get_close_matches(value.lower(), choices, 1)
        return what + (f'; did you mean "{close[0]}"?' if close and close[0] in choices else "")
    return what + (f'; put it in quotes: "{value}"' if str(value) in choices else "")


def _unknown(path: KeyPath, value: Any) -> str:
    name, section = str(path[-1]), path[:-1]
    keys = _keys_of(section)
    if section and name in Config.model_fields:
        return f"unknown key; {name} is a section of its own: begin its line without spaces"
    if not section and isinstance(value, dict) and (inner := [key for key in value if key in Config.model_fields]):
        return f"unknown key; {' and '.join(inner)} must be at the top level, without spaces before"
    if name.isdigit() and value is None:
        return "unknown key; a comma begins another key here: write a number with a point, such as 2.5"
    elsewhere = [key for key in _all_keys(Config, "") if key.rsplit(".", 1)[-1] == name and name not in _COMMON]
    if len(elsewhere) == 1:
        return f"unknown key; did you mean {elsewhere[0]}?"
    if meant := keys_meant(name, keys):
        return f'unknown key; did you mean "{meant[0]}"?'
    close = difflib.get_close_matches(name.lower(), keys, 1)
    if close:
        return f'unknown key; did you mean "{close[0]}"?'
    inside = [key for key in _all_keys(Config, "") if keys_meant(name, [key.rsplit(".", 1)[-1]])]
    if not section and len(inside) == 1:
        return f"unknown key; did you mean {inside[0]}?"
    return f"unknown key; the keys here are {', '.join(keys)}" if 0 < len(keys) <= _LISTED_KEYS else "unknown key"


def _keys_of(path: KeyPath) -> list[str]:
    """Return the valid keys of the section at `path`."""
    models: list[type[BaseModel]] = [Config]
    for part in path:
        # The name of a mapping's entry, or the index of a list's, leads to no other section.
        if fields := _named(models, part):
            models = [inner for field in fields for inner in _models_in(field.annotation)]
        elif len(models) > 1:
            # The section has two forms: a list, and a mapping.
            models = [model for model in models if issubclass(model, ModelRates) != isinstance(part, int)]
    return [name for model in models for name, _ in _fields(model)]


def _all_keys(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """Yield the path of every key outside of lists and mappings."""
    for name, field in _fields(model):
        yield f"{prefix}{name}"
        if get_origin(field.annotation) not in (dict, tuple):
            for inner in _models_in(field.annotation):
                yield from _all_keys(inner, f"{prefix}{name}.")


def _named(models: Sequence[type[BaseModel]], key: str | int) -> list[FieldInfo]:
    """Return the fields that the models have under a key."""
    return [field for model in models for name, field in _fields(model) if name == key]


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """Yield the model's keys as they are written."""
    return ((field.alias or name, field) for name, field in model.model_fields.items())


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the models inside an annotation such as `Tls | None` or `tuple[AlertRule, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
