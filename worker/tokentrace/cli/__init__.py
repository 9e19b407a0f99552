"""The command line. Commands are one file each and imported only when they are called, so that help is quick."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Final

import click

from tokentrace.errors import ConfigError, TokentraceError

#: Command -> what it does, in the order of the help.
COMMANDS: Final = {
    "worker": "Consume spans, count them, and serve the metrics.",
    "demo": "See it work: a broker, traffic, a worker and its numbers, all in one process.",
    "produce": "Publish realistic synthetic spans.",
    "top": "Watch the numbers of one or more replicas.",
    "config": "Check the configuration, or print its JSON Schema.",
    "dlq": "List or replay dead letters.",
    "alerts": "Try the alert rules on history, or see where they stand.",
    "state": "Show or mend the durable totals of all replicas.",
    "version": "Print the version.",
}


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".{cmd_name}", __name__)
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
def app() -> None:
    """tokentrace: what language-model traffic costs, how slow it is and how good."""


def main() -> None:
    """Run a command; an error that is the user's to mend is one line, and the exit code says which kind it was."""
    try:
        code = app(standalone_mode=False)
    except click.exceptions.Abort:
        code = 130
    except KeyboardInterrupt:
        code = 130
    except click.ClickException as error:
        error.show()
        code = 2
    except ConfigError as error:
        for problem in error.problems:
            print(f"tokentrace: {problem}", file=sys.stderr)
        code = error.exit_code
    except TokentraceError as error:
        print(f"tokentrace: {error}", file=sys.stderr)
        code = error.exit_code
    except BrokenPipeError:
        # The reader of our output has gone, as `| head` does. Python would complain once more while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code if isinstance(code, int) else 0)
