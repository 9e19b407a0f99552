"""Problems of a configuration file: each at its key and line, in the words of the documentation."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tokentrace.config.document import KeyPath, dotted
from tokentrace.config.hints import key_near, keys_meant, number_meant, truth_meant, value_meant
from tokentrace.config.misplaced import misplaced
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
    "too_short": "a section with at least one key",
    "tuple_type": "a list",
}

#: Types of pydantic's errors where a section or a mapping is expected.
_SECTIONS: Final = frozenset({"model_type", "dict_type"})
#: Sections whose text would be a secret, or contain one.
_SECRETS: Final = frozenset({"auth", "headers", "properties"})
#: Section -> the key that alone makes one.
_MAIN_KEYS: Final = {
    "dimensions": "source", "delivery": "type", "schema_registry": "url", "ledger": "url", "deduplicate": "window",
    "http_server": "addr", "kafka": "bootstrap_servers",
}  # fmt: skip
#: Section, or list of sections, that the value alone does not make -> what to write.
_EXAMPLES: Final = {
    "deduplicate": "{window: 10m}",
    "tls": "{ca: ca.pem}",
    "buckets": "{latency_ms: [100, 500, 1000]}",
    "rates": "{prompt: 2.5, completion: 10}",
}
#: Lists of text or numbers.
_LISTS: Final = frozenset({"group_by", "thresholds", "zones", "values", "calls", "paths", "providers"})
#: Keys of so many sections that one elsewhere says nothing.
_COMMON: Final = frozenset({"enabled", "url", "timeout", "ca", "key", "certificate", "window", "by", "tls", "auth"})


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
        field = field_at(path)
        example = field.examples[0] if field is not None and field.examples else None
        return "is required" if example is None else f"is required, for example {path[-1]}: {_plain(example)}"
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


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_plain(inner)}' for key, inner in value.items())}}}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _hint(path: KeyPath, kind: str, value: Any) -> str:
    """Return what to write instead, where the value shows that; else nothing."""
    if kind in _SECTIONS:
        return _section_hint(path, value)
    if kind in ("list_type", "tuple_type"):
        if isinstance(value, dict):
            return '; begin each entry with "- "'
        single = isinstance(value, (str, int, float)) and not isinstance(value, bool) and str(path[-1]) in _LISTS
        return f"; write [{value}]" if single and value != "" else ""
    if kind.startswith("bool_"):
        meant = truth_meant(value)
        return f"; write {meant}" + (" without quotes" if str(value) == meant else "") if meant else ""
    if kind == "string_type" and path[-2:-1] == ("filter",) and isinstance(value, list):
        return "; one glob is for several, such as gpt-4*"
    if not kind.startswith(("int_", "float_")) or isinstance(value, bool):
        return ""
    percent = Decimal("0.01") if path[0] == "alerts" else Decimal(1) if path[-2:-1] == ("thresholds",) else None
    if isinstance(value, str) and (meant := number_meant(value, percent=percent)):
        whole = "." not in meant or kind.startswith("float_")
        return f"; write {meant}" if whole else ""
    if isinstance(value, float) and path[-2:-1] == ("thresholds",) and 0 < value < 1:
        return f"; it is in percent: {value * 100:g}"
    return f"; write {value:.0f}" if isinstance(value, float) and value.is_integer() else ""


def _section_hint(path: KeyPath, value: Any) -> str:
    if value is None:
        return "; write its keys below it, with more spaces before them, or take its line out"
    name = str(path[0] if len(path) == 2 and path[0] == "dimensions" else path[-1])
    if path[:2] == ("pricing", "models") and len(path) == 3:
        in_list = isinstance(path[2], int)
        rule, rates = "model: NAME, rates: {prompt: 2.5, completion: 10}", "prompt_per_1m: 2.5, completion_per_1m: 10"
        return f"; write {{{rule if in_list else rates}}}, with your prices"
    if isinstance(value, list):
        if path == ("dimensions",):
            return "; write each as NAME: {source: attributes.NAME}"
        return f"; write {_EXAMPLES[name]}" if name in _EXAMPLES else "; write each as NAME: VALUE"
    if path == ("dimensions",) and isinstance(value, str):
        return f"; write {{{value}: {{source: attributes.{value}}}}}"
    if value is False and "enabled" in _keys_of(path):
        return "; write {enabled: false}"
    if value is True or (name in _EXAMPLES and name not in _MAIN_KEYS):
        example = "{certificate: tls.crt, key: tls.key}" if path == ("http_server", "tls") else _EXAMPLES.get(name)
        return f"; write {example}" if example else ""
    if isinstance(value, str) and (written := _unspaced(path, value)):
        return written
    key = _MAIN_KEYS.get(name)
    if name == "http_server":
        value = f'":{str(value).removeprefix(":")}"'
    return f"; write {{{key}: {hide_secrets(value)}}}" if isinstance(value, str) and value and key else ""


def _unspaced(path: KeyPath, text: str) -> str:
    """Return the hint for a section's text that begins with one of its keys, empty if it does not."""
    for separator, what in (
        (":", "a space is missing behind the colon"),
        ("=", "a key and its value are written with a colon"),
        (" ", "a colon is missing behind the key"),
    ):
        key, found, _ = text.partition(separator)
        if found and (key.strip() in _keys_of(path) or path[-1:] == ("filter",)) and not text.startswith("http"):
            return f"; {what}: `{key.strip()}: VALUE`"
    return ""


