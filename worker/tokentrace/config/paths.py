"""Paths in the configuration: relative to the folder of the file that has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from tokentrace.config.ledger import absolute_url
from tokentrace.config.models import Config

_Section = TypeVar("_Section", bound=BaseModel)


def with_absolute_paths(config: Config, folder: Path) -> Config:
    """Make the paths in the configuration absolute; they are relative to its folder."""
    schemas = config.schemas.model_copy(
        update={
            "paths": tuple(folder / path for path in config.schemas.paths),
            "raw": None if config.schemas.raw is None else folder / config.schemas.raw,
            "glue": {version: folder / path for version, path in config.schemas.glue.items()},
        }
    )
    update: dict[str, Any] = {"schemas": schemas}
    http = config.http_server
    tls = None if http.tls is None else _absolute(http.tls, folder, "certificate", "key", "client_ca")
    http = _absolute(http, folder, "auth_token_file", "admin_token_file")
    update["http_server"] = http.model_copy(update={"tls": tls})
    registry_tls = _absolute(config.schema_registry.tls, folder, "ca", "certificate", "key")
    update["schema_registry"] = config.schema_registry.model_copy(update={"tls": registry_tls})
    update["ledger"] = config.ledger.model_copy(update={"url": absolute_url(config.ledger.url, folder)})
    return config.model_copy(update=update)


def _absolute(section: _Section, folder: Path, *names: str) -> _Section:
    """Return a section in which these paths, where they are set, are absolute."""
    return section.model_copy(update={name: folder / path for name in names if (path := getattr(section, name))})
