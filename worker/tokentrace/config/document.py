"""YAML document: reads values, the line of every key, and `${VAR}` from the environment.

Variables are substituted in scalars after parsing, so that a value can never become structure. An unset variable is
an error: an unset token must never disable authentication.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tokentrace.config.hints import variable_meant
from tokentrace.config.yaml_words import in_words, text_of
from tokentrace.errors import ConfigError

KeyPath = tuple[str | int, ...]

_VARIABLE: Final = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{([^}]*)\}?")

#: Variable -> another name of it, which is taken where the variable is unset.
_OTHER_NAMES: Final = {"TOKENTRACE_AUTH_TOKEN": "TOKENTRACE_API_TOKEN"}

#: Tags of what "${VAR}" may be in a key of this type, although it is quoted.
_INTEGER: Final = "tag:yaml.org,2002:int"
_NUMBERS: Final = frozenset({_INTEGER, "tag:yaml.org,2002:float", "tag:yaml.org,2002:bool"})

#: Numbers that YAML reads otherwise than people do: 010 as 8, 1:30 as 90.
_OCTAL: Final = re.compile(r"[-+]?0[0-7_]+")
_SIXTIES: Final = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
#: Quotation marks of print, and spaces that YAML takes for letters.
_PRINTED_QUOTES: Final = "\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb"
_OTHER_SPACES: Final = re.compile("[\u00a0\u2000-\u200b\u202f\u3000\ufeff]")

#: Most characters of an integer: Python neither reads nor writes one of more than 4,300 decimal digits.
_MOST_DIGITS: Final = 1000


class WrittenFloat(float):
    """A number with a point, and its text, from which a price is read without a digit lost."""

    text: str


@dataclass(frozen=True, slots=True)
class Document:
    """Content of a file. data: plain values. lines: path -> line number, from 1.

    problems: (path, what is wrong, line). unquoted: path of a quoted scalar that is one variable, such as "${SIZE}" ->
    the number, or true or false, that it is without the quotes. substituted: paths of scalars with a variable.
    """

    data: dict[str, Any]
    lines: Mapping[KeyPath, int]
    problems: list[tuple[KeyPath, str, int]]
    unquoted: Mapping[KeyPath, Any]
    substituted: Set[KeyPath] = frozenset()

    def line(self, path: KeyPath) -> int | None:
        """Return the line of a key, or of the innermost section around it that is in the file; None if none is."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines[path] if path else None


