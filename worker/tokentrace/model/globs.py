"""Globs (`*`, `?`, `[...]`), without case: which names match one, and whether one covers all names of another."""

from __future__ import annotations

import fnmatch
import re
from functools import lru_cache
from typing import Final

#: Most pairs of states that a comparison visits. Beyond it a glob is not said to cover the other.
_MOST_STATES: Final = 20_000
_FAR: Final = "\U0010fff0"


@lru_cache(maxsize=10_000)
def pattern(glob: str) -> re.Pattern[str]:
    """Return the regular expression of a glob, for lowered names."""
    return re.compile(fnmatch.translate(glob.lower()))


def matches(glob: str, name: str) -> bool:
    """Return whether a name matches."""
    return glob == "*" or pattern(glob).match(name.lower()) is not None


def is_literal(glob: str) -> bool:
    """Return whether the glob has no wildcard."""
    return not re.search(r"[*?\[]", glob)


def covers(outer: str, inner: str) -> bool:
    """Return whether every name that matches `inner` matches `outer`.

    Runs both globs as automata on every kind of character that they tell apart. States: (position in `inner`, all
    positions that the same name can have reached in `outer`).
    """
    if outer == "*" or outer.lower() == inner.lower():
        return True
    if is_literal(inner):
        return matches(outer, inner)
    # Nearly all pairs differ in one of these.
    if is_literal(outer) or not all(matches(outer, name) for name in _examples(inner)):
        return False
    wide, narrow = _tokens(outer.lower()), _tokens(inner.lower())
    alphabet = _alphabet(outer.lower() + inner.lower())
    todo = [(0, _closed(wide, {0}))]
    seen = set(todo)
    while todo:
        at, reached = todo.pop()
        if at == len(narrow):
            if len(wide) not in reached:
                return False
            continue
        steps = []
        if narrow[at] == "*":
            steps.append((at + 1, reached))
        for character in alphabet:
            if _accepts(narrow[at], character):
                further = {
                    position if wide[position] == "*" else position + 1
                    for position in reached
                    if position < len(wide) and _accepts(wide[position], character)
                }
                steps.append((at if narrow[at] == "*" else at + 1, _closed(wide, further)))
        for state in steps:
            if state not in seen:
                seen.add(state)
                todo.append(state)
        if len(seen) > _MOST_STATES:
            return False
    return True


@lru_cache(maxsize=10_000)
def _examples(glob: str) -> tuple[str, str]:
    """Return two names that match a glob: with nothing for a `*`, and with another character."""
    words = []
    for star in ("", _FAR):
        word = ""
        for token in _tokens(glob.lower()):
            accepted = (character for character in _alphabet(token) if _accepts(token, character))
            word += star if token == "*" else token if is_literal(token) else next(accepted, "")
        words.append(word)
    return words[0], words[1]


def _accepts(token: str, character: str) -> bool:
    return token == "*" or pattern(token).match(character) is not None


def _closed(tokens: list[str], positions: set[int]) -> frozenset[int]:
    """Return the positions and those behind a `*`, which may stand for nothing."""
    closed = set(positions)
    for position in positions:
        while position < len(tokens) and tokens[position] == "*":
            position += 1
            closed.add(position)
    return frozenset(closed)


def _tokens(glob: str) -> list[str]:
    """Split a glob into `*` and globs of one character."""
    tokens: list[str] = []
    at = 0
    while at < len(glob):
        end = at + 1
        if glob[at] == "[":
            # As fnmatch reads it: a ] that comes first is a member, and a [ without an end stands for itself.
            close = glob.find("]", at + 2 + (glob[at + 1 : at + 2] == "!"))
            if close >= 0:
                end = close + 1
        if not (glob[at] == "*" and tokens[-1:] == ["*"]):
            tokens.append(glob[at:end])
        at = end
    return tokens


def _alphabet(globs: str) -> list[str]:
    """Return a character of every kind that the globs can tell apart: each of theirs, its neighbours, and another."""
    near = {code for character in globs for code in range(ord(character) - 1, ord(character) + 2)}
    return sorted({chr(code) for code in near if 0 <= code < 0x110000} | {_FAR})
