"""Language check of code, comments and documentation: banned words, docstring openings, vague names.

`make lint` and pre-commit run it. Each finding is one line, `path:line: word -> suggestion`.
CONTRIBUTING.md gives the style in short; ruff's pydocstyle rules and codespell check the rest.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent

#: Folders and files that are checked.
CHECKED: Final = [
    "worker",
    "tests",
    "benchmarks",
    "release",
    "hatch_build.py",
    "docs",
    "deploy",
    "dashboards",
    "schemas",
    ".github",
    ".ci",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "Makefile",
    "examples",
    "pyproject.toml",
    ".pre-commit-config.yaml",
]
SUFFIXES: Final = frozenset({".py", ".md", ".yml", ".yaml", ".toml", ".avsc", ".json", ".promql", ""})

#: Records of a release and their makers, which never change.
FROZEN: Final = ("schemas/history/", "tests/golden/")

#: These files name the banned words themselves.
EXEMPT: Final = frozenset({"tests/language.py", "tests/test_language.py", "docs/contributing/style.md"})

#: Pattern -> suggestion. A pattern matches whole words in any case; an underscore or a digit ends a word.
BANNED: Final = {
    r"abdicat(?:e|es|ed|ing)": "release, revoke",
    r"anew": "again, from the start",
    r"dearer": "more expensive",
    r"foremost": "first, closest",
    r"for good": "permanently",
    r"forsooth|nought|lest|thereof|wherein|whereupon|heed(?:s|ed)?": "plain modern English",
    r"hearken(?:s|ed|ing)?": "listen, observe",
    r"honest": "valid, real",
    r"judg(?:e|es|ed|ing)": "validate, evaluate, check",
    r"kin": "similar programs",
    r"mend(?:s|ed|ing)?": "fix, repair",
    r"reigns?": "ownership",
    r"strangers?": "the thing's noun, such as overflow_rows",
    r"whence": "from which",
    r"(?<!there )(?<!there's )is no (?!longer|more\b)\w+": "is not a ..., or: invalid ...",
    r"ask(?:s|ed|ing)? for patience": "return a retriable error",
    r"(?:brokers?|workers?|code|replicas?|servers?|Kafka|Prometheus) (?:thinks?|hears?|believes?|wants?|knows? best)": (
        "a verb that fits a program: report, receive, require"
    ),
    r"worked off": "processed",
    r"look(?:s|ed|ing)? like no\b": "does not look like a ...",
}

#: Words that neither a docstring nor a `#:` comment begins with: it begins with a verb or a noun.
OPENINGS: Final = frozenset(
    ["what", "who", "whose", "whom", "where", "whether", "how", "that", "which", "why", "when", "whatever", "whoever"]
)

#: The same for what follows `test_`: a test's name begins with the unit under test.
TEST_OPENINGS: Final = OPENINGS | frozenset(["nobody", "nothing", "somebody", "everybody", "it", "as", "of"])

#: Names of variables, parameters, attributes and functions that say nothing.
NAMES: Final = frozenset(["each", "own", "mine", "told"])

_BANNED: Final = [
    (re.compile(rf"(?<![A-Za-z])(?:{pattern})(?![A-Za-z])", re.IGNORECASE), suggestion)
    for pattern, suggestion in BANNED.items()
]
_COMMENT: Final = re.compile(r"^\s*#: *(\w+)")


@dataclass(frozen=True, order=True)
class Finding:
    path: str
    line: int
    word: str
    suggestion: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.word} -> {self.suggestion}"


def check(path: str, text: str) -> list[Finding]:
    """Return the findings of one file in the order of its lines; `path` decides if it is read as Python."""
    found = [Finding(path, number, word, suggestion) for number, word, suggestion in _words(text)]
    if path.endswith(".py"):
        found += [Finding(path, number, word, suggestion) for number, word, suggestion in _python(text)]
    return sorted(found)


def _words(text: str) -> Iterator[tuple[int, str, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, suggestion in _BANNED:
            yield from ((number, match[0], suggestion) for match in pattern.finditer(line))


def _python(text: str) -> Iterator[tuple[int, str, str]]:
    previous = ""
    for number, line in enumerate(text.splitlines(), 1):
        comment = _COMMENT.match(line)
        if comment and not previous.lstrip().startswith("#:") and comment[1].lower() in OPENINGS:
            yield number, comment[1], "begin with a verb or a noun"
        previous = line
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            opening = re.match(r"\W*(\w+)", node.value.value)
            if opening and opening[1].lower() in OPENINGS:
                yield node.lineno, opening[1], "begin the docstring with a verb or a noun"
        for name in _defined(node):
            if name.lstrip("_") in NAMES:
                yield node.lineno, name, "name the thing"  # type: ignore[attr-defined]
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            opening = re.match(r"test_([a-z]+)", node.name)
            if opening and opening[1] in TEST_OPENINGS:
                yield node.lineno, node.name, "begin with the unit under test"


def _defined(node: ast.AST) -> Iterator[str]:
    """Names that a node gives to something."""
    if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
        yield node.id if isinstance(node, ast.Name) else node.attr
    elif isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name


def _exempt(path: str) -> bool:
    return path in EXEMPT or path.startswith(FROZEN)


def files(roots: Iterable[str] = CHECKED) -> list[Path]:
    """Return the files to check, sorted."""
    found: set[Path] = set()
    for root in (ROOT / name for name in roots):
        for path in root.rglob("*") if root.is_dir() else [root]:
            relative = path.relative_to(ROOT)
            hidden = any(part.startswith("__pycache__") or part.endswith(".egg-info") for part in relative.parts)
            if path.is_file() and path.suffix in SUFFIXES and not hidden and not _exempt(str(relative)):
                found.add(path)
    return sorted(found)


def findings() -> list[Finding]:
    """Return the findings of the whole repository."""
    return [
        finding for path in files() for finding in check(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
    ]


def main() -> int:
    """Print every finding; the exit code is 1 if there is any."""
    found = findings()
    for finding in found:
        print(finding)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
