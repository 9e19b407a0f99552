"""`python -m release`: write the files of a release into dist/. `make release` runs it."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Final

from release.build import Source, build, checksums, differences
from release.sbom import document, installed

ROOT: Final = Path(__file__).parent.parent
DIST: Final = ROOT / "dist"


def main() -> int:
    """Build twice, compare, and write. Returns 1 where two builds of one commit differ."""
    source = Source.of(ROOT)
    if source.changes:
        print(f"The release is that of commit {source.commit[:12]}, without {source.changes} uncommitted changes.")
    with tempfile.TemporaryDirectory(prefix="tokentrace-release-") as folder:
        first, second = (build(source, Path(folder) / name) for name in ("one", "two"))
    if different := differences(first, second):
        print(f"Two builds of one commit differ: {', '.join(different)}.", file=sys.stderr)
        return 1
    files = dict(first)
    files[f"tokentrace-{source.version}.cdx.json"] = document(
        "tokentrace", source.version, installed(), epoch=source.epoch, root="tokentrace"
    ).encode()
    files["SHA256SUMS"] = checksums(files).encode()
    DIST.mkdir(exist_ok=True)
    for name, content in files.items():
        (DIST / name).write_bytes(content)
        print(f"{len(content):>10,}  dist/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
