"""Build hook of the wheel and the sdist: the commit that they come from goes into them, for `tokentrace version`.

The commit is that of TOKENTRACE_COMMIT, as where an image is built without .git; else that of the checkout; else that
of the sdist which is unpacked here. A build without any of them has none.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

#: Name of the file in the sdist, and in the package of a wheel.
SDIST = "COMMIT"
WHEEL = "tokentrace/_commit"


class CommitHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds one file with the hash of the commit."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the file, except to an editable installation, whose checkout moves on."""
        commit = commit_of(Path(self.root))
        if version == "editable" or not commit:
            return
        with tempfile.NamedTemporaryFile("w", prefix="tokentrace-commit-", delete=False) as file:
            file.write(f"{commit}\n")
        self._written = file.name
        Path(file.name).chmod(0o644)
        build_data["force_include"][file.name] = WHEEL if self.target_name == "wheel" else SDIST

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the file from where it was written."""
        if hasattr(self, "_written"):
            Path(self._written).unlink()


def commit_of(root: Path) -> str:
    """Return the hash of the commit that this tree is built from, empty if it is not known."""
    given = os.environ.get("TOKENTRACE_COMMIT", "")
    if not given and (root / ".git").exists():
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        given = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    elif not given and (root / SDIST).exists():
        given = (root / SDIST).read_text()
    return given.strip() if re.fullmatch(r"[0-9a-f]{40}\s*", given) else ""
