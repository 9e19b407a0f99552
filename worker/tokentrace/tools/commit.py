"""The commit that tokentrace was built from, or that is checked out where it runs from its source tree."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

_PACKAGE: Final = Path(__file__).parent.parent
_SHOWN: Final = 12


def commit(package: Path = _PACKAGE) -> str:
    """Return the beginning of the commit's hash, empty if it is not known.

    package: the folder of the package. A wheel has a file there, which its build writes.
    """
    built = package / "_commit"
    if built.exists():
        return built.read_text().strip()[:_SHOWN]
    root = package.parent.parent
    # The history of an application, which the package is installed inside of, says nothing.
    if not (root / ".git").exists():
        return ""
    try:
        asked = ["git", "-C", str(root), "rev-parse", "HEAD"]
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()[:_SHOWN]
    except OSError:  # no git here
        return ""
