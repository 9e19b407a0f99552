"""Words for a file that is not text, or not YAML: what is wrong, where, and what to write instead.

The YAML library says what its parser expected. What is here says what the writer of the file has done. No value is
quoted, since a file that cannot be read may have a secret anywhere.
"""

from __future__ import annotations

import re
from typing import Final

import yaml

#: Marks that Git leaves in a file with a conflict.
_CONFLICT: Final = re.compile(r"^(?:<{7}|>{7})(?: |$)", re.MULTILINE)
#: An entry of a list without its space.
_NO_SPACE: Final = re.compile(r"\s*-[A-Za-z_]+:(?: |$)")
#: In what YAML says of a value that is not quoted.
_NAME: Final = re.compile(r"(?<=alias )'.*'|(?<=handle )'.*'")
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")


def text_of(content: bytes) -> str:
    """Return the text of a file. Raises ValueError with what is wrong."""
    if content.startswith(_UTF16) or content.count(0) > len(content) // 4:
        raise ValueError("is UTF-16 text; save it as UTF-8 (line 1)")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        what = f"is not UTF-8 text, its byte {error.start} is 0x{content[error.start]:02x}; save it as UTF-8"
        raise ValueError(f"{what} (line {line})") from error


def in_words(error: yaml.YAMLError, text: str) -> str:
    """Return what is wrong, with its line."""
    if conflict := _CONFLICT.search(text):
        line = text.count("\n", 0, conflict.start()) + 1
        return f"has the two sides of a conflict that Git has left; keep one of them (line {line})"
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, int(error.position)) + 1
        return f"has the character U+{error.character:04X}, which no text has; take it out (line {line})"
    if not isinstance(error, yaml.MarkedYAMLError):
        return f"is not valid YAML: {error}"
    problem, mark = _described(error, text)
    return f"is not valid YAML: {problem}" + ("" if mark is None else f" (line {mark})")


def _described(error: yaml.MarkedYAMLError, text: str) -> tuple[str, int | None]:
    """Return (what is wrong, the line)."""
    problem, mark, context = error.problem or "", error.problem_mark, error.context_mark
    if mark is None:
        return problem, None
    line = mark.line + 1
    if context is not None and (not text[mark.index :].strip() or _is_of_a_later_line(problem, context, mark)):
        # What is not closed is found at the end, or at the next key, and begins elsewhere.
        opened = text[context.index : context.index + 1]
        return (f"what begins with {opened} does not end" if opened in ("{", "[", '"', "'") else problem), (
            context.line + 1
        )
    lines = text.splitlines()
    before = lines[mark.line][: mark.column] if mark.line < len(lines) else ""
    if problem == "mapping values are not allowed here":
        if entry := next((row for row in range(mark.line, -1, -1) if _NO_SPACE.match(lines[row])), None):
            return "a space is missing behind the - that begins the entry of a list", entry + 1
        return (
            "a ':' is where none can be; check the spaces before the line, and quote a value that contains ': '",
            line,
        )
    if found := re.fullmatch(r"found character (.+) that cannot start any token", problem):
        if found[1] != r"'\t'":
            return f"a value that begins with {found[1]} must be in quotes", line
        return f"a tab is before the {'value' if before.strip() else 'key'}; use spaces", line
    if found := re.fullmatch(r"found unknown escape character '(.)'", problem):
        return f"\\{found[1]} means nothing in double quotes; use single quotes, or write \\\\{found[1]}", line
    for shape, meaning in _MEANINGS:
        if shape.fullmatch(problem):
            return meaning, line
    # A quoted name may be a secret that begins with "*" or "!".
    return _NAME.sub("of a value that begins with * or !; quote it", problem), line


def _is_of_a_later_line(problem: str, context: yaml.Mark, mark: yaml.Mark) -> bool:
    return problem.startswith("expected ','") and problem.endswith("':'") and mark.line > context.line


#: Words of the library -> their meaning for the writer of the file.
_MEANINGS: Final = tuple(
    (re.compile(shape), meaning)
    for shape, meaning in (
        ("but found another document", "a second document begins with ---; a configuration is one"),
        (r"expected ',' or '.', but got '[\[{]'", 'a value with { or [ in it must be in quotes here, as "${NAME}" is'),
        (r"expected ',' or '.', but got .*", "a comma is missing, or a value with : or , in it is not in quotes"),
        (r"expected alphabetic or numeric character, .*", "a key or value that begins with * or & must be in quotes"),
        (
            r"expected <block end>, but found '(<block mapping start>|<block sequence start>)'",
            "the line has as many spaces before it as no key above; align it with the keys of its section",
        ),
        (
            r"expected <block end>, but found '<scalar>'",
            "text follows a value that has ended; put all of it in quotes, where a ' in ' ' is written twice",
        ),
        (
            r"expected <block end>, but found '(\?|-)'",
            "a key and an entry of a list are at the same place; check the spaces before the line",
        ),
        (r"expected <block end>, but found '([\]}])'", "a ] or } ends what has not begun"),
        (
            "expected '<document start>', but found '<block mapping start>'",
            "a ':' is missing before the line, or the first key has spaces before it; sections begin without spaces",
        ),
        (
            "expected '<document start>', but found .*",
            "the text is in another format; write a section as `kafka:`, and its keys below it as `  topic: NAME`",
        ),
        (
            "sequence entries are not allowed here",
            "a list begins on the line of its key; begin it on the next line, or write [a, b]",
        ),
    )
)  # fmt: skip
