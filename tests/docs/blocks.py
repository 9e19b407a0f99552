"""Code blocks of the pages, and the commands in those of consoles."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.services import ROOT

#: A fence: indentation, its marks, its language.
_FENCE = re.compile(r"( *)(`{3,}|~{3,})\s*(\S*)")
_PROMPT = "$ "
#: Operators of the shell between commands.
_OPERATORS = frozenset({"|", "||", "&&", ";", "&"})
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")


@dataclass(frozen=True)
class Block:
    """place: `page:line` of its first fence. text: without the indentation of a list around it."""

    place: str
    language: str
    text: str

    @property
    def page(self) -> str:
        return self.place.partition(":")[0]


@dataclass(frozen=True)
class Command:
    """A program with its arguments, as the shell passes them. output: the lines that the page shows below it."""

    place: str
    words: tuple[str, ...]
    output: str

    @property
    def program(self) -> str:
        """Name of the program without its folder and the variables before it."""
        return self.words[0].rpartition("/")[2]


def pages() -> list[Path]:
    """Pages of the repository: those of its first folder, and of docs/."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def blocks() -> list[Block]:
    return [block for page in pages() for block in blocks_of(str(page.relative_to(ROOT)), page.read_text())]


def blocks_of(page: str, text: str) -> Iterator[Block]:
    """Blocks between fences, in their order. A fence that nothing closes reaches to the end, as in CommonMark."""
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        fence = _FENCE.match(lines[at])
        start = at
        at += 1
        if fence is None:
            continue
        inside = []
        while at < len(lines) and lines[at].strip() != fence[2]:
            inside.append(lines[at])
            at += 1
        at += 1
        yield Block(f"{page}:{start + 1}", fence[3], textwrap.dedent("\n".join(inside)) + "\n")


def commands(block: Block) -> Iterator[Command]:
    """Commands of a console block. Raises ValueError for output without a command, and for quotes that do not end."""
    text = block.text.replace("\\\n", " ")
    if not text.startswith(_PROMPT):
        raise ValueError(f"output without a command: {text.splitlines()[0]}")
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, _, shown = part.partition("\n")
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        simple: list[list[str]] = [[]]
        for word in lexer:
            if word in _OPERATORS:
                simple.append([])
            elif simple[-1] or not _ASSIGNMENT.match(word):
                simple[-1].append(word)
        for words in simple:
            yield Command(block.place, tuple(words), shown if words is simple[-1] else "")
