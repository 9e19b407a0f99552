"""Hook of MkDocs: brings the files of the repository that the pages link to, below `repository/`.

A file that is linked is copied, and a folder becomes a page with links to its files. So a link to what is not there is
found, and the site needs no address of the repository.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
FOLDER = "repository"
#: A link to a file: not to an address, and not only to a heading.
_LINK = re.compile(r"\]\((?![a-z]+:|#|/)([^)#\s]+)((?:#[^)\s]*)?)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add what the pages link to outside of docs/, and what those pages link to in turn."""
    added: dict[str, str] = {}
    waiting = [(page.src_uri, page.content_string) for page in files.documentation_pages()]
    while waiting:
        source, text = waiting.pop()
        for target in sorted({_target(source, link) for link, _ in _LINK.findall(text)}):
            place = _place(target)
            if target.startswith("docs/") or place in added or not (ROOT / target).exists():
                continue
            added[place] = _content(target)
            if place.endswith(".md"):
                waiting.append((place, added[place]))
    for place, content in added.items():
        files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point the links to the places that their targets have in the site."""
    source = page.file.src_uri

    def moved(found: re.Match[str]) -> str:
        target = _target(source, found[1])
        if not (ROOT / target).exists():
            return found[0]
        return f"]({posixpath.relpath(_place(target), posixpath.dirname(source) or '.')}{found[2]})"

    return _LINK.sub(moved, markdown)


def _target(source: str, link: str) -> str:
    """Return the path in the repository that a page of the site links to."""
    origin = source.removeprefix(f"{FOLDER}/") if source.startswith(f"{FOLDER}/") else f"docs/{source}"
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))


def _place(target: str) -> str:
    """Return the path that a file or folder of the repository has in the site."""
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return f"{FOLDER}/{target}/index.md" if (ROOT / target).is_dir() else f"{FOLDER}/{target}"


def _content(target: str) -> str:
    path = ROOT / target
    if path.is_file():
        return path.read_text(encoding="utf-8")
    names = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
    lines = "\n".join(f"- `{name}`" for name in names if "node_modules" not in name and "__pycache__" not in name)
    return f"# {target}\n\nFiles of this folder in the repository:\n\n{lines}\n"
