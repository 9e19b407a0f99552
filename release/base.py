"""`python -m release.base`: write the digest of the image's base into deploy/base.lock, by which releases are built.

A tag is moved to later images, a digest names one for ever. `make base` runs this where the registry can be reached.
With --check it verifies the file: the registry still has the manifest, and its bytes have that hash.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
LOCK: Final = ROOT / "deploy" / "base.lock"
_DOCKERFILE: Final = ROOT / "deploy" / "Dockerfile"
_TIMEOUT_S: Final = 120.0

#: Program -> its command that prints the bytes of a manifest, whose SHA-256 is the digest. Of an image for several
#: platforms that is their list, so one digest serves all of them.
_TOOLS: Final = {
    "skopeo": ["skopeo", "inspect", "--raw", "docker://{}"],
    "docker": ["docker", "buildx", "imagetools", "inspect", "--raw", "{}"],
}


class BaseError(Exception):
    """The base cannot be had by its digest; the message says why."""


@dataclass(frozen=True, slots=True)
class Base:
    """name: with its tag, docker.io/library/python:3.12-slim. digest: sha256 of the manifest, in hexadecimal."""

    name: str
    digest: str

    @property
    def reference(self) -> str:
        """The name by digest alone, which every engine takes; some refuse a tag beside it."""
        return f"{self.name.rpartition(':')[0]}@sha256:{self.digest}"

    def text(self) -> str:
        """Return the content of the lock."""
        return f"# Written by `make base`. Releases are built on this one.\n{self.name}@sha256:{self.digest}\n"


def locked(path: Path = LOCK) -> Base:
    """Return what a lock holds. Raises BaseError without one, or with another content."""
    if not path.exists():
        raise BaseError(f"{path.name} is missing; `make base` writes it where the base's registry can be reached")
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    found = re.fullmatch(r"(\S+:[\w.-]+)@sha256:([0-9a-f]{64})", "\n".join(lines))
    if found is None:
        raise BaseError(f"{path.name} does not hold one name:tag@sha256:digest")
    return Base(found[1], found[2])


def default_name() -> str:
    """Return the base that deploy/Dockerfile takes unless told otherwise."""
    text = _DOCKERFILE.read_text()
    python, base = (re.search(rf"^ARG {name}=(.+)$", text, re.MULTILINE) for name in ("PYTHON", "BASE"))
    assert python is not None
    assert base is not None
    return base[1].replace("${PYTHON}", python[1])


def digest_of(reference: str, tools: Sequence[str] = tuple(_TOOLS)) -> str:
    """Return the digest that a registry has for a reference. Raises BaseError where none can be had."""
    there = [tool for tool in tools if shutil.which(tool)]
    if not there:
        raise BaseError(f"neither {' nor '.join(tools)} is installed")
    command = [word.format(reference) for word in _TOOLS[there[0]]]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise BaseError(f"{there[0]} has no answer about {reference} after {_TIMEOUT_S:.0f} s") from error
    if done.returncode != 0 or not done.stdout:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it says nothing"]
        # skopeo prints a record of a log.
        reason = re.sub(r'^time="[^"]*" level=\w+ msg="(.*)"$', r"\1", lines[-1])
        raise BaseError(f"{there[0]} cannot read {reference}: {reason.rstrip('.')}")
    return hashlib.sha256(done.stdout).hexdigest()


def check(base: Base) -> str:
    """Return what a lock that holds still means. Raises BaseError if its manifest cannot be had by its digest."""
    if digest_of(base.reference) != base.digest:
        raise BaseError(f"the manifest of {base.reference} has another hash")
    if digest_of(base.name) != base.digest:
        return f"{base.reference} is there. {base.name} is a later image now; `make base` takes it."
    return f"{base.reference} is there, and is what {base.name} names."


def main() -> int:
    """Write the lock, or verify it. Returns 1 with a line on standard error where that cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m release.base", description=__doc__)
    parser.add_argument("--check", action="store_true", help="verify the file and write nothing")
    parser.add_argument("--base", help="name and tag; that of deploy/Dockerfile unless given")
    parser.add_argument("--lock", type=Path, default=LOCK, help="the file; deploy/base.lock unless given")
    arguments = parser.parse_args()
    try:
        if arguments.check:
            print(check(locked(arguments.lock)))
            return 0
        name = arguments.base or default_name()
        base = Base(name, digest_of(name))
        arguments.lock.write_text(base.text())
        print(f"{arguments.lock.name}: {base.reference}")
    except BaseError as error:
        print(f"The base of the image is not known by its digest: {error}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
