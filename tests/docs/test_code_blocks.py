"""Every code block of the pages is of a language that is checked here or in the test named here, or is output."""

from __future__ import annotations

import ast
import contextlib
import importlib
import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any, Final

import click
import pytest
import yaml
from click.testing import CliRunner

from tests.docs.blocks import Block, Command, blocks, blocks_of, commands, pages
from tests.services import ROOT
from tokentrace.cli import app
from tokentrace.config import Config
from tokentrace.config.reading import read_config
from tokentrace.publisher import Publisher

BLOCKS = blocks()
MAKEFILE = (ROOT / "Makefile").read_text()
#: Language -> the test that reads its blocks, and the pages that this test reads.
ELSEWHERE: Final = {
    "promql": ("tests/deploy/test_prometheus.py", "*"),
    "wrong": ("tests/integration/test_queries.py", "docs/queries.md"),
    "one-or-nothing": ("tests/integration/test_queries.py", "docs/queries.md"),
    "mermaid": ("tests/docs/test_architecture.py", "docs/architecture.md"),
    "sql": ("tests/deploy/test_ledger_dashboard.py", "docs/billing.md"),
}
#: Output alone, which nobody types.
OUTPUT: Final = "text"
#: Configuration of other programs: the first line of the block, and the test that runs it.
FOREIGN: Final = {"receivers:": "tests/integration/test_collector.py"}


def of(language: str) -> Any:
    """Parameters: the blocks of a language."""
    found = [block for block in BLOCKS if block.language == language]
    return pytest.mark.parametrize("block", found, ids=lambda block: block.place)


def console() -> list[Command]:
    return [command for block in BLOCKS if block.language == "console" for command in commands(block)]


def of_programs(*names: str) -> Any:
    """Parameters: the commands of consoles that run these programs."""
    found = [command for command in console() if command.program in names]
    return pytest.mark.parametrize("command", found, ids=lambda command: f"{command.place} {' '.join(command.words)}")


def test_every_block_is_checked_or_output() -> None:
    here = {"console", "json", "python", "yaml", OUTPUT}
    unchecked = [
        f"{block.place}: {block.language or 'no language'}"
        for block in BLOCKS
        if block.language not in here
        and not (block.language in ELSEWHERE and ELSEWHERE[block.language][1] in ("*", block.page))
    ]
    assert unchecked == []
    assert len(BLOCKS) >= 90


def test_tests_that_check_elsewhere_exist() -> None:
    assert [test for test, _ in ELSEWHERE.values() if not (ROOT / test).exists()] == []
    assert [test for test in FOREIGN.values() if not (ROOT / test).exists()] == []


@of("json")
def test_json_is_parsed(block: Block) -> None:
    json.loads(block.text)


@of("yaml")
def test_configuration_has_no_problem(block: Block, tmp_path: Path) -> None:
    first = block.text.splitlines()[0]
    if first in FOREIGN:
        assert set(yaml.safe_load(block.text)).isdisjoint(Config.model_fields)
        return
    path = tmp_path / "tokentrace.yml"
    path.write_text(block.text)
    environment = dict.fromkeys(re.findall(r"\$\{(\w+)", block.text), "a-value-of-some-length")
    reading = read_config(path, environment)
    assert [problem.text(path) for problem in reading.problems] == []


@of("python")
def test_python_is_compiled_and_names_what_the_package_has(block: Block) -> None:
    try:
        tree: ast.AST = ast.parse(block.text)
    except SyntaxError:
        # A recipe shows entries of a mapping, which are no statement.
        tree = ast.parse(f"{{{block.text}}}", mode="eval")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "tokentrace":
            module = importlib.import_module(str(node.module))
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "publisher":
            assert hasattr(Publisher, node.attr)


def test_consoles_run_known_programs() -> None:
    """Those of others are checked for the files and addresses that they name."""
    others = {"curl", "docker", "export", "grep", "helm", "kubectl", "pip", "promtool", "sh"}
    assert {command.program for command in console()} <= {"make", "tokentrace", *others}


