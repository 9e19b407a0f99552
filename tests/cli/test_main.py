"""The command line: help, exit codes, and errors in one line."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from tests.services import ROOT
from tokentrace import __version__
from tokentrace.cli import COMMANDS, main
from tokentrace.tools import produce


@contextlib.contextmanager
def own_signal_mask() -> Iterator[None]:
    """Undo what the body blocks: `tokentrace worker` blocks SIGTERM and SIGINT, and every child would inherit that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, which takes milliseconds instead of a second."""
    out, error = io.StringIO(), io.StringIO()
    with (
        own_signal_mask(),
        contextlib.chdir(folder),
        mock.patch.object(sys, "argv", ["tokentrace", *arguments]),
        mock.patch.dict(os.environ),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), out.getvalue(), error.getvalue())


def run_process(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a command in a new process, as a shell does."""
    done = subprocess.run(
        [sys.executable, "-m", "tokentrace", *arguments],
        capture_output=True, text=True, check=False, timeout=60, cwd=folder,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


def test_a_process_prints_and_exits_like_a_call_in_this_process(tmp_path: Path) -> None:
    for arguments in (["version"], ["config", "check"]):
        process, call = run_process(*arguments, folder=tmp_path), run(*arguments, folder=tmp_path)
        assert (process.returncode, process.stdout, process.stderr) == (call.returncode, call.stdout, call.stderr)


def test_help_lists_every_command() -> None:
    done = run("--help")
    assert done.returncode == 0
    for name, summary in COMMANDS.items():
        assert name in done.stdout
        assert summary.split()[0] in done.stdout
    assert run("-h").stdout == done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    done = run(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: ")


#: Libraries that take long to import, and tokentrace's rooms that need them.
HEAVY = (
    "numpy", "confluent_kafka", "pydantic", "fastavro", "starlette", "uvicorn", "rich", "yaml", "httpx2", "sqlalchemy",
    "prometheus_client", "genai_prices", "tokentrace.config", "tokentrace.decode", "tokentrace.kafka",
    "tokentrace.runtime",
)  # fmt: skip


def test_no_help_loads_anything_heavy() -> None:
    """Each help of each command, in one process: so that help is fast whatever the machine."""
    program = f"""
import sys, click
from tokentrace.cli import app

def walk(command, path):
    context = click.Context(command, info_name=path[-1] if path else "tokentrace")
    command.get_help(context)
    loaded = [name for name in {HEAVY!r} if name in sys.modules]
    print(" ".join(path) or "tokentrace", ",".join(loaded), sep="|")
    for name in command.list_commands(context) if isinstance(command, click.Group) else ():
        walk(command.get_command(context, name), [*path, name])

walk(app, [])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = dict(line.split("|") for line in done.stdout.splitlines())
    assert {"tokentrace", *COMMANDS, "dlq show", "config check"} <= loaded.keys()
    assert {command: names for command, names in loaded.items() if names} == {}


def test_version() -> None:
    assert run("--version").stdout == f"tokentrace {__version__}\n"
    assert re.fullmatch(rf"tokentrace {re.escape(__version__)}( \(commit [0-9a-f]{{12}}\))?\n", run("version").stdout)


def test_config_check_describes_the_worker() -> None:
    done = run("config", "check")
    assert done.returncode == 0
    assert done.stdout.startswith("tokentrace.yml: OK. Replica ")
    assert "reads llm-spans at 127.0.0.1:9092 in group tokentrace, exactly-once" in done.stdout
    printed = run("config", "check", "--print")
    assert "commit_interval: 1s\n" in printed.stdout


def test_config_check_reports_every_problem_and_exits_with_2(tmp_path: Path) -> None:
    (tmp_path / "tokentrace.yml").write_text("kafka: {topik: x}\nworker: {commit_interval: 1}\n")
    done = run("config", "check", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        'tokentrace: tokentrace.yml: kafka.topik: unknown key; did you mean "topic"? (line 1)',
        "tokentrace: tokentrace.yml: worker.commit_interval: invalid duration 1; "
        "use a number and a unit, e.g. 500ms, 15s, 5m, 1h (line 2)",
    ]


def test_config_check_rejects_an_invalid_value(tmp_path: Path) -> None:
    (tmp_path / "tokentrace.yml").write_text("metrics: {expire_after: 1m}\n")
    done = run("config", "check", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "tokentrace: tokentrace.yml: metrics.expire_after: must be at least 10m (line 1)\n"


def test_a_misspelt_command_is_named() -> None:
    assert "No such command 'tpo'. Did you mean 'top'?" in run("tpo").stderr
    assert "No such command 'xyzzy'. `tokentrace --help` lists them." in run("xyzzy").stderr


@pytest.mark.parametrize("group", ["alerts", "assets", "budgets", "config", "dlq", "ledger", "schema", "state"])
def test_help_of_a_group_cuts_no_summary(group: str) -> None:
    assert not re.search(r"\w\.\.\.", run(group, "--help").stdout)


@pytest.mark.parametrize("command", [["top", "--kafka", "--once"], ["doctor"]])
def test_without_a_broker_a_command_says_so_and_why(command: list[str], tmp_path: Path) -> None:
    # Nobody listens on port 1.
    (tmp_path / "tokentrace.yml").write_text("kafka: {bootstrap_servers: '127.0.0.1:1'}\n")
    done = run_process(*command, folder=tmp_path)
    said = done.stdout if command == ["doctor"] else done.stderr
    (line,) = [line for line in said.splitlines() if "No Kafka broker answers at 127.0.0.1:1" in line]
    assert line.endswith("check kafka.bootstrap_servers. Connect to ipv4#127.0.0.1:1 failed: Connection refused")
    if command == ["doctor"]:
        assert done.returncode == 1
    else:
        assert (done.returncode, done.stderr) == (2, f"{line}\n")


def test_config_schema_prints_the_schema() -> None:
    assert run("config", "schema").stdout == (ROOT / "schemas" / "tokentrace.schema.json").read_text()


@pytest.mark.parametrize("command", ["worker", "produce", "config check", "dlq list"])
def test_a_missing_configuration_is_reported(command: str, tmp_path: Path) -> None:
    done = run(*command.split(), folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "tokentrace: tokentrace.yml: does not exist; "
        "`tokentrace init` writes a tokentrace.yml, --config names another\n"
    )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("wroker",), "No such command 'wroker'"),
        (("demo", "--duration", "5"), "invalid duration '5'"),
        (("demo", "--duration", "0s"), "longer than zero"),
        (("produce", "--rate", "-1"), "-1"),
        (("produce", "--count", "0"), "Invalid value for '--count': 0 is not in the range x>=1"),
        (("produce", "--seed", "x"), "Invalid value for '--seed': 'x' is not a valid integer"),
        (("top",), "takes the URL of one or more replicas, or --prometheus"),
        (("top", "localhost:9090", "--interval", "2"), "invalid duration '2'"),
        (("dlq",), "Usage: "),
        (("dlq", "list", "--limit", "0"), "Invalid value for '--limit': 0 is not in the range x>=1"),
        (("dlq", "replay", "--limit", "1"), "--limit"),
        (("alerts", "test"), "Missing option '--from'"),
        (("alerts", "lost"), "No such command 'lost'"),
        (("config", "schema", "extra"), "Got unexpected extra argument (extra)"),
        (("config", "check", "--config", "docs"), "File 'docs' is a directory"),
        (("state", "show", "--by", "Team"), "--by Team is not a label"),
        (("state", "reset"), "Set exactly one of --offsets, --positions and --totals."),
        (("state", "reset", "--offsets", "--totals"), "Set exactly one of --offsets, --positions and --totals."),
        (("state", "reset", "--totals", "--yes"), "--totals requires --replica."),
        (("version", "--short"), "--short"),
    ],
)
def test_wrong_use_exits_with_2_and_a_reason(arguments: tuple[str, ...], reason: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert reason in done.stderr


@pytest.mark.parametrize("words", ["config schema", "--help", "bill --help", "version"])
def test_a_closed_pipe_is_not_an_error(words: str) -> None:
    # The reader is gone before anything is written.
    command = f"{sys.executable} -m tokentrace {words} | true"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_produce_publishes_and_prints_the_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []

    def fake_produce(clients: object, *arguments: object) -> produce.Produced:
        calls.append(arguments[:-1])
        return produce.Produced(spans=3000, seconds=2.0)

    monkeypatch.setattr(produce, "produce", fake_produce)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    (tmp_path / "tokentrace.yml").write_text("kafka: {topic: calls}\n")
    done = run("produce", "--rate", "7", "--count", "3000", "--seed", "5", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "Produced 3,000 spans to calls in 2.0 s (1,500 per second).\n")
    assert calls == [("calls", 7, 3000, 5)]


@pytest.mark.parametrize("name", ["TOKENTRACE_AUTH_TOKEN", "TOKENTRACE_API_TOKEN"])
def test_top_takes_the_token_from_either_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokentrace.tools import top

    tokens: list[str | None] = []

    def scrape_all(_: object, token: str | None) -> list[top.ReplicaScrape]:
        tokens.append(token)
        return [top.ReplicaScrape("http://x", 0.0)]

    monkeypatch.setattr(top, "scrape_all", scrape_all)
    monkeypatch.setenv(name, "t0ken")
    assert run("top", "x:1", "--once", "--interval", "1ms").returncode == 0
    assert tokens == ["t0ken", "t0ken"]


def test_top_without_a_reachable_replica_exits_with_an_error() -> None:
    done = run("top", "127.0.0.1:9", "--once", "--interval", "1ms")
    assert (done.returncode, done.stdout) == (1, "")
    assert "127.0.0.1:9" in done.stderr


def test_end_of_file_below_a_command_is_not_taken_for_an_abort(monkeypatch: pytest.MonkeyPatch) -> None:
    """Click turns any EOFError into an abort, which ends with code 130 and says nothing."""
    monkeypatch.setattr("tokentrace.config.reading.read_config", mock.Mock(side_effect=EOFError("a record is cut")))
    monkeypatch.setattr(sys, "argv", ["tokentrace", "config", "check"])
    with pytest.raises(EOFError, match="a record is cut"):
        main()
