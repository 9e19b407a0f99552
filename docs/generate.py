"""Write the parts of the documentation that come from the code. `make docs` runs it; a test looks for drift."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tokentrace.config.reference import json_schema, markdown_table
from tokentrace.expose.reference import reject_reasons, span_families, worker_families

ROOT = Path(__file__).parent.parent
TABLES = {
    "configuration": markdown_table,
    "span families": span_families,
    "worker families": worker_families,
    "reject reasons": reject_reasons,
}


def generated() -> dict[Path, str]:
    """Every file that has generated parts, as it should be."""
    files = {ROOT / "schemas" / "tokentrace.schema.json": json_schema()}
    for page in sorted((ROOT / "docs").glob("*.md")):
        text = page.read_text()
        for name, table in TABLES.items():
            pattern = rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)"
            text = re.sub(pattern, lambda match, table=table: match[1] + table() + match[2], text, flags=re.DOTALL)
        files[page] = text
    return files


def main() -> None:
    """Write what has changed."""
    for path, text in generated().items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
