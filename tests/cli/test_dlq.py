"""`tokentrace dlq` with a fake in place of the dead-letter topic."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_main import run
from tokentrace.tools import dlq
from tokentrace.tools.dlq import DeadLetterRecord


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

    replays: list[tuple[list[int], bool, bool]]
    closed: int

    def __init__(self, *_: Any) -> None:
        pass

    def read(self) -> Iterator[DeadLetterRecord]:
        return iter(RECORDS)

    def replay(self, wanted: Callable[[DeadLetterRecord], bool], *, again: bool, dry_run: bool) -> dict[str, int]:
        chosen = [letter.offset for letter in RECORDS if wanted(letter)]
        self.replays.append((chosen, again, dry_run))
        return {"llm-spans": len(chosen)} if chosen else {}

    def close(self) -> None:
        FakeLetters.closed += 1


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    FakeLetters.replays, FakeLetters.closed = [], 0
    monkeypatch.setattr(dlq, "DeadLetters", FakeLetters)
    (tmp_path / "tokentrace.yml").write_text("{}")
    return tmp_path


def test_list_prints_the_newest_letters_and_counts_all_of_them(folder: Path) -> None:
    done = run("dlq", "list", "--limit", "1", folder=folder)
    assert done.stdout.splitlines() == [
        "0:2  llm-spans/2@42  empty  The value is empty.",
        "3 dead letters; 2 empty; 1 malformed",
    ]
    assert FakeLetters.closed == 1


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
    ("options", "replay", "text"),
    [
        ((), ([0, 1, 2], False, False), "Sent 3 messages back to llm-spans.\n"),
        (("--dry-run",), ([0, 1, 2], False, True), "Would send 3 messages back to llm-spans.\n"),
        (("--reason", "empty", "--all"), ([0, 2], True, False), "Sent 2 messages back to llm-spans.\n"),
        (("--reason", "x"), ([], False, False), "Nothing to replay. Use --all to replay messages again.\n"),
        (("--reason", "x", "--all"), ([], True, False), "Nothing to replay.\n"),
    ],
)
def test_replay_sends_the_selected_letters(
    folder: Path, options: tuple[str, ...], replay: tuple[list[int], bool, bool], text: str
) -> None:
    done = run("dlq", "replay", *options, folder=folder)
    assert (done.returncode, done.stdout) == (0, text)
    assert FakeLetters.replays == [replay]
    assert FakeLetters.closed == 1
