"""The browser's pure functions, in Node where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_browser_s_functions() -> None:
    command = ["node", "--test", *map(str, Path(__file__).parent.glob("*.test.mjs"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
