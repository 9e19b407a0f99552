"""The commit that `tokentrace version` names: of the wheel, of the checkout, or none."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tokentrace.tools.commit import commit


def test_commit_is_that_of_the_wheel(tmp_path: Path) -> None:
    (tmp_path / "_commit").write_text("0123456789abcdef0123456789abcdef01234567\n")
    assert commit(tmp_path) == "0123456789ab"


def test_commit_is_that_of_the_checkout(tmp_path: Path) -> None:
    package = tmp_path / "worker" / "tokentrace"
    package.mkdir(parents=True)
    assert commit(package) == "", "a tree without history has none"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "One"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    assert commit(package) == head[:12]


def test_commit_of_another_repository_is_not_taken(tmp_path: Path) -> None:
    """As where the package is installed inside of the checkout of an application."""
    subprocess.run(["git", "-C", str(tmp_path), "init", "--quiet"], check=True)
    assert commit(tmp_path / "lib" / "site-packages" / "tokentrace") == ""
