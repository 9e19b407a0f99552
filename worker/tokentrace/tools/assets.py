"""Assets: the files that ship with tokentrace beside its code, and a configuration made from the shipped one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from tokentrace.errors import UsageError

_PACKAGE: Final = Path(__file__).parent.parent

#: Files and folders of the source tree that the wheel brings, at the same paths below `_assets`.
SHIPPED: Final = (
    "tokentrace.yml",
    "dashboards/grafana.json",
    "dashboards/ledger.json",
    "deploy/compose",
    "deploy/compose.yaml",
    "deploy/grafana",
    "deploy/helm",
    "deploy/kafka",
    "deploy/kubernetes",
    "deploy/prometheus",
)
KUBERNETES: Final = ("deploy/kubernetes", "deploy/prometheus")
COMPOSE: Final = ("deploy/compose", "deploy/compose.yaml", "deploy/grafana", "deploy/prometheus")
SCHEMAS: Final = "schemas"
CONFIGURATION: Final = "tokentrace.yml"
EDITOR_SCHEMA: Final = "tokentrace.schema.json"

#: Address of the runbook in the rules: a path, since no address is known that every reader can open.
_RUNBOOK: Final = b"docs/runbook.md"

#: Text that YAML reads as itself without quotes.
_PLAIN: Final = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*|[A-Za-z0-9.-]+:\d+")


def assets(prefixes: tuple[str, ...] = ("",)) -> dict[str, bytes]:
    """Return path -> content of every shipped file whose path begins with one of these."""
    found = dict(_files())
    return {path: content for path, content in sorted(found.items()) if path.startswith(prefixes)}


def _files() -> Iterator[tuple[str, bytes]]:
    inside = _PACKAGE / "_assets"
    root = inside if inside.is_dir() else _PACKAGE.parent.parent
    for shipped in SHIPPED:
        yield from _below(root, root / shipped)
    bundled = _PACKAGE / "_schemas"
    schemas = bundled if bundled.is_dir() else root / SCHEMAS
    for path, content in _below(schemas, schemas):
        if not path.startswith("history/"):
            yield f"{SCHEMAS}/{path}", content


def _below(root: Path, start: Path) -> Iterator[tuple[str, bytes]]:
    paths = [start] if start.is_file() else sorted(path for path in start.rglob("*") if path.is_file())
    if not paths:
        raise FileNotFoundError(f"The installation of tokentrace is incomplete: {start.name} is missing.")
    for path in paths:
        yield path.relative_to(root).as_posix(), path.read_bytes()


def with_runbook(files: Mapping[str, bytes], url: str) -> dict[str, bytes]:
    """Return the files with the address of the runbook in the rules' annotations and in settings. url: of the page."""
    new = url.rstrip("#").encode()
    return {path: content.replace(_RUNBOOK, new) for path, content in files.items()}


def write(folder: Path, files: Mapping[str, bytes], *, replace: bool) -> list[Path]:
    """Write files below a folder. Raises UsageError, before any is written, for one that is there unless `replace`."""
    targets = {folder / path: content for path, content in files.items()}
    there = [target for target, content in targets.items() if target.exists() and target.read_bytes() != content]
    if there and not replace:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise UsageError(f"{there[0]}{more} exists and differs; choose another folder, or replace it with --force.")
    try:
        for target, content in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    except OSError as error:
        raise UsageError(f"{error.filename}: cannot be written ({error.strerror}).") from error
    return list(targets)


def configuration(settings: Mapping[str, str], security: str = "plaintext", mechanism: str = "SCRAM-SHA-512") -> str:
    """Return the shipped configuration, with its comments and these settings.

    settings: `section.key` -> value. security: security.protocol; the credentials of SASL come from the environment.
    """
    text = assets((CONFIGURATION,))[CONFIGURATION].decode()
    text = text.replace(f"$schema=schemas/{EDITOR_SCHEMA}", f"$schema={EDITOR_SCHEMA}")
    for path, value in settings.items():
        section, _, key = path.partition(".")
        text = _with_setting(text, section, key, value)
    if security == "plaintext":
        return text
    lines = [f"security.protocol: {security}"]
    if security.startswith("sasl"):
        lines += [
            f"sasl.mechanism: {mechanism}",
            "sasl.username: ${KAFKA_USERNAME}",
            "sasl.password: ${KAFKA_PASSWORD}",
        ]
    properties = "".join(f"\n    {line}" for line in lines)
    return text.replace(
        "  properties: {} # librdkafka properties, for example:", f"  properties: # of librdkafka{properties}"
    )


def _with_setting(text: str, section: str, key: str, value: str) -> str:
    """Return the text with another value of a key that it sets, and the comment behind that kept."""
    begin = text.index(f"\n{section}:\n")
    place = text.index(f"\n  {key}: ", begin) + len(f"\n  {key}: ")
    end = re.compile(r" #|\n").search(text, place)
    assert end is not None
    return text[:place] + _scalar(value) + text[end.start() :]


def _scalar(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else json.dumps(value)