@of_programs("tokentrace")
def test_commands_have_the_arguments_that_are_shown(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real parser reads them, and nothing is run."""
    monkeypatch.chdir(tmp_path)
    for word in command.words:
        if re.fullmatch(r"\w+\.(json|csv)", word):
            (tmp_path / word).touch()
    ran: list[str] = []
    monkeypatch.setattr(click.Command, "invoke", lambda self, context: ran.append(context.command_path))
    app(list(command.words[1:]), prog_name="tokentrace", standalone_mode=False)
    assert ran[-1].startswith("tokentrace ")


@pytest.mark.parametrize("page", pages(), ids=lambda path: path.name)
def test_commands_in_the_text_are_commands_with_these_options(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text may leave out arguments, but it names no command and no option that is not there."""
    monkeypatch.setattr(click.Command, "invoke", lambda self, context: None)
    for line in re.findall(r"(?<!`)`(?:\.venv/bin/)?tokentrace ([a-z][^`\n]*)`", page.read_text()):
        with contextlib.suppress(click.BadParameter, click.BadOptionUsage, click.exceptions.NoArgsIsHelpError):
            app(shlex.split(line), prog_name="tokentrace", standalone_mode=False)


@pytest.mark.parametrize("command", [c for c in console() if c.output], ids=lambda command: command.place)
def test_output_below_a_command_is_what_it_prints(command: Command) -> None:
    assert command.program == "tokentrace"
    assert CliRunner().invoke(app, list(command.words[1:])).stdout == command.output


@of_programs("make")
def test_targets_and_variables_of_make_exist(command: Command) -> None:
    for word in command.words[1:]:
        name, equals, _ = word.partition("=")
        known = rf"\$[({{]{name}\b|\b{name} *\?=" if equals else rf"^{re.escape(word)}:"
        assert re.search(known, MAKEFILE, re.MULTILINE), word


@of_programs("docker", "helm", "kubectl", "promtool", "sh")
def test_files_that_other_programs_read_exist(command: Command) -> None:
    named = [word for word in command.words if word.startswith(("dashboards/", "deploy/", "docs/", "examples/"))]
    assert [word for word in named if not (ROOT / word).exists()] == []


@of_programs("pip")
def test_packages_to_install_have_the_extras(command: Command) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = [extra for word in command.words for found in re.findall(r"\[(.*)\]", word) for extra in found.split(",")]
    assert set(named) <= set(extras)


@of_programs("curl")
def test_addresses_are_paths_of_a_worker(command: Command) -> None:
    (address,) = [word for word in command.words if "://" in word]
    path = re.sub(r"^\w+://[^/]+|\?.*", "", address)
    assert re.fullmatch(r"/metrics/prometheus|/health/(live|ready)|/alerts(/[\w-]+/silence)?|/ui(/data)?", path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\n```\nb\n```\n", [("p:2", "", "b\n")]),
        ("- a\n\n  ```yaml\n  b:\n    c\n  ```\n```json\n1", [("p:3", "yaml", "b:\n  c\n"), ("p:7", "json", "1\n")]),
        ("````text\n```\n````\n~~~sh\n~~~\n", [("p:1", "text", "```\n"), ("p:4", "sh", "\n")]),
    ],
)
def test_blocks_are_found_as_commonmark_says(text: str, expected: list[tuple[str, str, str]]) -> None:
    assert [(block.place, block.language, block.text) for block in blocks_of("p", text)] == expected


def test_console_is_split_as_a_shell_does() -> None:
    text = "$ A=1 x/y --z 'a | b' | grep c # why\n$ d \\\n   e\nout\n  more\n"
    found = [
        (command.program, command.words[1:], command.output) for command in commands(Block("p:1", "console", text))
    ]
    assert found == [("y", ("--z", "a | b"), ""), ("grep", ("c",), ""), ("d", ("e",), "out\n  more\n")]
    with pytest.raises(ValueError, match="output without a command: out"):
        list(commands(Block("p:1", "console", "out\n$ a\n")))