def dotted(path: KeyPath) -> str:
    """Return the path as text, such as `alerts[2].window`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_document(path: Path, environment: Mapping[str, str]) -> Document:
    """Read a YAML file. Raises ConfigError if it is unreadable, not YAML, or not a mapping."""
    try:
        text = text_of(path.read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(
            [f"{path}: does not exist; `tokentrace init` writes a tokentrace.yml, --config names another"]
        ) from error
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read ({error.strerror})"]) from error
    except ValueError as error:
        raise ConfigError([f"{path}: {error}"]) from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError([f"{path}: {in_words(error, text)}"]) from None
    except RecursionError:
        raise ConfigError([f"{path}: is nested too deeply"]) from None
    reader = _Reader(environment)
    if root is None:
        return Document({}, {}, [], {})
    if not isinstance(root, yaml.MappingNode):
        what = "the top level must be a mapping of sections, such as `kafka:` with its keys below it"
        raise ConfigError([f"{path}: {what} (line 1)"])
    try:
        data = reader.value(root, ())
    except RecursionError:
        raise ConfigError([f"{path}: is nested too deeply, or contains an alias of itself"]) from None
    return Document(data, reader.lines, reader.problems, reader.unquoted, reader.substituted)


class _Reader:
    """Converts YAML nodes to values, and records their lines."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[tuple[KeyPath, str, int]] = []
        self.unquoted: dict[KeyPath, Any] = {}
        self.substituted: set[KeyPath] = set()
        self._environment = environment
        self._constructor = yaml.SafeLoader("")

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        try:
            self._constructor.flatten_mapping(node)
        except yaml.YAMLError:
            self._problem(path, "has a << that is followed by no mapping", node)
            return {}
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._problem(path, "has a key that is not text; a { or [ at the beginning must be in quotes", key_node)
                continue
            key = str(key_node.value)
            inner = (*path, key)
            if inner in self.lines and key in result:
                self._problem(inner, "is defined twice", key_node)
            if what := _odd_key(key):
                self._problem(inner, what, key_node)
            self.lines[inner] = key_node.start_mark.line + 1
            result[key] = self.value(value_node, inner)
        return result

    def _scalar(self, node: yaml.Node, path: KeyPath) -> Any:
        assert isinstance(node, yaml.ScalarNode)
        if what := variable_meant(node.value):
            self._problem(path, what, node)
            return "unset"
        if "$" in node.value:
            substituted = _VARIABLE.sub(lambda match: self._variable(match, path, node), node.value)
            if substituted != node.value:
                self.substituted.add(path)
            tag = self._constructor.resolve(yaml.ScalarNode, substituted, (True, False))
            if node.style is not None:
                short = len(substituted) <= _MOST_DIGITS
                if tag in _NUMBERS and short and (variable := _VARIABLE.fullmatch(node.value)) and variable[1]:
                    unquoted = yaml.ScalarNode(tag, substituted, node.start_mark, node.end_mark)
                    self.unquoted[path] = self._constructor.construct_object(unquoted)
                tag = node.tag
            node = yaml.ScalarNode(tag, substituted, node.start_mark, node.end_mark, node.style)
        if node.tag == _INTEGER and len(node.value) > _MOST_DIGITS:
            what = f"is a number of more than {_MOST_DIGITS:,} digits; put it in quotes if it is text"
            self._problem(path, what, node)
            return None
        try:
            value = self._constructor.construct_object(node)
            if node.style is None and (what := _misread(node.value, value)):
                self._problem(path, what, node)
            if isinstance(value, float):
                value = WrittenFloat(value)
                value.text = node.value
            return value
        except yaml.YAMLError:
            # YAML's own words quote the line, and the tag may be a secret.
            self._problem(path, "begins with !, which is a tag in YAML; quote the value", node)
            return None
        except ValueError as error:
            self._problem(path, f"cannot be read ({error})", node)
            return None

    def _variable(self, match: re.Match[str], path: KeyPath, node: yaml.Node) -> str:
        if match[0] == "$${":
            return "${"
        if match[3] is not None:
            self._problem(
                path, "has a ${ that begins no variable; write ${NAME}, ${NAME:-default}, or $${ for a literal ${", node
            )
            return "unset"
        name, default = match[1], match[2]
        value = self._environment.get(name, self._environment.get(_OTHER_NAMES.get(name, name), default))
        if value is None:
            self._problem(path, f"the environment variable {name} is not set; set it or use ${{{name}:-default}}", node)
            return "unset"
        return value

    def _problem(self, path: KeyPath, what: str, node: yaml.Node) -> None:
        self.problems.append((path, what, node.start_mark.line + 1))


def _misread(text: str, value: Any) -> str:
    """Return how YAML reads a value that is not in quotes otherwise than its writer, empty if it does not."""
    if isinstance(value, str):
        quoted = value[:1] in _PRINTED_QUOTES and value
        return 'is in quotation marks of print, which YAML takes for letters; write ", or none' if quoted else ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ""
    # The number may be a token.
    if _OCTAL.fullmatch(text):
        return "begins with 0, so that YAML reads it as octal; write it without the 0, or put it in quotes"
    if _SIXTIES.fullmatch(text):
        return "has a colon, so that YAML reads it in sixties, 1:30 as 90; write one number, or put it in quotes"
    return ""


def _odd_key(key: str) -> str:
    """Return what is wrong with the spelling of a key, empty if nothing."""
    if found := _OTHER_SPACES.search(key):
        return f"has a character that only looks like a space, U+{ord(found[0]):04X}; write a space"
    if "${" in key:
        return "has a variable in the key; variables are for values alone"
    return ""
