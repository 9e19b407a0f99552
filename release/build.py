"""Building of the wheel and the sdist: from the files of a commit alone, with its time in place of the clock's."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_BUILD: Final = "import sys, hatchling.build as h; h.build_wheel(sys.argv[1]); h.build_sdist(sys.argv[1])"


@dataclass(frozen=True, slots=True)
class Source:
    """A commit. epoch: its time, seconds. changes: how many files of the checkout differ from it."""

    root: Path
    commit: str
    epoch: int
    version: str
    changes: int

    @classmethod
    def of(cls, root: Path) -> Source:
        """Return the commit that is checked out."""
        project = tomllib.loads(_git(root, "show", "HEAD:pyproject.toml").decode())["project"]
        return cls(
            root,
            _git(root, "rev-parse", "HEAD").decode().strip(),
            int(_git(root, "log", "-1", "--format=%ct")),
            project["version"],
            len(_git(root, "status", "--porcelain").decode().splitlines()),
        )


def build(source: Source, folder: Path) -> dict[str, bytes]:
    """Return name -> bytes of the wheel and the sdist, built in a folder that does not exist yet."""
    tree, built = folder / "tree", folder / "dist"
    built.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(_git(source.root, "archive", "HEAD"))) as archive:
        archive.extractall(tree, filter="data")
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(source.epoch), "TOKENTRACE_COMMIT": source.commit}
    # The path of the checkout would shadow the tree's own files.
    environment.pop("PYTHONPATH", None)
    subprocess.run(
        [sys.executable, "-c", _BUILD, str(built)], cwd=tree, env=environment, check=True, stdout=subprocess.DEVNULL
    )
    return {path.name: path.read_bytes() for path in sorted(built.iterdir())}


def differences(first: Mapping[str, bytes], second: Mapping[str, bytes]) -> list[str]:
    """Return the names of the files that are not the same in both."""
    return sorted(name for name in {*first, *second} if first.get(name) != second.get(name))


def checksums(files: Mapping[str, bytes]) -> str:
    """Return what `sha256sum --check` reads."""
    return "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files.items()))


def _git(root: Path, *words: str) -> bytes:
    return subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True).stdout