def _found(value: Any, quote: bool, secret: bool = False) -> str:
    if value is None:
        return "and is empty"
    if isinstance(value, dict):
        return "not a mapping of keys" if value else "and is empty"
    if isinstance(value, (list, tuple)):
        return "not a list"
    if not quote:
        return f"not {_type_of(value)}; put it in quotes"
    if isinstance(value, bool):
        return f"not {str(value).lower()}"
    if isinstance(value, str):
        return "not text" if secret else f"not the text {hide_secrets(value)[:_QUOTED]!r}"
    return f"not {value}"


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false, as which YAML reads yes, no, on and off too"
    return "a date" if isinstance(value, datetime.date) else "a number"


def _not_one_of(expected: str, value: Any) -> str:
    # pydantic writes 'a', 'b' or 'c'.
    names = expected.replace("'", "")
    choices = names.replace(" or ", ", ").split(", ")
    what = f"must be {names}, {_found(value, quote=True)}"
    if isinstance(value, str):
        close = value_meant(value, choices)
        return what + (f'; did you mean "{close}"?' if close else "")
    return what + (f'; put it in quotes: "{value}"' if str(value) in choices else "")


def _unknown(path: KeyPath, value: Any) -> str:
    name, section = str(path[-1]), path[:-1]
    keys = _keys_of(section)
    if section and name in Config.model_fields:
        return f"unknown key; {name} is a section of its own: begin its line without spaces"
    if not section and isinstance(value, dict) and (inner := [key for key in value if key in Config.model_fields]):
        return f"unknown key; {' and '.join(inner)} must be at the top level, without spaces before"
    if name.isdigit() and value is None and len(section) > 0:
        return "unknown key; a comma begins another key here: write a number with a point, such as 2.5"
    if value is None and (key := name.partition(":")[0]) in keys:
        return f"unknown key; a space is missing behind the colon: `{key}: VALUE`"
    if hint := misplaced(path, value):
        return f"unknown key; {hint}"
    in_list = any(isinstance(part, int) for part in section)
    elsewhere = [key for key in _all_keys(Config, "") if key.rsplit(".", 1)[-1] == name and name not in _COMMON]
    if len(elsewhere) == 1 and not in_list and section[:1] != ("dimensions",):
        return f"unknown key; did you mean {elsewhere[0]}?"
    if meant := keys_meant(name, keys):
        return f'unknown key; did you mean "{meant[0]}"?'
    if close := key_near(name, keys):
        return f'unknown key; did you mean "{close}"?'
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
        # Keys of entries have no place of their own.
        if not _has_entries(field.annotation):
            for inner in _models_in(field.annotation):
                yield from _all_keys(inner, f"{prefix}{name}.")


def _has_entries(annotation: Any) -> bool:
    """Return whether an annotation is of a list or a mapping, or may be one."""
    return get_origin(annotation) in (dict, tuple) or any(_has_entries(inner) for inner in get_args(annotation))


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
