"""Kubernetes without a cluster: its own validation, and a control plane of its own programs, from `make kubernetes`."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.services import CACHE, Unavailable

PROGRAMS = CACHE / "kubernetes"


def program(name: str) -> str:
    """The path of a program that `make kubernetes` has built. Raises Unavailable where it has not."""
    path: Path = PROGRAMS / name
    if not path.exists():
        raise Unavailable(f"{name} is not in .cache/kubernetes; `make kubernetes` builds it where Go is")
    return str(path)


class Finding(NamedTuple):
    """Finding: what the API server would say to an object. known: no custom resource definition is needed for it."""

    kind: str
    name: str
    known: bool
    problems: list[str]


def validate(documents: Sequence[dict[str, Any]]) -> list[Finding]:
    """Decode, default and validate objects as the API server does, and hold them against Pod Security "restricted"."""
    command = [program("validate")]
    given = "\n---\n".join(json.dumps(document) for document in documents)
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return [Finding(**json.loads(line)) for line in done.stdout.splitlines()]


def etcd() -> str:
    """The path of etcd. Raises Unavailable where it is not installed."""
    path = shutil.which("etcd")
    if path is None:
        raise Unavailable("etcd is not installed (Debian: apt-get install etcd-server)")
    return path
