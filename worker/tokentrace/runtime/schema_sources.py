"""Schema sources: the files and the registry that the configuration names."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any
from uuid import UUID

from tokentrace.config import Config
from tokentrace.decode.resolve import check_readable
from tokentrace.decode.schemas.files import load_folder, load_schema
from tokentrace.decode.schemas.store import WriterSchemas
from tokentrace.errors import ConfigError, SchemaError

if TYPE_CHECKING:
    from tokentrace.decode.schemas.registry import Registry


def writer_schemas(config: Config, wait_s: float = math.inf) -> WriterSchemas:
    """wait_s: longest wait for the registry. Raises ConfigError for a schema file that cannot be read."""
    files: dict[bytes, Any] = {}
    for index, folder in enumerate(config.schemas.paths):
        files |= load_folder(folder, f"schemas.paths[{index}]")
    raw = load_schema(config.schemas.raw, "schemas.raw") if config.schemas.raw is not None else None
    if raw is not None:
        try:
            check_readable(raw)
        except SchemaError as error:
            raise ConfigError([f"schemas.raw: {error}"]) from error
    glue = {UUID(name): load_schema(path, f"schemas.glue.{name}") for name, path in config.schemas.glue.items()}
    return WriterSchemas(files, raw, registry(config), wait_s, glue)


def registry(config: Config) -> Registry | None:
    """The configured schema registry. Raises ConfigError for settings that its client rejects."""
    section = config.schema_registry
    if not section.url:
        return None
    # Its client takes 0.2 s to import (measured 2026-11).
    from tokentrace.decode.schemas.registry import Registry, RegistrySettings

    auth, tls = section.auth, section.tls
    credentials = token = None
    if auth is not None and auth.password is not None:
        credentials = f"{auth.username}:{auth.password.get_secret_value()}"
    if auth is not None and auth.bearer_token is not None:
        token = auth.bearer_token.get_secret_value()
    files = {name: str(path) for name in ("ca", "certificate", "key") if (path := getattr(tls, name)) is not None}
    return Registry(
        RegistrySettings(section.url, credentials, token, timeout_s=section.timeout, ids=section.ids, **files)
    )
