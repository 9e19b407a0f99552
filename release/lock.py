"""`python -m release.lock`: write the requirements of the image, each with the hashes of the wheels that it may be.

The versions are those of constraints.txt. pip says which wheel it would take for each Python and platform that the
image is built for, and its hash; nothing is installed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from importlib.metadata import Distribution
from pathlib import Path
from typing import Final

from release.sbom import installed, needed

ROOT: Final = Path(__file__).parent.parent
#: File -> the distribution for which it is, which is not part of it where it is tokentrace itself.
FILES: Final = {
    ROOT / "deploy" / "requirements.txt": "tokentrace",
    ROOT / "deploy" / "requirements-ledger.txt": "tokentrace[ledger]",
    ROOT / "deploy" / "requirements-build.txt": "hatchling",
}
PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS: Final = ("x86_64", "aarch64")
#: Oldest C libraries for which there are wheels, the newest last.
_MANYLINUX: Final = ("manylinux2014", "manylinux_2_17", "manylinux_2_24", "manylinux_2_27", "manylinux_2_28")


def pinned(root: str, known: dict[str, Distribution]) -> list[str]:
    """Return `name==version` of all that comes with a distribution, itself included unless it is this project."""
    names = [name for name in needed(root, known) if name != "tokentrace"]
    return sorted(f"{name}=={known[name].version}" for name in names)


def hashes(requirements: Iterable[str], python: str, machine: str) -> dict[str, str]:
    """Return requirement -> sha256 of the wheel that pip takes for this Python and machine."""
    with tempfile.TemporaryDirectory(prefix="tokentrace-lock-") as folder:
        report = Path(folder) / "report.json"
        command = [
            sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--dry-run", "--no-deps",
            "--ignore-installed", "--only-binary", ":all:", "--report", str(report), "--target", folder,
            "--python-version", python, "--implementation", "cp",
            *(word for tag in _MANYLINUX for word in ("--platform", f"{tag}_{machine}")),
        ]  # fmt: skip
        subprocess.run([*command, *requirements], check=True)
        found = json.loads(report.read_text())["install"]
    return {
        f"{_name(entry['metadata']['name'])}=={entry['metadata']['version']}": entry["download_info"]["archive_info"][
            "hashes"
        ]["sha256"]
        for entry in found
    }


def text(requirements: Iterable[str], wheels: dict[str, set[str]]) -> str:
    """Return the file that pip reads with --require-hashes."""
    lines = ["# Written by `python -m release.lock` from constraints.txt."]
    for requirement in requirements:
        digests = [f"--hash=sha256:{digest}" for digest in sorted(wheels[requirement])]
        lines += [" \\\n    ".join([requirement, *digests])]
    return "\n".join(lines) + "\n"


def _name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Write every file."""
    known = installed()
    for path, root in FILES.items():
        requirements = pinned(root, known)
        wheels: dict[str, set[str]] = defaultdict(set)
        for python in PYTHONS:
            for machine in PLATFORMS:
                for requirement, digest in hashes(requirements, python, machine).items():
                    wheels[requirement].add(digest)
        path.write_text(text(requirements, wheels))
        print(f"wrote {path.relative_to(ROOT)}: {len(requirements)} distributions")


if __name__ == "__main__":
    main()
