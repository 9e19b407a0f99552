"""Configuration: reads and validates `tokentrace.yml`, and reports every problem in one line with its location."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from tokentrace.config.document import Document, KeyPath, dotted, read_document
from tokentrace.config.kafka import Kafka
from tokentrace.config.models import Config
from tokentrace.config.price_checks import pricing_problems
from tokentrace.errors import ConfigError

_Section = TypeVar("_Section", bound=BaseModel)

__all__ = ["Config", "Kafka", "load_config"]


def load_config(path: Path, environment: Mapping[str, str] | None = None) -> Config:
    """Load a configuration file. Relative paths in it are relative to the file.

    Raises ConfigError with every problem: `path.to.key: what is wrong (line N)`.
    """
    document = read_document(path, os.environ if environment is None else environment)
    problems = list(document.problems)
    config = None
    # A value with an unset variable is reported once, and not again for its type.
    reported = {problem.split(":", 1)[0] for problem in problems}
    try:
        config = Config.model_validate(document.data)
    except ValidationError as error:
        for detail in error.errors():
            problem = _describe_error(document, detail)
            if problem.split(":", 1)[0] not in reported:
                problems.append(problem)
    for location, what in pricing_problems(document.data.get("pricing")):
        problem = _located(document, location, what)
        if problem.split(":", 1)[0] not in reported:
            problems.append(problem)
    if problems or config is None:
        raise ConfigError(problems)
    return _with_absolute_paths(config, path.parent)


def _with_absolute_paths(config: Config, folder: Path) -> Config:
    """Make the paths in the configuration absolute; they are relative to its folder."""
    schemas = config.schemas.model_copy(
        update={
            "paths": tuple(folder / path for path in config.schemas.paths),
            "raw": None if config.schemas.raw is None else folder / config.schemas.raw,
        }
    )
    update: dict[str, Any] = {"schemas": schemas}
    http = config.http_server
    tls = None if http.tls is None else _absolute(http.tls, folder, "certificate", "key", "client_ca")
    http = _absolute(http, folder, "auth_token_file", "admin_token_file")
    update["http_server"] = http.model_copy(update={"tls": tls})
    registry_tls = _absolute(config.schema_registry.tls, folder, "ca", "certificate", "key")
    update["schema_registry"] = config.schema_registry.model_copy(update={"tls": registry_tls})
    return config.model_copy(update=update)


def _absolute(section: _Section, folder: Path, *names: str) -> _Section:
    """Return a section in which these paths, where they are set, are absolute."""
    return section.model_copy(update={name: folder / path for name in names if (path := getattr(section, name))})


def _describe_error(document: Document, error: Any) -> str:
    location = _in_document(document.data, error["loc"])
    what = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        what = "unknown key"
        close = difflib.get_close_matches(str(location[-1]), _keys_of(location[:-1]), 1)
        if close:
            what += f'; did you mean "{close[0]}"?'
    elif error["type"] == "missing":
        what = "is required"
    else:
        what = what[:1].lower() + what[1:] if not what[:2].isupper() else what
    return _located(document, location, what)


def _located(document: Document, location: KeyPath, what: str) -> str:
    """Return a problem with the name of its key and its line, which is that of the next key above where it has none."""
    name = dotted(location) or "tokentrace.yml"
    while location and location not in document.lines:
        location = location[:-1]
    line = document.lines.get(location)
    return f"{name}: {what} (line {line})" if line is not None else f"{name}: {what}"


def _in_document(data: Any, loc: tuple[Any, ...]) -> KeyPath:
    """Return the keys of the document in pydantic's location, which also contains union branches."""
    path: list[str | int] = []
    for position, part in enumerate(loc):
        if isinstance(data, dict) and (part in data or position == len(loc) - 1):
            path.append(part)
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            path.append(part)
            data = data[part]
    return tuple(path)


def _keys_of(path: KeyPath) -> list[str]:
    """Return the valid keys of the section at `path`."""
    models: list[type[BaseModel]] = [Config]
    for part in path:
        # The name of a mapping's entry, or the index of a list's, leads to no other section.
        fields = [field for model in models for name, field in _fields(model) if name == part]
        models = [inner for field in fields for inner in _models_in(field.annotation)] if fields else models
    return [name for model in models for name, _ in _fields(model)]


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """Yield the model's keys as they are written."""
    return ((field.alias or name, field) for name, field in model.model_fields.items())


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the models inside an annotation such as `Tls | None` or `tuple[AlertRule, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
