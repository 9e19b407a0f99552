"""Evidence: what SECURITY.md and docs/reliability.md claim names its tests, and they exist."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: In a claim that has no test.
BY_DESIGN = "By design"


@cache
def names_of_tests() -> frozenset[str]:
    """Return the names of all tests."""
    sources = (path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    return frozenset(name for source in sources for name in re.findall(r"^def (test_\w+)\(", source, re.MULTILINE))


@pytest.mark.parametrize("document", ["SECURITY.md", "docs/reliability.md"])
def test_tests_that_a_document_names_exist(document: str) -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / document).read_text()))
    assert len(named) > 10
    assert named - names_of_tests() == set()


def test_claims_of_the_threat_model_have_a_test_or_are_by_design() -> None:
    rows = re.findall(r"^\| ([A-Z].+?) \| ?(.*?) ?\|$", (ROOT / "SECURITY.md").read_text(), re.MULTILINE)
    assert len(rows) > 25
    assert [claim for claim, test in rows if not test and BY_DESIGN not in claim] == []
