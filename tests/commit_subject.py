"""Check of commit subjects: imperative mood, at most 72 characters, no full stop. A commit-msg hook runs it.

Usage: `python -m tests.commit_subject FILE`, where the file holds the message.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

MAX_LENGTH: Final = 72

#: First words that are not imperative, and their ends: Added, Fixes, Adding.
_NOT_IMPERATIVE: Final = re.compile(r"^(?:\w{2,}(?:ed|ing)|(?:Add|Fix|Remove|Move|Make|Use|Change|Update)e?s)\b")
_IMPERATIVE: Final = frozenset({"Bring", "Embed", "Feed", "Need", "Seed", "Shed", "Speed", "String"})


def problems(message: str) -> list[str]:
    """Return the problems of a commit message's subject, each as one sentence; git's own subjects have none."""
    lines = [line for line in message.splitlines() if not line.startswith("#")]
    subject = lines[0] if lines else ""
    if re.match(r"(Merge|Revert|fixup!|squash!|amend!) ?", subject):
        return []
    found = []
    if not subject.strip():
        found.append("The subject is empty.")
    if len(subject) > MAX_LENGTH:
        found.append(f"The subject has {len(subject)} characters; shorten it to {MAX_LENGTH}.")
    if subject.endswith("."):
        found.append("The subject ends with a full stop; remove it.")
    if subject[:1].islower():
        found.append("The subject begins with a small letter.")
    first = subject.partition(" ")[0]
    if _NOT_IMPERATIVE.match(subject) and first not in _IMPERATIVE:
        found.append(f"The subject begins with {first!r}; use the imperative, such as 'Add' or 'Fix'.")
    if len(lines) > 1 and lines[1].strip():
        found.append("The second line is not empty; separate the body from the subject.")
    return found


def main() -> int:
    """Print the problems of the message in the file that the command line names; exit code 1 if there are any."""
    found = problems(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for problem in found:
        print(problem)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
