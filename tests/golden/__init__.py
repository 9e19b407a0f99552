"""Golden records: what each release wrote, kept for ever, with what is in it.

A folder a release holds `make.py`, which wrote the others with that release's code; `records.json`, (key, value in
base64) by topic; `expected.json`, the numbers before they were encoded; and `package.tar.xz`, the release itself.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
RELEASES = sorted(path.parent.name for path in FOLDER.glob("*/records.json"))


def golden(release: str) -> tuple[dict[str, list[tuple[bytes, bytes]]], Any]:
    """(topic -> its records as (key, value), what is in them)."""
    records = json.loads((FOLDER / release / "records.json").read_text())
    expected = json.loads((FOLDER / release / "expected.json").read_text())
    return {
        topic: [(key.encode(), base64.b64decode(value)) for key, value in pairs] for topic, pairs in records.items()
    }, expected
