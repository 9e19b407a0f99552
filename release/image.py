"""`python -m release.image`: build deploy/Dockerfile with docker, podman or buildah, whichever is there.

`make image` runs it. The commit and its time go into the labels, and into `tokentrace version`. With
deploy/base.lock the base is the one of that digest; --locked, for releases, refuses to build without it.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from release.base import LOCK, Base, BaseError, locked
from release.build import Source

ROOT: Final = Path(__file__).parent.parent
_DOCKERFILE: Final = "deploy/Dockerfile"
_IGNORED: Final = "deploy/Dockerfile.dockerignore"

#: Engine -> its command to build. Docker finds the list of ignored files by its name; the others are told, and keep
#: HEALTHCHECK only in Docker's format.
ENGINES: Final = {
    "docker": ["docker", "build"],
    "podman": ["podman", "build", "--format", "docker", "--ignorefile", _IGNORED],
    "buildah": ["buildah", "bud", "--format", "docker", "--ignorefile", _IGNORED],
}


def engine(answers: Callable[[str], bool] | None = None) -> str:
    """Return the first engine that is installed and answers, empty if there is none."""
    answers = answers or _answers
    return next((name for name in ENGINES if answers(name)), "")


def _answers(name: str) -> bool:
    """A docker without its daemon cannot build."""
    if shutil.which(name) is None:
        return False
    return subprocess.run([name, "info"], capture_output=True, check=False).returncode == 0


def command(name: str, source: Source, tag: str, options: Sequence[str] = (), base: Base | None = None) -> list[str]:
    """Return the command that builds the image of a commit.

    options: more of the engine's, such as --platform. base: by its digest; the tag of the Dockerfile without.
    """
    created = datetime.fromtimestamp(source.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    arguments = {
        "COMMIT": source.commit,
        "VERSION": source.version,
        "CREATED": created,
        "SOURCE_DATE_EPOCH": str(source.epoch),
    }
    if base is not None:
        arguments |= {"BASE": base.reference, "BASE_NAME": base.name, "BASE_DIGEST": f"sha256:{base.digest}"}
    words = [word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")]
    return [*ENGINES[name], "--file", _DOCKERFILE, "--tag", tag, *words, *options, "."]


def main() -> int:
    """Build. Returns the engine's exit code."""
    parser = argparse.ArgumentParser(prog="python -m release.image", description=__doc__)
    parser.add_argument("--tag", help="name of the image; tokentrace:<version> unless given")
    parser.add_argument("--locked", action="store_true", help="build by the digest in deploy/base.lock, or not at all")
    parser.add_argument("options", nargs="*", help="more options of the engine, behind --")
    arguments = parser.parse_args()
    name = engine()
    if not name:
        print("No image can be built: neither docker (with its daemon), podman nor buildah is here.", file=sys.stderr)
        return 1
    try:
        base = locked() if arguments.locked or LOCK.exists() else None
    except BaseError as error:
        print(f"No image is built by digest: {error}.", file=sys.stderr)
        return 1
    source = Source.of(ROOT)
    if source.changes:
        print(f"{source.changes} uncommitted changes go into the image, which says commit {source.commit[:12]}.")
    done = command(name, source, arguments.tag or f"tokentrace:{source.version}", arguments.options, base)
    print(" ".join(done), flush=True)
    return subprocess.run(done, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
