"""`make image`: the engine that is there builds, and the image says what it is made of."""

from __future__ import annotations

from pathlib import Path

import pytest
from release.build import Source
from release.image import ENGINES, command, engine

SOURCE = Source(Path("."), "0123456789abcdef0123456789abcdef01234567", 1_790_000_000, "1.2.3", 0)


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        ({"docker", "podman", "buildah"}, "docker"),
        ({"podman", "buildah"}, "podman"),
        ({"buildah"}, "buildah"),
        ((), ""),
    ],
)
def test_the_first_engine_that_answers_builds(there: set[str], taken: str) -> None:
    assert engine(lambda name: name in there) == taken


@pytest.mark.parametrize("name", ENGINES)
def test_image_names_its_version_commit_and_time(name: str) -> None:
    words = command(name, SOURCE, "tokentrace:1.2.3", ["--platform", "linux/arm64"])
    assert words[: len(ENGINES[name])] == ENGINES[name]
    assert words[-3:] == ["--platform", "linux/arm64", "."]
    arguments = [words[index + 1] for index, word in enumerate(words) if word == "--build-arg"]
    assert arguments == [
        f"COMMIT={SOURCE.commit}", "VERSION=1.2.3", "CREATED=2026-09-21T14:13:20Z", "SOURCE_DATE_EPOCH=1790000000",
    ]  # fmt: skip
