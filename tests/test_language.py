"""The language check: it finds banned words, docstring openings and vague names, and the repository has none."""

from __future__ import annotations

import pytest

from tests.language import CHECKED, ROOT, check, files, findings


def test_language_of_the_repository_is_clean() -> None:
    assert [str(finding) for finding in findings()] == []


def test_language_check_reads_every_folder_that_it_names() -> None:
    found = {str(path.relative_to(ROOT)) for path in files()}
    assert {"worker/tokentrace/__init__.py", "docs/architecture.md", "README.md", "Makefile"} <= found
    assert [name for name in CHECKED if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("a.md", "One.\nMend it.\n", ["a.md:2: Mend -> fix, repair"]),
        ("a.py", "x = 1  # starts anew\n", ["a.py:1: anew -> again, from the start"]),
        ("a.py", "def judge_span(): ...\n", ["a.py:1: judge -> validate, evaluate, check"]),
        ("a.py", 'error = "abc is no duration"\n', ["a.py:1: is no duration -> is not a ..., or: invalid ..."]),
        ("a.yml", "# gone for good\n", ["a.yml:1: for good -> permanently"]),
        ("a.py", '"""What it does."""\n', ["a.py:1: What -> begin the docstring with a verb or a noun"]),
        (
            "a.py",
            'def f():\n    """(whether it runs)."""\n',
            ["a.py:2: whether -> begin the docstring with a verb or a noun"],
        ),
        ("a.py", "#: How long.\nx = 1\n", ["a.py:1: How -> begin with a verb or a noun"]),
        ("a.py", "for each in rows: ...\n", ["a.py:1: each -> name the thing"]),
        ("a.py", "def f(own): ...\n", ["a.py:1: own -> name the thing"]),
        ("a.py", "self._told = 1\n", ["a.py:1: _told -> name the thing"]),
        ("a.py", "def test_what_is(): ...\n", ["a.py:1: test_what_is -> begin with the unit under test"]),
    ],
)
def test_language_check_gives_path_line_word_and_suggestion(path: str, text: str, expected: list[str]) -> None:
    assert [str(finding) for finding in check(path, text)] == expected


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("a.md", "There is no key in this file, and it is no longer read. Recommended, amended, a goodbye.\n"),
        ("a.py", "#: Number of rows;\n#: what follows is a second line.\nx = 1\n"),
        ("a.py", '"""Read rows.\n\nWhat is unusual is read alone.\n"""\n'),
        ("a.py", "for row in rows: each(row)\n"),
        ("a.md", "for each in rows\n"),
    ],
)
def test_language_check_accepts_plain_english(path: str, text: str) -> None:
    assert check(path, text) == []
