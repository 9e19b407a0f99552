"""The base by digest: the lock's content, what is refused, and what the builder is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from release.base import Base, BaseError, default_name, digest_of, locked
from release.build import Source
from release.image import command

BASE = Base("docker.io/library/python:3.12-slim", "ab" * 32)


def test_lock_is_read_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "base.lock"
    path.write_text(BASE.text())
    assert locked(path) == BASE
    assert BASE.reference == f"docker.io/library/python@sha256:{'ab' * 32}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "docker.io/library/python:3.12-slim\n",
        f"docker.io/library/python@sha256:{'ab' * 32}\n",
        f"docker.io/library/python:3.12-slim@sha256:{'ab' * 31}\n",
        BASE.text() * 2,
    ],
)
def test_lock_with_another_content_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "base.lock"
    path.write_text(text)
    with pytest.raises(BaseError, match=r"base\.lock does not hold one name:tag@sha256:digest"):
        locked(path)


def test_release_without_a_lock_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match="`make base` writes it"):
        locked(tmp_path / "base.lock")


def test_digest_cannot_be_had_without_a_program() -> None:
    with pytest.raises(BaseError, match="is installed"):
        digest_of("docker.io/library/python:3.12-slim", ())


def test_failure_is_one_line_and_an_exit_code(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "release.base", "--check", "--lock", str(tmp_path / "none.lock")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("The base of the image is not known by its digest: none.lock is missing")


def test_builder_gets_the_digest_and_the_image_names_both() -> None:
    words = command("podman", Source(Path("."), "0" * 40, 1_790_000_000, "1.2.3", 0), "tokentrace:1.2.3", base=BASE)
    arguments = [words[index + 1] for index, word in enumerate(words) if word == "--build-arg"]
    assert arguments[-3:] == [
        f"BASE={BASE.reference}", f"BASE_NAME={BASE.name}", f"BASE_DIGEST=sha256:{BASE.digest}",
    ]  # fmt: skip


def test_base_is_that_of_the_dockerfile() -> None:
    assert default_name() == BASE.name
