"""Environments of their own for packages that the tests' environment does not have, made once in the cache."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from tests.services import CACHE, Unavailable


def environment(name: str, packages: Sequence[str]) -> str:
    """Return the interpreter of an environment with packages. Raises Unavailable where they cannot be installed."""
    folder = CACHE / name
    interpreter = folder / "bin" / "python"
    if not (folder / "ready").exists():
        made = subprocess.run(
            f"{sys.executable} -m venv {folder} && {interpreter} -m pip install -q {' '.join(packages)}",
            shell=True, capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip
        if made.returncode:
            raise Unavailable(f"{name} cannot be installed ({made.stderr[-300:]})")
        (folder / "ready").touch()
    return str(interpreter)
