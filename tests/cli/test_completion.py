"""Shell completion: the scripts that shells load, and what they are answered."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_main import run
from tokentrace.cli import COMMANDS
from tokentrace.cli.completion import SHELLS, VARIABLE

BIN = Path(sys.executable).parent


def completed(*words: str) -> list[str]:
    """Return what a shell is answered while the last of the words is typed."""
    environment = {
        **os.environ, VARIABLE: "bash_complete", "COMP_WORDS": " ".join(["tokentrace", *words]),
        "COMP_CWORD": str(len(words)),
    }  # fmt: skip
    done = subprocess.run(
        [BIN / "tokentrace"], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_each_shell_asks_tokentrace(shell: str) -> None:
    done = run("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{VARIABLE}={shell}_complete" in done.stdout
    if shutil.which(shell):
        option = "--no-execute" if shell == "fish" else "-n"
        subprocess.run([shell, option], input=done.stdout, text=True, check=True, timeout=60)


def test_commands_options_and_choices_are_completed() -> None:
    assert completed("") == list(COMMANDS)
    assert completed("c") == ["config", "check-span", "completion"]
    assert completed("dlq", "") == ["list", "replay", "show"]
    assert "--framing" in completed("check-span", "--f")
    assert completed("completion", "") == list(SHELLS)


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_a_command_with_the_script() -> None:
    script = run("completion", "bash").stdout
    typed = 'COMP_WORDS=(tokentrace check-s); COMP_CWORD=1; _tokentrace_completion tokentrace; echo "${COMPREPLY[@]}"'
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{typed}"],
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}, capture_output=True, text=True, check=True,
        timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == ["check-span"]


def test_an_unknown_shell_is_named() -> None:
    done = run("completion", "tcsh")
    assert done.returncode == 2
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in done.stderr
