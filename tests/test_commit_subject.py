"""The check of commit subjects."""

from __future__ import annotations

import pytest

from tests.commit_subject import problems


@pytest.mark.parametrize(
    "message",
    [
        "Reject spans without a model\n\nThey cannot be counted.\n",
        "Speed up decoding\n",
        "A" * 72,
        "Merge branch 'a' into a branch with a name that is a good deal longer than 72 characters\n",
        "fixup! reject spans.\n",
        "Add a check\n# Please enter the commit message for your changes.\n",
    ],
)
def test_commit_subject_check_accepts(message: str) -> None:
    assert problems(message) == []


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ("", "empty"),
        ("A" * 73, "73 characters"),
        ("Add a check.", "full stop"),
        ("add a check", "small letter"),
        ("Added a check", "imperative"),
        ("Fixes a check", "imperative"),
        ("Adding a check", "imperative"),
        ("Add a check\nof subjects", "second line"),
    ],
)
def test_commit_subject_check_names_the_problem(message: str, problem: str) -> None:
    assert [problem in found for found in problems(message)] == [True]
