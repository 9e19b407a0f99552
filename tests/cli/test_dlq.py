"""`tokentrace dlq` with a fake in place of the dead-letter topic."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_main import run
from tests.spanfactory import message, span
from tokentrace.tools import dlq, replay
from tokentrace.tools.dlq import DeadLetterRecord
from tokentrace.tools.replay import PassedLetter, ReplayReport


def record(offset: int, reason: str) -> DeadLetterRecord:
    return DeadLetterRecord(
        partition=0,
        offset=offset,
        reason=reason,
        error="The value is empty.",
        source=("llm-spans", 2, 40 + offset),
        key=b"\1",
        value=None,
        headers=(),
        timestamp_ms=5,
    )


RECORDS = [record(0, "empty"), record(1, "malformed"), record(2, "empty")]


class FakeLetters:
    """Dead letters in memory; records the options of a replay."""

    closed: int

    def __init__(self, *_: Any) -> None:
        pass

    topic = "llm-spans.dead-letters"

    def partitions(self) -> range:
        return range(1)

    def read(self, starts: dict[int, int] | None = None) -> Iterator[DeadLetterRecord]:
        return (letter for letter in RECORDS if letter.offset >= (starts or {0: 0})[0])

    def original(self, reference: DeadLetterRecord) -> DeadLetterRecord | None:
        return self.originals.get(reference.offset)

    originals: dict[int, DeadLetterRecord]

    def close(self) -> None:
        FakeLetters.closed += 1


class FakeReplay:
    """Records its arguments and the options of a replay."""

    made: dict[str, str]
    replays: list[tuple[list[int], bool, bool]]
    passed: list[PassedLetter]

    def __init__(self, _clients: Any, letters: FakeLetters, **arguments: str) -> None:
        assert isinstance(letters, FakeLetters)
        FakeReplay.made = arguments

    def run(self, wanted: Callable[[DeadLetterRecord], bool], *, again: bool, dry_run: bool) -> ReplayReport:
        chosen = [letter.offset for letter in RECORDS if wanted(letter)]
        self.replays.append((chosen, again, dry_run))
        return ReplayReport(len(chosen), self.passed)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    FakeReplay.replays, FakeReplay.passed, FakeLetters.closed = [], [], 0
    monkeypatch.setattr(replay, "Replay", FakeReplay)
    monkeypatch.setattr(dlq, "DeadLetters", FakeLetters)
    (tmp_path / "tokentrace.yml").write_text("{}")
    return tmp_path


def test_list_prints_the_newest_letters_and_counts_all_of_them(folder: Path) -> None:
    done = run("dlq", "list", "--limit", "1", folder=folder)
    assert done.stdout.splitlines() == [
        "0:2  1970-01-01T00:00:00Z  llm-spans/2@42  empty  key 01  no value  The value is empty.",
        "3 dead letters; 2 empty; 1 malformed",
    ]
    assert FakeLetters.closed == 1


def test_text_of_letters_cannot_write_to_the_terminal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forged = replace(RECORDS[0], reason="r\x1b[2J", error="e\n0:9  forged\u202e\x9b31m", source=("t\x07", 0, 1))
    monkeypatch.setattr(FakeLetters, "read", lambda _: iter([forged]))
    FakeReplay.passed = [PassedLetter(forged, "came from topic \x1b]0;x\x07")]
    done = run("dlq", "list", folder=folder)
    assert done.stdout.splitlines() == [
        r"0:0  1970-01-01T00:00:00Z  t\x07/0@1  r\x1b[2J  key 01  no value  e\n0:9  forged\u202e\x9b31m",
        r"1 dead letters; 1 r\x1b[2J",
    ]
    replayed = run("dlq", "replay", folder=folder)
    assert replayed.stderr == "Passed over: dead letter 0:0 came from topic \\x1b]0;x\\x07.\n"


def test_list_selects_a_reason(folder: Path) -> None:
    done = run("dlq", "list", "--reason", "malformed", folder=folder)
    assert done.stdout.splitlines()[-1] == "1 dead letters; 1 malformed"


def test_list_prints_json_with_the_message_in_hex(folder: Path) -> None:
    first, *_ = run("dlq", "list", "--json", folder=folder).stdout.splitlines()
    assert json.loads(first) == {
        "partition": 0,
        "offset": 0,
        "reason": "empty",
        "error": "The value is empty.",
        "source": {"topic": "llm-spans", "partition": 2, "offset": 40},
        "key_hex": "01",
        "value_hex": None,
        "timestamp_ms": 5,
    }


@pytest.mark.parametrize(
    ("options", "ran", "text"),
    [
        ((), ([0, 1, 2], False, False), "Sent 3 messages back to llm-spans.\n"),
        (("--dry-run",), ([0, 1, 2], False, True), "Would send 3 messages back to llm-spans.\n"),
        (("--reason", "empty", "--all"), ([0, 2], True, False), "Sent 2 messages back to llm-spans.\n"),
        (("--reason", "x"), ([], False, False), "Nothing to replay. Use --all to replay messages again.\n"),
        (("--reason", "x", "--all"), ([], True, False), "Nothing to replay.\n"),
    ],
)
def test_replay_sends_the_selected_letters(
    folder: Path, options: tuple[str, ...], ran: tuple[list[int], bool, bool], text: str
) -> None:
    done = run("dlq", "replay", *options, folder=folder)
    assert (done.returncode, done.stdout) == (0, text)
    assert FakeReplay.replays == [ran]
    assert FakeReplay.made == {"source_topic": "llm-spans", "group_id": "tokentrace"}
    assert FakeLetters.closed == 1


def test_replay_names_the_first_letters_that_it_passed_over(folder: Path) -> None:
    FakeReplay.passed = [PassedLetter(RECORDS[1], "was refused by topic llm-spans (too large)")] * 23
    done = run("dlq", "replay", folder=folder)
    assert (done.returncode, done.stdout) == (0, "Sent 3 messages back to llm-spans.\n")
    lines = done.stderr.splitlines()
    assert lines[:20] == ["Passed over: dead letter 0:1 was refused by topic llm-spans (too large)."] * 20
    assert lines[20:] == ["Passed over: 3 more."]


def test_list_says_that_a_letter_is_a_reference(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = replace(RECORDS[0], length=3_000_000, sha256="00ff")
    monkeypatch.setattr(FakeLetters, "read", lambda _: iter([reference]))
    line = (
        "0:0  1970-01-01T00:00:00Z  llm-spans/2@40  empty  key 01  truncated: a reference to a value of "
        "3,000,000 bytes  The value is empty."
    )
    assert run("dlq", "list", folder=folder).stdout.splitlines()[0] == line
    shown = json.loads(run("dlq", "list", "--json", folder=folder).stdout)
    assert shown["truncated"] == {"length": 3_000_000, "sha256": "00ff"}


# Showing one.


def letter(offset: int, value: bytes, **more: Any) -> DeadLetterRecord:
    return replace(record(offset, "negative_tokens"), value=value, timestamp_ms=1_790_000_000_000 + offset, **more)


BAD, GOOD = message(span(model="gpt-4o", prompt_tokens=-1)), message(span(model="gpt-4o"))


@pytest.fixture
def letters(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    reference = letter(2, GOOD[:9], length=len(GOOD), reason="malformed")
    monkeypatch.setattr(f"{__name__}.RECORDS", [letter(0, BAD), letter(1, GOOD), reference, letter(3, b"junk")])
    FakeLetters.originals = {2: replace(reference, value=GOOD)}
    return folder


def test_show_decodes_a_letter_and_marks_the_field_that_it_was_rejected_for(letters: Path) -> None:
    done = run("dlq", "show", "0:0", folder=letters)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Letter     0:0  2026-09-21T14:13:20Z  llm-spans/2@40  negative_tokens")
    (line,) = [line for line in done.stdout.splitlines() if line.endswith("<-- here")]
    assert line.split()[:2] == ["prompt_tokens", "-1"]
    assert "Change     Leave a count out where it is not known." in done.stdout
    assert "replay" not in done.stdout


def test_show_says_that_a_letter_would_be_counted_now(letters: Path) -> None:
    for place in ("0:1", "0:2"):
        assert "A worker counts this message now" in run("dlq", "show", place, folder=letters).stdout


def test_show_takes_the_newest_of_all_or_of_a_reason(letters: Path) -> None:
    assert json.loads(run("dlq", "show", "--json", folder=letters).stdout)["letter"]["offset"] == 3
    done = run("dlq", "show", "--json", "--reason", "malformed", folder=letters)
    shown = json.loads(done.stdout)
    assert (shown["letter"]["offset"], shown["now"]["counted"]) == (2, True)


def test_headers_of_tokentrace_are_not_those_of_the_message(letters: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = (("tokentrace.reason", b"x"), ("__value_schema_id", b"\0\0\0\0\5"))
    monkeypatch.setattr(f"{__name__}.RECORDS", [letter(0, GOOD[10:], headers=headers)])
    assert "unknown_schema_id" in run("dlq", "show", folder=letters).stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["0:9"], "llm-spans.dead-letters has no dead letter at 0:9."),
        (["7:0"], "llm-spans.dead-letters has no dead letter at 7:0."),
        (["--reason", "none"], "llm-spans.dead-letters has no dead letter."),
        (["zero"], "dlq show: 'zero' is not PARTITION:OFFSET, such as 0:42."),
    ],
)
def test_show_says_what_it_does_not_find(letters: Path, arguments: list[str], words: str) -> None:
    done = run("dlq", "show", *arguments, folder=letters)
    assert (done.returncode, done.stderr) == (2, f"tokentrace: {words}\n")


def test_show_says_that_the_message_of_a_reference_is_gone(letters: Path) -> None:
    FakeLetters.originals = {}
    done = run("dlq", "show", "0:2", folder=letters)
    assert (done.returncode, done.stderr) == (
        2,
        "tokentrace: The message that the dead letter refers to is gone from llm-spans.\n",
    )
