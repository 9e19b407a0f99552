"""`tokentrace state` with a fake in place of the state topic."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import click
import pytest

from tests.cli.test_main import run
from tokentrace.model.snapshot import Group
from tokentrace.state import admin
from tokentrace.state.offset_moves import OffsetMove
from tokentrace.state.replica_totals import ReplicaTotals

TOTALS = [
    ReplicaTotals(
        replica=replica,
        committed_at_s=1000.0,
        positions={("llm-spans", 0): 7},
        sums={
            (Group("gpt-4o", "openai", "search"), "ok"): {
                "spans": spans,
                "cost_nano_usd": 1_500_000_000 * spans,
                "prompt_tokens": 1000 * spans,
                "cached_prompt_tokens": 300 * spans,
                "completion_tokens": 10 * spans,
            }
        },
    )
    for replica, spans in (("a", 1), ("b", 2))
]


class FakeAdmin:
    """Records the changes that a command asks the state for."""

    changes: list[tuple[str, Any]]

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def replicas(self) -> list[ReplicaTotals]:
        return TOTALS

    def counted_up_to(self) -> dict[int, int]:
        return {0: 7}

    moves: ClassVar[dict[int, OffsetMove]] = {}
    lost: ClassVar[dict[int, int]] = {}

    def offset_moves(self) -> dict[int, OffsetMove]:
        return self.moves

    def move_offsets(self, moves: dict[int, OffsetMove]) -> None:
        self.changes.append(("offsets", moves))

    def adopt_offsets(self) -> dict[int, int]:
        return self.lost

    def forget_positions(self, replica: str) -> None:
        self.changes.append(("positions", replica))

    def forget_totals(self, replica: str) -> int:
        self.changes.append(("totals", replica))
        return 1234


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    FakeAdmin.changes = []
    monkeypatch.setattr(admin, "StateAdmin", FakeAdmin)
    return FakeAdmin.changes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tokentrace.yml").write_text("{}")
    return tmp_path


def decline(_: str, abort: bool) -> None:
    assert abort
    raise click.Abort


def test_show_prints_a_table_with_the_sum_of_all_replicas(changes: list[Any], folder: Path) -> None:
    done = run("state", "show", "--by", "replica", folder=folder)
    rows = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert rows[0] == ["replica", "spans", "cost", "USD", "prompt", "tokens", "cached", "completion", "tokens"]
    assert rows[-3:] == [
        ["b", "2", "3.000000000", "2,000", "600", "20"],
        ["a", "1", "1.500000000", "1,000", "300", "10"],
        ["all", "3", "4.500000000", "3,000", "900", "30"],
    ]
    assert changes == []


def figures(*arguments: str, folder: Path) -> list[list[str]]:
    """Return the words of each row of a table, without the header."""
    done = run("state", "show", *arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines() if line.strip() and "\u2500" not in line][1:]


def test_show_has_subtotals_of_the_first_label(
    changes: list[Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = {
        (Group(model, "p", caller), "ok"): {"spans": spans, "cost_nano_usd": cost}
        for model, caller, spans, cost in (("a", "x", 1, 5), ("b", "x", 9, 2), ("a", "y", 3, 6), ("a", "z", 2, 1))
    }
    monkeypatch.setattr(FakeAdmin, "replicas", lambda _: [replace(TOTALS[0], sums=sums)])
    rows = figures("--by", "caller", "--by", "model", folder=folder)
    assert [row[:4] for row in rows] == [
        ["y", "a", "3", "0.000000006"],
        ["x", "a", "1", "0.000000005"],
        ["x", "b", "9", "0.000000002"],
        ["x", "all", "10", "0.000000007"],
        ["z", "a", "2", "0.000000001"],
        ["all", "15", "0.000000014", "0"],
    ]
    assert [row[0] for row in figures("--by", "caller", "--sort", "spans", folder=folder)] == ["x", "y", "z", "all"]
    assert [row[0] for row in figures("--by", "caller", "--sort", "name", folder=folder)] == ["x", "y", "z", "all"]
    assert [row[0] for row in figures("--by", "caller", "--sort", "cost", folder=folder)] == ["x", "y", "z", "all"]
    limited = figures("--by", "caller", "--limit", "1", folder=folder)
    assert [row[:2] for row in limited] == [["x", "10"], ["...", "2"], ["all", "15"]]


def test_show_has_every_counted_unit_in_its_own_quantity(
    changes: list[Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = {(Group("whisper", "p", ""), "ok"): {"spans": 1, "second": 1500, "cache_write_tokens": 7, "web_searches": 2}}
    monkeypatch.setattr(FakeAdmin, "replicas", lambda _: [replace(TOTALS[0], sums=sums)])
    done = run("state", "show", "--units", folder=folder)
    header, row = (line.split() for line in done.stdout.splitlines() if "spans" in line or "whisper" in line)
    assert sorted(header[-3:]) == ["cache_write", "second", "web_search"]
    named = dict(zip(header[-3:], row[-3:], strict=True))
    assert named == {"cache_write": "7", "second": "1.500", "web_search": "2"}
    assert "second" not in run("state", "show", folder=folder).stdout


@pytest.mark.parametrize(
    ("name", "text"), [("[/bold]", "[/bold]"), ("[red]x[/red]", "[red]x[/red]"), ("a\x1b[2J\nb", r"a\x1b[2J\nb")]
)
def test_show_prints_names_as_plain_text(
    changes: list[Any], folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setattr(FakeAdmin, "replicas", lambda _: [replace(TOTALS[0], replica=name)])
    done = run("state", "show", "--by", "replica", folder=folder)
    assert any(line.split()[:2] == [text, "1"] for line in done.stdout.splitlines()), done.stdout


def test_show_prints_json_by_model_unless_labels_are_given(changes: list[Any], folder: Path) -> None:
    document = json.loads(run("state", "show", "--json", folder=folder).stdout)
    assert document["totals"]["cost_nano_usd"] == 4_500_000_000
    assert [(row["model"], row["spans"]) for row in document["rows"]] == [("gpt-4o", 3)]
    assert document["replicas"] == {"a": {"committed_at": 1000.0}, "b": {"committed_at": 1000.0}}
    assert document["counted_up_to"] == {"0": 7}
    assert changes == []


def test_reset_of_offsets_prints_the_moved_partitions(
    changes: list[Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeAdmin, "moves", {1: OffsetMove(5, 9, "")})
    assert run("state", "reset", "--offsets", folder=folder).stdout == "Partition 1: offset 5 -> 9.\n"
    assert changes == [("offsets", {1: OffsetMove(5, 9, "")})]


def test_reset_of_offsets_that_are_not_behind_changes_nothing(changes: list[Any], folder: Path) -> None:
    done = run("state", "reset", "--offsets", folder=folder)
    assert done.stdout == "The group's offsets are not behind the counted positions.\n"
    assert changes == []


def test_reset_of_offsets_that_could_skip_a_recreated_topic_changes_nothing_unless_confirmed(
    changes: list[Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeAdmin, "moves", {1: OffsetMove(0, 9, "ends at offset 9, before what is counted")})
    monkeypatch.setattr(click, "confirm", decline)
    done = run("state", "reset", "--offsets", folder=folder)
    assert (done.returncode, done.stdout.splitlines()[1:]) == (130, [])
    assert "Partition 1 ends at offset 9, before what is counted." in done.stderr
    assert "`tokentrace state reset --positions` counts everything that it holds" in done.stderr
    assert changes == []
    assert run("state", "reset", "--offsets", "--yes", folder=folder).stdout == "Partition 1: offset 0 -> 9.\n"
    assert len(changes) == 1


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("positions", "Replica a continues from the group's offsets.\n"),
        ("totals", "Removed 1,234 records of replica a.\n"),
    ],
)
def test_reset_of_a_replica_changes_it_without_a_question(
    kind: str, text: str, changes: list[Any], folder: Path
) -> None:
    done = run("state", "reset", f"--{kind}", "--replica", "a", "--yes", folder=folder)
    assert (done.returncode, done.stdout) == (0, text)
    assert changes == [(kind, "a")]


def test_reset_of_positions_is_for_every_replica_unless_one_is_named(changes: list[Any], folder: Path) -> None:
    done = run("state", "reset", "--positions", "--yes", folder=folder)
    assert done.stdout.splitlines() == [f"Replica {name} continues from the group's offsets." for name in ("a", "b")]
    assert changes == [("positions", "a"), ("positions", "b")]


def test_reset_of_positions_names_the_offsets_whose_state_is_lost(
    changes: list[Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeAdmin, "lost", {1: 9, 0: 60})
    done = run("state", "reset", "--positions", "--yes", folder=folder)
    assert done.stdout.splitlines()[:2] == [
        "Partition 0 continues from offset 60; its state is lost.",
        "Partition 1 continues from offset 9; its state is lost.",
    ]


@pytest.mark.parametrize(
    ("kind", "question"),
    [
        ("positions", "Replica a may then count spans twice. Continue?"),
        ("totals", "The totals of replica a will be deleted permanently. Continue?"),
    ],
)
def test_reset_of_a_replica_changes_nothing_unless_confirmed(
    kind: str, question: str, changes: list[Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions: list[str] = []

    def ask(text: str, abort: bool) -> None:
        questions.append(text)
        decline(text, abort)

    monkeypatch.setattr(click, "confirm", ask)
    done = run("state", "reset", f"--{kind}", "--replica", "a", folder=folder)
    assert (done.returncode, done.stdout) == (130, "")
    assert (questions, changes) == ([question], [])
