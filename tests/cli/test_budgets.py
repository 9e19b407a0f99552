"""`tokentrace budgets`, as a user types it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import fastavro
import pytest
from rich.console import Console

from tests.cli.test_main import run
from tests.spanfactory import span
from tokentrace.decode.schemas.files import bundled_schema
from tokentrace.tools.budget_table import in_order, table

BUDGETS = """
budgets:
  - {name: day, amount: 2, period: day, time_zone: Asia/Kolkata, group_by: [caller], thresholds: [50, 100]}
  - {name: month, amount: 100}
"""
#: 18:30 in UTC, when a day begins in India.
MIDNIGHT_US = 1_787_164_200_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Budgets, and spans of 0.5 USD around a midnight, the last ones first."""
    (tmp_path / "tokentrace.yml").write_text(BUDGETS)
    spans = []
    for minute, caller in ((3, "a"), (2, "a"), (1, "b"), (0, "a"), (-1, "a"), (-2, "a")):
        ended_us = MIDNIGHT_US + minute * 60_000_000
        spans.append(span(cost_usd=0.5, caller=caller, started_at=ended_us - 1, ended_at=ended_us))
    with (tmp_path / "spans.avro").open("wb") as stream:
        fastavro.writer(stream, bundled_schema("span"), spans)
    return tmp_path


def test_past_spans_say_which_thresholds_would_have_been_reached(folder: Path) -> None:
    done = run("budgets", "test", "--from", "spans.avro", folder=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "2026-08-19T18:30:00Z  day caller=a  2026-08-19: 50 %, 1 of 2 USD",
        "2026-08-19T18:33:00Z  day caller=a  2026-08-20: 50 %, 1 of 2 USD",
        "2 thresholds reached of 2 budgets over 6 spans.",
    ]
    done = run("budgets", "test", "--from", "spans.avro", "--json", folder=folder)
    first = json.loads(done.stdout.splitlines()[0])
    assert first["budget"] == {"period": "2026-08-19", "percent": 50, "spent_usd": "1", "limit_usd": "2"}
    assert (first["alert"], first["group"], first["value"], first["window"]) == ("day", {"caller": "a"}, 1.0, "1d")
    assert done.stderr == "2 thresholds reached of 2 budgets over 6 spans.\n"


@pytest.mark.parametrize("arguments", [("list",), ("test", "--from", "spans.avro")])
def test_without_budgets_it_says_where_they_go(folder: Path, arguments: tuple[str, ...]) -> None:
    (folder / "tokentrace.yml").write_text("alerts: []\n")
    done = run("budgets", *arguments, folder=folder)
    assert done.returncode == 2
    assert done.stderr.startswith("tokentrace: budgets: tokentrace.yml has no budgets; add some")


def verdict(period: str, spent: str, **fields: object) -> dict[str, object]:
    return {
        "budget": "b", "group": {"caller": "[red]x"}, "period": period, "starts_at": f"{period}-01T00:00:00Z",
        "verdict": "ok", "spent_usd": spent, "limit_usd": "300", "since": None, **fields,
    }  # fmt: skip


def test_table_has_the_last_period_first_exact_amounts_and_no_markup() -> None:
    verdicts = [
        verdict("2026-09", "1"),
        verdict("2026-10", "2"),
        verdict("2026-10", "300.000000001", verdict="exceeded"),
    ]
    text = io.StringIO()
    console = Console(width=120, file=text)
    console.print(table(in_order(verdicts)))
    rows = [line.split() for line in text.getvalue().splitlines() if "caller=" in line]
    assert rows == [
        ["b", "2026-10", "caller=[red]x", "300.000000001", "300", "100.0", "exceeded"],
        ["b", "2026-10", "caller=[red]x", "2", "300", "0.7", "ok"],
        ["b", "2026-09", "caller=[red]x", "1", "300", "0.3", "ok"],
    ]
