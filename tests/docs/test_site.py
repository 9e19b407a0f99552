"""The documentation as a site: built strictly, so that every link and heading that is linked to is there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.services import ROOT


def test_site_is_built_without_a_warning_and_asks_no_other_host(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "index.html").read_text()
    assert "publishing.html" in page
    for host in ("fonts.googleapis", "cdn.", "unpkg"):
        assert host not in page
    assert (tmp_path / "repository" / "deploy" / "prometheus" / "rules.yml").exists()
