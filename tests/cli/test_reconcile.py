"""`tokentrace reconcile`: exports of every kind against a ledger, each difference with its likely reason."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_main import run
from tests.ledger.helpers import DAY_US, RollupTopic, follower
from tests.spanfactory import NOW_US, span
from tokentrace.ledger.parts import Parts

DAY, NEXT_DAY = "2026-09-21", "2026-09-22"
START = int(datetime(2026, 9, 21, tzinfo=UTC).timestamp())
CALLS = [span(cost_usd=0.5), span(cost_usd=0.25), span(model="gpt-4o-mini", cost_usd=0.125)]
CLAUDE = span(model="claude-sonnet-4-5", provider="anthropic", cost_usd=2.0, prompt_tokens=1000, completion_tokens=50)
LATER = {**CALLS[0], "started_at": NOW_US + DAY_US, "ended_at": NOW_US + DAY_US}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tokentrace.yml"
    path.write_text("")
    topic = RollupTopic()
    topic.commit([*CALLS, CLAUDE, LATER], NOW_US + DAY_US)
    follower(topic, f"sqlite:///{tmp_path / 'tokentrace-ledger.db'}").run(until_end=True)
    return path


def reconcile(config: Path, provider: str, export: Any, *arguments: str, code: int = 0) -> dict[str, Any]:
    file = config.with_name("export")
    file.write_text(export if isinstance(export, str) else json.dumps(export))
    done = run("reconcile", "--config", str(config), "--provider", provider, str(file), "--json", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def verdicts(found: dict[str, Any]) -> dict[tuple[str, str], tuple[str, str]]:
    return {(row["day"], row["model"]): (row["verdict"], row["reason"]) for row in found["rows"]}


def openai_usage(*buckets: tuple[int, list[tuple[str, int, int, int]]]) -> dict[str, Any]:
    names = ("model", "input_tokens", "output_tokens", "num_model_requests")
    return {
        "object": "page",
        "data": [
            {"object": "bucket", "start_time": start, "results": [dict(zip(names, row, strict=True)) for row in rows]}
            for start, rows in buckets
        ],
    }


def test_usage_of_openai_matches_under_the_names_of_releases(config: Path) -> None:
    export = openai_usage(
        (START, [("gpt-4o-2024-08-06", 200, 40, 2), ("gpt-4o-mini-2024-07-18", 100, 20, 1)]),
        (START + 86_400, [("gpt-4o-2024-08-06", 100, 20, 1)]),
    )
    found = reconcile(config, "openai", export)
    assert found["counts"] == {"matched": 3}
    assert reconcile(config, "openai", "\n".join([json.dumps(export)]))["counts"] == {"matched": 3}


def test_calls_that_are_missing_extra_or_on_another_day_are_told_apart(config: Path) -> None:
    export = openai_usage(
        (START, [("gpt-4o", 250, 50, 3), ("o3", 10, 5, 1)]), (START + 86_400, [("gpt-4o", 50, 10, 0)])
    )
    found = verdicts(reconcile(config, "openai", export, code=1))
    days = "the same calls on other days: the export has days of another time zone, or calls ran past midnight"
    assert found == {
        (DAY, "gpt-4o"): ("different", days),
        (NEXT_DAY, "gpt-4o"): ("different", days),
        (DAY, "gpt-4o-mini"): ("extra", "calls of another account or provider, or a day that the export lacks"),
        (DAY, "o3"): ("missing", "calls that nobody published, or that have another model's name"),
    }
    more = openai_usage((START, [("gpt-4o", 900, 90, 9), ("gpt-4o-mini", 100, 20, 1)]))
    assert verdicts(reconcile(config, "openai", more, code=1))[DAY, "gpt-4o"] == (
        "different", "calls that nobody published",
    )  # fmt: skip


def test_costs_of_openai_are_compared_to_the_cent(config: Path) -> None:
    def export(amount: float) -> dict[str, Any]:
        results = [
            {"amount": {"value": amount, "currency": "usd"}, "line_item": "gpt-4o-2024-08-06, input"},
            {"amount": {"value": 0.35, "currency": "usd"}, "line_item": "gpt-4o-2024-08-06, output"},
            {"amount": {"value": 0.125, "currency": "usd"}, "line_item": "gpt-4o-mini-2024-07-18, input"},
        ]
        return {"object": "page", "data": [{"start_time": START, "results": results}]}

    assert reconcile(config, "openai", export(0.4))["counts"] == {"matched": 2}
    assert reconcile(config, "openai", export(0.405))["counts"] == {"matched": 2}
    found = reconcile(config, "openai", export(0.25), code=1)
    reason = "another price or other calls: the export's cost is 0.8000 times the ledger's"
    assert verdicts(found)[DAY, "gpt-4o"] == ("different", reason)
    assert [row["drift_nano_usd"] for row in found["rows"]] == [150_000_000, 0]


def test_usage_and_costs_of_anthropic_are_read(config: Path) -> None:
    usage = {
        "uncached_input_tokens": 700,
        "cache_creation": {"ephemeral_1h_input_tokens": 100, "ephemeral_5m_input_tokens": 0},
        "cache_read_input_tokens": 200,
        "output_tokens": 50,
        "model": "claude-sonnet-4-5-20250929",
    }
    costs = {"currency": "USD", "amount": "200.0", "model": "claude-sonnet-4-5-20250929"}
    for result in (usage, costs):
        export = {"data": [{"starting_at": "2026-09-21T00:00:00Z", "results": [result]}], "has_more": False}
        assert reconcile(config, "anthropic", export)["counts"] == {"matched": 1}


def test_csv_names_the_price_where_the_usage_is_the_same(config: Path) -> None:
    export = f"day,model,cost_usd,prompt_tokens\n{DAY},gpt-4o,0.675,200\n{DAY},gpt-4o-mini,0.125,100\n"
    found = verdicts(reconcile(config, "csv", export, "--of", "openai", code=1))
    assert found == {
        (DAY, "gpt-4o"): ("different", "another price for the same usage: the export's is 0.9000 times the ledger's"),
        (DAY, "gpt-4o-mini"): ("matched", ""),
    }


def test_days_of_a_csv_are_those_of_its_zone(tmp_path: Path) -> None:
    """A call that ends at half past six in the evening, UTC, is of the next day in Kolkata."""
    config = tmp_path / "tokentrace.yml"
    config.write_text("")
    midnight_us = (START + 18 * 3600 + 1800) * 1_000_000
    calls = [span(cost_usd=cost, ended_at=midnight_us + at) for cost, at in ((0.5, -60_000_000), (0.25, 0))]
    topic = RollupTopic()
    topic.commit(calls, midnight_us + DAY_US)
    url = f"sqlite:///{tmp_path / 'tokentrace-ledger.db'}"
    follower(topic, url, parts=Parts(["Asia/Kolkata"])).run(until_end=True)
    export = f"day,model,cost_usd\n{DAY},gpt-4o,0.5\n{NEXT_DAY},gpt-4o,0.25\n"
    assert reconcile(config, "csv", export, "--zone", "Asia/Kolkata")["counts"] == {"matched": 2}
    assert reconcile(config, "csv", export, code=1)["counts"] == {"different": 1, "missing": 1}
    arguments = ("reconcile", "--config", str(config), "--provider", "openai", str(config.with_name("export")))
    assert "the exports of openai have days of UTC" in run(*arguments, "--zone", "Asia/Kolkata").stderr


def test_drift_is_written_for_prometheus(config: Path, tmp_path: Path) -> None:
    export = f"day,model,cost_usd\n{DAY},gpt-4o,0.5\n{DAY},gpt-4o-mini,0.125\n"
    reconcile(config, "csv", export, "--of", "openai", "--metrics", str(tmp_path / "drift.prom"), code=1)
    lines = (tmp_path / "drift.prom").read_text().splitlines()
    assert 'tokentrace_reconcile_drift_usd{provider="csv"} 0.250000000' in lines
    assert 'tokentrace_reconcile_differences{provider="csv"} 1' in lines


def test_lines_are_for_people(config: Path) -> None:
    file = config.with_name("export.csv")
    file.write_text(f"day,model,prompt_tokens\n{DAY},gpt-4o,200\n{DAY},gpt-4o-mini,100\n{DAY},claude-sonnet-4-5,1000\n")
    done = run("reconcile", "--config", str(config), "--provider", "csv", str(file))
    assert done.stdout.splitlines()[0] == "Figures are the export's : the ledger's."
    assert done.stdout.splitlines()[-2:] == [
        "2026-09-21  matched    gpt-4o-mini: prompt tokens 100 : 100",
        "3 matched.",
    ]


@pytest.mark.parametrize(
    ("provider", "text", "problem"),
    [
        ("openai", "nothing", "is not an answer of openai's usage or cost API"),
        ("openai", '{"data": [], "has_more": true}', "its last page says that there are more"),
        ("openai", '{"data": []}', "has no usage and no costs of openai"),
        ("openai", '{"data": [{"start_time": 1, "results": [{"amount": {"value": 1, "currency": "eur"}}]}]}', "eur"),
        ("anthropic", '{"data": [{"results": []}]}', "is not an answer of anthropic's usage or cost API"),
        ("csv", "a,b\n1,2\n", "needs the columns day and model, and any of cost_usd"),
        (
            "csv",
            "day,model,cost_usd\n30.10.2026,x,1\n",
            "line 2: the day '30.10.2026' is not a date such as",
        ),
        ("csv", 'day,model,cost_usd\n2026-10-30,x,"1,5"\n', "line 2: the cost '1,5' is not a number such as 12.50"),
        ("anthropic", '{"data": [{}]}', "('starting_at' is missing)"),
    ],
)
def test_files_that_are_no_export_are_refused(config: Path, provider: str, text: str, problem: str) -> None:
    file = config.with_name("export")
    file.write_text(text)
    done = run("reconcile", "--config", str(config), "--provider", provider, str(file))
    assert done.returncode == 2
    assert problem in done.stderr


@pytest.mark.parametrize("tolerance", ["abc", "nan", "-1", "inf"])
def test_a_tolerance_is_an_amount(config: Path, tolerance: str) -> None:
    file = config.with_name("export")
    file.write_text(f"day,model,cost_usd\n{DAY},gpt-4o,1\n")
    done = run("reconcile", "--config", str(config), "--provider", "csv", str(file), f"--tolerance={tolerance}")
    assert (done.returncode, "--tolerance is not an amount in USD" in done.stderr) == (2, True)


def test_a_metric_that_cannot_be_written_is_a_users_error(config: Path, tmp_path: Path) -> None:
    file = config.with_name("export")
    file.write_text(f"day,model,cost_usd\n{DAY},gpt-4o,1\n")
    arguments = ("reconcile", "--config", str(config), "--provider", "csv", str(file))
    done = run(*arguments, "--metrics", str(tmp_path / "no" / "m.prom"))
    assert (done.returncode, "cannot be written (No such file or directory)" in done.stderr) == (2, True)
