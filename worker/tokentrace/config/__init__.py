"""Configuration: reads and validates `tokentrace.yml`, and reports every problem in one line with its location."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from tokentrace.config.document import Document, KeyPath, dotted, read_document
from tokentrace.config.kafka import Kafka
from tokentrace.config.models import Config
from tokentrace.errors import ConfigError

_Section = TypeVar("_Section", bound=BaseModel)

__all__ = ["Config", "Kafka", "load_config"]


def load_config(path: Path, environment: Mapping[str, str] | None = None) -> Config:
    """Load a configuration file. Relative paths in it are relative to the file.

    Raises ConfigError with every problem: `path.to.key: what is wrong (line N)`.
    """
    document = read_document(path, os.environ if environment is None else environment)
    problems = list(document.problems)
    try:
        config = Config.model_validate(document.data)
    except ValidationError as error:
        # A value with an unset variable is reported once, and not again for its type.
        reported = {problem.split(":", 1)[0] for problem in problems}
        for detail in error.errors():
            problem = _describe_error(document, detail)
            if problem.split(":", 1)[0] not in reported:
                problems.append(problem)
        raise ConfigError(problems) from None
    if problems:
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
    name = dotted(location) or "tokentrace.yml"
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
    model: type[BaseModel] | None = Config
    for part in path:
        if model is None or isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        model = None if field is None else _model_in(field.annotation)
    return list(model.model_fields) if model is not None else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model inside an annotation such as `Tls | None` or `tuple[AlertRule, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for argument in get_args(annotation) if (model := _model_in(argument)) is not None), None)
