"""Reading: the configuration in a file, and every problem that the file itself shows.

A value that is wrong hides the rules between it and others. So a wrong value is replaced by one that is right, and the
rest is validated again, until nothing is wrong: one reading finds all problems.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import ValidationError

from tokentrace.config.document import Document, KeyPath, dotted, read_document
from tokentrace.config.models import Config
from tokentrace.config.paths import with_absolute_paths
from tokentrace.config.price_checks import pricing_problems
from tokentrace.config.problems import Problem, describe, field_at

#: Types of pydantic's errors for a value that is not a mapping where a section is expected.
_NO_SECTION: Final = frozenset({"model_type", "dict_type"})
#: Types of the errors of our own validators, which may concern several keys.
_OF_SEVERAL_KEYS: Final = frozenset({"problem", "value_error"})
#: Most validations of one file; each replaces what the one before it found.
_MOST_ROUNDS: Final = 100
#: Beginnings of the types of errors about numbers, and true or false.
_NUMBER_ERRORS: Final = ("int_", "float_", "bool_")


@dataclass(frozen=True, slots=True)
class Reading:
    """Content of a configuration file. config: with other values where the file has problems."""

    path: Path
    config: Config
    document: Document
    problems: list[Problem]

    def problem(self, path: KeyPath, what: str) -> Problem:
        """Return a problem at a key, with its line."""
        return Problem(path, what, self.document.line(path))


def read_config(path: Path, environment: Mapping[str, str] | None = None) -> Reading:
    """Read a configuration file. Raises ConfigError for a file that is not a YAML mapping."""
    document = read_document(path, os.environ if environment is None else environment)
    problems = [Problem(keys, what, line) for keys, what, line in document.problems]
    validation = _Validation(document, {problem.path for problem in problems})
    config = with_absolute_paths(validation.run(), path.parent)
    problems += validation.problems
    known = {problem.path for problem in problems}
    found = [*pricing_problems(document.data.get("pricing")), *_empty(document)]
    problems += [Problem(keys, what, document.line(keys)) for keys, what in found if keys not in known]
    return Reading(path, config, document, in_order(problems))


def in_order(problems: list[Problem]) -> list[Problem]:
    """Return the problems by line; those without a line come last."""
    return sorted(problems, key=lambda problem: (problem.line is None, problem.line or 0))


def _empty(document: Document) -> Iterator[tuple[KeyPath, str]]:
    """Yield the keys without a value that would count as unset, though somebody has written them.

    A variable that is empty says that its key is not used, as those of the manifests do.
    """
    return (found for found in _empty_keys(document.data) if found[0] not in document.substituted)


def _empty_keys(data: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(data, Mapping):
        for name, value in data.items():
            field = field_at((*path, name))
            # A property without a value is left out, and what has to have a value is a problem of its type.
            if value is None and field is not None and field.default is None and not field.is_required():
                yield (*path, name), "is empty; give it a value, or leave the key out"
            if value == "" and field is not None and _is_path(field.annotation):
                yield (*path, name), "is empty; name a file, or leave the key out"
            yield from _empty_keys(value, (*path, name))
    elif isinstance(data, (list, tuple)):
        for index, value in enumerate(data):
            yield from _empty_keys(value, (*path, index))


def _is_path(annotation: Any) -> bool:
    return annotation is Path or Path in get_args(annotation)


class _Validation:
    """One validation of a document. problems: those found, each key once."""

    def __init__(self, document: Document, reported: set[KeyPath]) -> None:
        """reported: keys whose values are known to be wrong."""
        self.problems: list[Problem] = []
        self._document = document
        self._data = copy.deepcopy(document.data)
        self._unquoted = dict(document.unquoted)
        self._wrong = set(reported)
        self._replaced: set[KeyPath] = set()
        #: Sections and mappings of which a key was removed.
        self._shortened: set[KeyPath] = set()
        #: In the current round.
        self._removed: set[KeyPath] = set()

    def run(self) -> Config:
        """Return the configuration, with other values in place of wrong ones."""
        for _ in range(_MOST_ROUNDS):
            try:
                return Config.model_validate(self._data)
            except ValidationError as failure:
                errors = failure.errors(include_url=False)
            # Each replacement changes the data in which the paths are found.
            self._removed = set()
            paths = [_in_document(self._data, error["loc"]) for error in errors]
            found = [
                (path, error)
                for path, error in zip(paths, errors, strict=True)
                if not self._unquote(path, error["type"])
            ]
            for path, error in found:
                self._report(path, error)
            for path, error in found:
                self._replace(path, error["type"] in _NO_SECTION)
        return Config()

    def _unquote(self, path: KeyPath, kind: str) -> bool:
        """Read "${VAR}" as if it were not quoted, in place of a number or in a list. Returns False if there is none."""
        found = [path] if path in self._unquoted and kind.startswith(_NUMBER_ERRORS) else []
        found += [keys for keys in self._unquoted if keys[:-1] == path and isinstance(keys[-1], int)]
        for keys in found:
            _set(self._data, keys, self._unquoted.pop(keys))
        return bool(found)

    def _report(self, path: KeyPath, error: Any) -> None:
        """Keep a problem, unless one of its key, or of a section around it, is known."""
        known = any(path[:length] in self._wrong for length in range(1, len(path) + 1))
        what = describe(path, error)
        # It may be about a key beside this one that is wrong, and was replaced.
        beside = (str(other[-1]) for other in self._wrong if other[:-1] == path[:-1] and other != path)
        if error["type"] in _OF_SEVERAL_KEYS:
            known = known or any(re.search(rf"\b{re.escape(name)}\b", what) for name in beside)
        # What is wrong with a mapping after a key of it was removed may be the lack of that key.
        if not known and path not in self._shortened:
            self.problems.append(Problem(path, what, self._document.line(path)))
        self._wrong.add(path)

    def _replace(self, path: KeyPath, section: bool) -> None:
        """Replace a wrong value by one that is right. section: whether a section is expected there."""
        if any(path[:length] in self._removed for length in range(1, len(path))):
            return
        if section and path not in self._replaced:
            self._replaced.add(path)
            _set(self._data, path, {})
            return
        while path:
            field = field_at(path)
            if field is not None and field.is_required() and path not in self._replaced:
                self._replaced.add(path)
                example = (field.examples or [None])[0]
                # Text that names one thing among others must be unique.
                _set(self._data, path, dotted(path) if field.annotation is str else example)
                return
            if field is not None and field.examples and path not in self._replaced and path[-1:] == ("kind",):
                # Without it, what it sets would be missing.
                self._replaced.add(path)
                _set(self._data, path, field.examples[0])
                return
            path, last = path[:-1], path[-1]
            # Without an item of a list, the others would have the wrong lines.
            removable = not isinstance(last, int) and (field is None or not field.is_required())
            if removable and _remove(self._data, (*path, last)):
                self._removed.add((*path, last))
                self._shortened.add(path)
                return
            self._wrong.add(path)
        self._data = {}


def _in_document(data: Any, loc: tuple[Any, ...]) -> KeyPath:
    """Return the keys of the document in pydantic's location, which also contains union branches."""
    path: list[str | int] = []
    for position, part in enumerate(loc):
        if isinstance(data, dict) and (part in data or position == len(loc) - 1):
            path.append(part)
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            path.append(part)
            data = data[part]
    return tuple(path)


def _set(data: Any, path: KeyPath, value: Any) -> None:
    """Set a value; sections on the way that are missing or empty are made."""
    part: Any
    for part in path[:-1]:
        if isinstance(data, dict) and not isinstance(data.get(part), (dict, list)):
            data[part] = {}
        data = data[part]
    last: Any = path[-1]
    data[last] = value


def _remove(data: Any, path: KeyPath) -> bool:
    """Remove a key. Returns False if it is not there."""
    part: Any
    for part in path[:-1]:
        if not isinstance(data, (dict, list)) or (isinstance(data, dict) and part not in data):
            return False
        data = data[part]
    if not isinstance(data, dict) or path[-1] not in data:
        return False
    del data[path[-1]]
    return True
