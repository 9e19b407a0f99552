"""`tokentrace bill` and `tokentrace ledger` on a ledger in SQLite."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pyarrow import parquet

from tests.cli.test_main import run, run_process
from tests.ledger.helpers import RollupTopic, follower
from tests.spanfactory import NOW_US, span
from tokentrace.cli.output import print_table
from tokentrace.tools.state_table import table

SPANS = [span(caller=caller, model=model, cost_usd=0.25) for caller in "ab" for model in ("gpt-4o", "gpt-4o-mini")]
MONTH = ("--month", "2026-09")


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "tokentrace.yml"
    path.write_text("pricing: {}\n")
    topic = RollupTopic()
    topic.commit([*SPANS, span(caller="c", cost_usd=None)], NOW_US)
    follower(topic, f"sqlite:///{tmp_path / 'tokentrace-ledger.db'}").run(until_end=True)
    return str(path)


def bill(config: str, *arguments: str, code: int = 0) -> str:
    done = run("bill", "--config", config, *arguments)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def test_bill_is_a_table_with_subtotals_and_what_has_to_be_known(config: str) -> None:
    lines = bill(config, *MONTH, "--by", "caller,model").splitlines()
    assert [line.split() for line in lines if line.split()[:1] in (["a"], ["all"])] == [
        ["a", "gpt-4o", "1", "0.250000000", "100", "0", "20"],
        ["a", "gpt-4o-mini", "1", "0.250000000", "100", "0", "20"],
        ["a", "all", "2", "0.500000000", "200", "0", "40"],
        ["all", "5", "1.000450000", "500", "0", "100"],
    ]
    assert lines[-3].strip() == "From 2026-09-01T00:00:00+00:00 to before 2026-10-01T00:00:00+00:00 (UTC)."


def test_bill_prints_nothing_else(config: str) -> None:
    done = run_process("bill", "--config", config, *MONTH, "--format", "csv")
    assert (done.returncode, done.stderr) == (0, "")


def test_bill_formats_agree(config: str, tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(bill(config, *MONTH, "--format", "csv"))))
    document = json.loads(bill(config, *MONTH, "--format", "json"))
    bill(config, *MONTH, "--format", "parquet", "--output", str(tmp_path / "bill.parquet"))
    table = parquet.read_table(tmp_path / "bill.parquet").to_pylist()
    by_model = {row["model"]: row["cost_nano_usd"] for row in document["rows"]}
    assert by_model == {"gpt-4o": 500_450_000, "gpt-4o-mini": 500_000_000}
    assert {row["model"]: int(row["cost_nano_usd"]) for row in rows} == by_model
    assert {row["model"]: row["cost_nano_usd"] for row in table} == by_model
    assert document["period"] == {"from": "2026-09-01T00:00:00+00:00", "to": "2026-10-01T00:00:00+00:00", "zone": "UTC"}


def test_bill_is_written_to_a_file(config: str, tmp_path: Path) -> None:
    assert bill(config, *MONTH, "--format", "csv", "--output", str(tmp_path / "bill.csv")) == ""
    assert (tmp_path / "bill.csv").read_text().startswith("model,spans,cost_nano_usd")
    bill(config, *MONTH, "--output", str(tmp_path / "bill.txt"))
    assert "1.000450000" in (tmp_path / "bill.txt").read_text()


def test_other_prices_and_models_are_compared(config: str, tmp_path: Path) -> None:
    (tmp_path / "prices.yml").write_text("pricing: {discounts: [{provider: openai, percent: 10}]}\n")
    document = json.loads(bill(config, *MONTH, "--reprice", str(tmp_path / "prices.yml"), "--format", "json"))
    assert document["total"]["billed_nano_usd"] == 1_000_450_000
    assert document["total"]["repriced_nano_usd"] == 1_000_405_000
    table = bill(config, *MONTH, "--what-if", "gpt-4o=gpt-4o-mini")
    assert "0.500000000 USD are the same in both" in table
    rows = csv.DictReader(io.StringIO(bill(config, *MONTH, "--what-if", "gpt-4o=gpt-4o-mini", "--format", "csv")))
    assert [(row["model"], row["at_most_wrong_by_nano_usd"]) for row in rows] == [("gpt-4o-mini", "0"), ("gpt-4o", "0")]


def test_a_correction_is_entered_once(config: str, tmp_path: Path) -> None:
    (tmp_path / "prices.yml").write_text("pricing: {discounts: [{provider: openai, percent: 10}]}\n")
    arguments = ["--config", config, *MONTH, "--reprice", str(tmp_path / "prices.yml"), "--reason", "contract", "--yes"]
    done = run("ledger", "correct", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "-0.000045000 USD for 1 spans.\nEntered correction 1.\n"
    assert run("ledger", "correct", *arguments).returncode == 2
    assert "Corrections have added -0.000045000 USD." in bill(config, *MONTH)
    assert "Corrections" not in bill(config, *MONTH, "--as-of", "2026-09-30")


def test_status_shows_the_position_and_the_hours(config: str) -> None:
    done = run("ledger", "status", "--config", config, "--json")
    found = json.loads(done.stdout)
    assert (found["next_offset"], found["groups"], found["first_hour"]) == (2, 5, "2026-09-21 14:00 UTC")
    assert "Topic     g.rollups, offsets 0 to 2" in run("ledger", "status", "--config", config).stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "Set --month, or --from and --to."),
        ([*MONTH, "--from", "2026-09-01"], "Set --month, or --from and --to."),
        ([*MONTH, "--by", "model,model"], "--by needs different labels"),
        ([*MONTH, "--format", "parquet"], "--format parquet requires --output FILE"),
        ([*MONTH, "--what-if", "a=gpt-4o", "--format", "parquet"], "take --format table, csv or json"),
        ([*MONTH, "--what-if", "a=gpt-4o", "--by", "booked"], "cannot be summed by booking day"),
    ],
)
def test_wrong_use_is_explained(config: str, arguments: list[str], problem: str) -> None:
    assert problem in bill(config, *arguments, code=2)


def test_a_missing_ledger_is_explained(tmp_path: Path) -> None:
    (tmp_path / "tokentrace.yml").write_text("")
    found = bill(str(tmp_path / "tokentrace.yml"), *MONTH, code=2)
    assert "There is no ledger in sqlite:///" in found


def test_commands_start_without_the_extra_and_name_it(config: str) -> None:
    """Run in an interpreter that has no SQLAlchemy."""
    program = (
        "import sys\nsys.modules['sqlalchemy'] = sys.modules['alembic'] = None\n"
        "from tokentrace.cli import main\nsys.argv = ['tokentrace', *sys.argv[1:]]\nmain()"
    )
    missing = "tokentrace: The ledger requires sqlalchemy: pip install 'tokentrace[ledger]'\n"
    prices = ["--reprice", config, "--reason", "contract"]
    for arguments, expected in (
        (["--help"], ""),
        (["bill", "--help"], ""),
        (["bill", "--config", config, *MONTH], missing),
        (["bill", "--config", config, "--proof"], missing),
        (["ledger", "run", "--config", config], missing),
        (["ledger", "status", "--config", config], missing),
        (["ledger", "correct", "--config", config, *MONTH, *prices], missing),
        (["reconcile", "--config", config, "--provider", "csv", config], missing),
    ):
        done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (2 if expected else 0, expected), arguments


@pytest.mark.parametrize("format_", ["table", "csv", "json", "parquet", "focus"])
def test_a_file_that_cannot_be_written_is_a_users_error(config: str, tmp_path: Path, format_: str) -> None:
    said = bill(config, *MONTH, "--format", format_, "--output", str(tmp_path / "no" / "bill"), code=2)
    assert said == f"tokentrace: {tmp_path}/no/bill: cannot be written (No such file or directory).\n"


@pytest.mark.parametrize("more", [MONTH, ("--as-of", "2026-10-01"), ("--format", "csv"), ("--what-if", "a=b")])
def test_proof_is_of_the_whole_ledger(config: str, more: tuple[str, ...]) -> None:
    assert "--proof is of the whole ledger" in bill(config, "--proof", *more, code=2)


def test_another_model_for_one_that_the_period_lacks_is_refused(config: str) -> None:
    said = bill(config, *MONTH, "--what-if", "gpt-4o=gpt-4o-mini", "--what-if", "gpt4o=gpt-4o-mini", code=2)
    assert said == "tokentrace: --what-if: no call of the period is of model 'gpt4o'; did you mean gpt-4o-mini?\n"
    assert "no call of the period" in bill(config, "--month", "2020-01", "--what-if", "gpt-4o=gpt-4o-mini", code=2)


def test_a_bill_without_calls_says_where_there_are_some(config: str) -> None:
    where = "No call is in this bill; `tokentrace ledger status` shows the hours that the ledger has."
    assert where in bill(config, "--month", "2020-01").splitlines()
    assert where not in bill(config, *MONTH)


@pytest.mark.parametrize(("zone", "meant"), [("asia/kolkata", "Asia/Kolkata"), ("Berlin", "Europe/Berlin")])
def test_a_zone_by_half_its_name_is_named(config: str, zone: str, meant: str) -> None:
    assert f"did you mean {meant}?" in bill(config, *MONTH, "--zone", zone, code=2)


def test_a_correction_has_a_reason(config: str) -> None:
    done = run("ledger", "correct", "--config", config, *MONTH, "--reprice", config, "--reason", " ", "--yes")
    assert (done.returncode, "--reason is empty" in done.stderr) == (2, True)


@pytest.mark.parametrize("columns", [40, 80, 300])
def test_no_figure_is_cut_in_a_narrow_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of the longest names too, which fold."""
    monkeypatch.setenv("COLUMNS", str(columns))
    sums = {"spans": 123_456, "cost_nano_usd": 9_876_543_210_123_456_789, "prompt_tokens": 10**15, "web_searches": 7}
    name = "a-model-with-a-name-that-is-longer-than-most"
    found = Terminal()
    print_table(table(["caller", "model"], [(("batch", name), sums)], {}, sums, units=True), found)
    text = re.sub(r"\x1b\[[0-9;]*m", "", found.getvalue())
    lines = text.splitlines()
    figures = ["123,456", "9,876,543,210.123456789", "1,000,000,000,000,000", "0", "0", "7"]
    for line in (row for row in lines if "123,456" in row):
        assert line.split()[-6:] == figures
    assert sum("9,876,543,210.123456789" in row for row in lines) == 2
    assert "…" not in text
    assert (name in text) == (columns == 300), "it folds"
    assert max(map(len, lines)) <= max(columns, 120)


class Terminal(io.StringIO):
    """A terminal as wide as COLUMNS says."""

    def isatty(self) -> bool:
        return True
