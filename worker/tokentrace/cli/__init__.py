"""Command line. Every command is one module, which is imported only when the command is used, so that help is fast."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import click

from tokentrace import __version__
from tokentrace.errors import ConfigError, TokentraceError
from tokentrace.model.secrets import hide_secrets
from tokentrace.model.text import printable

#: Command -> summary, in the order of the help.
COMMANDS: Final = {
    "init": "Write a commented configuration, and manifests.",
    "doctor": "Look at everything that a worker needs, and say what to do.",
    "worker": "Consume spans, count them, and serve the metrics.",
    "demo": "Run a broker, traffic and a worker in one process, and show the metrics.",
    "produce": "Publish realistic synthetic spans.",
    "health": "Ask a worker on this machine whether it is alive or ready.",
    "top": "Watch the metrics of one or more replicas.",
    "price": "Explain the price of a call.",
    "config": "Check the configuration, or print its JSON Schema.",
    "spans": "Read spans from the topic: decoded, filtered, followed.",
    "check-span": "Explain what a worker makes of a message.",
    "dlq": "List, show or replay dead letters.",
    "alerts": "Backtest the alert rules, or show their state.",
    "budgets": "Show what is spent of the budgets, or try budgets on past spans.",
    "state": "Show or repair the durable totals of all replicas.",
    "ledger": "Keep the hours of every group in a database, from the rollups.",
    "bill": "Sum the ledger over a period: a table, CSV, JSON, Parquet or FOCUS, with proof.",
    "reconcile": "Compare a provider's usage or cost export with the ledger.",
    "schema": "Print an Avro schema, such as that of the span, or the header of its messages.",
    "assets": "Export the configuration, schemas, rules, dashboards and manifests.",
    "completion": "Print the script that completes commands in bash, zsh or fish.",
    "version": "Print the version, and the commit.",
}


class _ClosedPipe(Exception):
    """The reader of the output has gone. click would end a BrokenPipeError with the exit code 1."""


@contextmanager
def _closed_pipes() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise _ClosedPipe from error


class _LazyGroup(click.Group):
    """Command group that imports a command when it is used."""

    def make_context(self, *arguments: Any, **keywords: Any) -> click.Context:
        # Help and the version are printed here.
        with _closed_pipes():
            return super().make_context(*arguments, **keywords)

    def invoke(self, ctx: click.Context) -> Any:
        with _closed_pipes():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".{cmd_name.replace('-', '_')}", __name__)
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(name, COMMANDS, 1)
            hint = f"Did you mean {near[0]!r}?" if near else "`tokentrace --help` lists them."
            raise click.UsageError(f"No such command {name!r}. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tokentrace", message="%(prog)s %(version)s")
def app() -> None:
    """Track the cost, latency and quality of LLM traffic from Kafka, as Prometheus metrics.

    Begin with `tokentrace demo`, which needs nothing else, or with `tokentrace init` for a Kafka of your own.
    """


def main() -> None:
    """Run a command. A user error prints one line and sets the exit code."""
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Abort as abort:
        # click takes any EOFError for the end of a user's input; one from below is a bug, and keeps its traceback.
        if isinstance(abort.__cause__, EOFError):
            raise abort.__cause__ from None
        code = 130
    except KeyboardInterrupt:
        code = 130
    except click.ClickException as error:
        error.show()
        code = 2
    except ConfigError as error:
        before = f"{error.file}: " if error.file else ""
        _report(*(problem if problem.startswith(before) else before + problem for problem in error.problems))
        code = error.exit_code
    except TokentraceError as error:
        _report(str(error))
        code = error.exit_code
    except (_ClosedPipe, BrokenPipeError):
        # The reader closed the pipe, as `| head` does. Without the redirection Python would report it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


def _report(*problems: str) -> None:
    """Print each problem in one line."""
    for problem in problems:
        print(f"tokentrace: {printable(hide_secrets(problem))}", file=sys.stderr)
