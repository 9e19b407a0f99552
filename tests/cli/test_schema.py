"""`tokentrace schema`: what producers in other languages need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.spanfactory import FIRST_SCHEMA, SPAN_SCHEMA, message, single_object_header, span


def tokentrace(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tokentrace", "schema", *arguments], capture_output=True, text=True, check=False
    )


def test_schema_header_begins_every_message() -> None:
    done = tokentrace("header")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == message(span())[:10].hex() + "\n"


def test_schema_header_is_of_the_file_that_is_given(tmp_path: Path) -> None:
    path = tmp_path / "first.avsc"
    path.write_text(json.dumps(FIRST_SCHEMA))
    assert tokentrace("header", "--schema", str(path)).stdout.strip() == single_object_header(FIRST_SCHEMA).hex()


def test_schema_header_says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    path = tmp_path / "wrong.avsc"
    path.write_text("{}")
    done = tokentrace("header", "--schema", str(path))
    assert done.returncode == 2
    assert done.stderr.startswith(f"tokentrace: --schema: {path} is not an Avro schema")
    assert done.stderr.count("\n") == 1


def test_schema_show_prints_the_schema_of_spans() -> None:
    assert json.loads(tokentrace("show").stdout) == SPAN_SCHEMA
