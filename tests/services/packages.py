"""Other versions of the package, to run beside this one: releases, and this one with a measure more."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from tests.golden import FOLDER
from tests.services import ROOT, unmeasured

#: The trial measure: one line in the table gives a counter, a second one the histogram of the same count.
TRIAL_MEASURES = """\
    Sum("tool_prompt_tokens", "Prompt tokens of tools; part of the prompt tokens.", CALLER),
    Distribution("tool_prompt_tokens", "Prompt tokens of a call's tools.", TOKEN_BOUNDS),
"""
TRIAL_FIELD = {"name": "tool_prompt_tokens", "type": ["null", "long"], "default": None}


def release_package(release: str, folder: Path) -> Path:
    """Unpack a release; return what to put on PYTHONPATH."""
    with tarfile.open(FOLDER / release / "package.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / f"tokentrace-{release}" / "worker"


def trial_package(folder: Path) -> Path:
    """Copy this version and add the trial measure, as CONTRIBUTING says; return what to put on PYTHONPATH.

    The schemas of this version are those of a release before it, as they will be then.
    What is edited: the table of measures, and the field in schemas/span.avsc. `make docs` writes the other schemas.
    """
    source = folder / "worker" / "tokentrace"
    shutil.copytree(ROOT / "worker" / "tokentrace", source, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "schemas", folder / "schemas")
    shutil.copytree(
        ROOT / "schemas", folder / "schemas" / "history" / "this", ignore=shutil.ignore_patterns("history", "*.json")
    )
    table = source / "model" / "measures.py"
    before, row, after = table.read_text().partition('    Distribution("latency_ms"')
    assert row
    table.write_text(before + TRIAL_MEASURES + row + after)
    span = folder / "schemas" / "span.avsc"
    schema = json.loads(span.read_text())
    schema["fields"].append(TRIAL_FIELD)
    span.write_text(json.dumps(schema))
    python(folder / "worker", "-m", "tests.services.packages", str(folder / "schemas"))
    return folder / "worker"


def environment(package: Path) -> dict[str, str]:
    """The environment of a process that imports tokentrace from there."""
    return {**unmeasured(), "PYTHONPATH": os.pathsep.join([str(package), str(ROOT)])}


def python(package: Path, *arguments: str, stdin: str = "") -> str:
    """Run Python with that package and return its standard output."""
    done = subprocess.run(
        [sys.executable, *arguments], input=stdin, capture_output=True, text=True, check=False, timeout=240,
        env=environment(package), cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def _write_schemas(folder: Path) -> None:
    """As `make docs` writes the schemas that come from the table of measures."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for name in generate.COUNTS_SCHEMAS:
        path = folder / f"{name}.avsc"
        path.write_text(generate.counts_schema(path))


if __name__ == "__main__":
    _write_schemas(Path(sys.argv[1]))
