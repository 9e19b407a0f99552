"""Files of dashboards: their text, and writing those that have changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parent.parent


def as_texts(files: Mapping[Path, Mapping[str, Any]]) -> dict[Path, str]:
    """Return the text of each file."""
    return {path: json.dumps(data, indent=2, ensure_ascii=False) + "\n" for path, data in files.items()}


def write_changed(files: Mapping[Path, str]) -> None:
    """Write each file that is not as it should be, and say so."""
    for path, text in files.items():
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")
