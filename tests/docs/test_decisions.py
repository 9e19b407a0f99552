"""Decision records: one form for all, and an index that lists them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.services import ROOT

FOLDER = ROOT / "docs" / "decisions"
RECORDS = sorted(FOLDER.glob("[0-9]*.md"))
_FORM = re.compile(
    r"# (?P<number>\d+)\. (?P<title>\S.*)\n\n"
    r"- Status: (?P<status>accepted|superseded by \d+)\n- Date: (?P<date>\d{4}-\d\d-\d\d)\n\n"
    r"## Decision\n\n.+?\n\n## Why\n\n.+?\n\n## Alternatives\n\n.+\n",
    re.DOTALL,
)


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.stem)
def test_decision_has_the_form_of_all_decisions(record: Path) -> None:
    text = record.read_text()
    assert _FORM.fullmatch(text)
    assert re.findall("^## (.+)$", text, re.MULTILINE) == ["Decision", "Why", "Alternatives"]


def test_decisions_are_numbered_by_their_file_names_without_a_gap() -> None:
    numbers = [int(record.name.partition("-")[0]) for record in RECORDS]
    assert numbers == list(range(1, len(RECORDS) + 1))
    assert numbers == [int(record.read_text()[2:].partition(".")[0]) for record in RECORDS]


def test_decisions_are_listed_in_the_index() -> None:
    expected = []
    for record in RECORDS:
        form = _FORM.match(record.read_text())
        assert form is not None
        expected.append(f"| {form['number']} | [{form['title']}]({record.name}) | {form['status']} | {form['date']} |")
    assert [line for line in (FOLDER / "README.md").read_text().splitlines() if line.startswith("| ")][1:] == expected
