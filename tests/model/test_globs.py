"""Globs over names: one covers another where every name that matches the second matches the first."""

from __future__ import annotations

import fnmatch
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokentrace.model.globs import covers, is_literal, matches

TOKEN = st.sampled_from(["*", "?", "a", "b", "[ab]", "[!a]", "[b-c]"])
GLOB = st.lists(TOKEN, max_size=4).map("".join)
#: Every short name of letters that the globs tell apart, and of one that they do not.
WORDS = ["".join(letters) for size in range(6) for letters in product("abcz", repeat=size)]


@given(GLOB, GLOB)
def test_covering_is_what_all_short_names_say(outer: str, inner: str) -> None:
    beyond = [word for word in WORDS if fnmatch.fnmatchcase(word, inner) and not fnmatch.fnmatchcase(word, outer)]
    assert covers(outer, inner) == (beyond == [])


@pytest.mark.parametrize(
    ("outer", "inner", "covered"),
    [
        ("*", "anything", True),
        ("gpt-4o*", "GPT-4o-mini", True),
        ("gpt-4o*", "gpt-4*", False),
        ("gpt-4*", "gpt-4o*", True),
        ("gpt-?o", "gpt-[45]o", True),
        ("gpt-[45]o", "gpt-?o", False),
        ("*mini*", "gpt-*-mini", True),
        ("a", "b", False),
        ("[", "[", True),
        ("[]a]", "]", True),
    ],
)
def test_globs_of_models_cover_one_another(outer: str, inner: str, covered: bool) -> None:
    assert covers(outer, inner) is covered


def test_a_comparison_ends_for_globs_of_any_size() -> None:
    assert covers("*a*b*c*d*e*f*g*h*?" * 4, "*h*g*f*e*d*c*b*a*?" * 4) in (True, False)


def test_names_match_without_case() -> None:
    assert matches("GPT-*", "gpt-4o")
    assert not matches("gpt-4", "gpt-4o")
    assert [is_literal(glob) for glob in ("gpt-4o", "gpt-*", "gpt-?", "[a]")] == [True, False, False, False]
