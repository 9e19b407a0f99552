"""Output of lines that contain text from spans and records, of tables of figures, and to files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, TextIO

import click

from tokentrace.errors import UsageError
from tokentrace.model.text import printable

if TYPE_CHECKING:
    from rich.table import Table

#: Width of a column of names that a narrow terminal leaves.
_LEAST_NAME: Final = 12
#: Width of a file or a pipe.
_WIDE: Final = 240


def echo(line: str, err: bool = False) -> None:
    """Print one line, with everything escaped that a terminal would interpret."""
    click.echo(printable(line), err=err)


def print_table(table: Table, out: IO[str]) -> None:
    """Print a table whose figures, aligned to the right, are whole: in a narrow terminal, names and titles fold."""
    from rich.cells import cell_len
    from rich.console import Console
    from rich.measure import Measurement

    console = Console(file=out, width=None if out.isatty() else _WIDE)
    endless = console.options.update(max_width=100_000)
    width = Measurement.get(console, endless, table).maximum
    if width > console.width:
        for column in table.columns:
            column.no_wrap = column.justify == "right"
            column.overflow = "fold"
            if column.no_wrap:
                column.header = str(column.header).replace(" ", "\n")
        names = [column for column in table.columns if not column.no_wrap]
        longest = [max(map(cell_len, map(str, [column.header, *column.cells]))) for column in names]
        width = Measurement.get(console, endless, table).maximum
        # Beyond what folds, lines are longer than the terminal.
        console.width = max(console.width, width - sum(max(size - _LEAST_NAME, 0) for size in longest))
    console.print(table)


@contextmanager
def opened(path: Path | None) -> Iterator[TextIO]:
    """Give a file to write into, stdout for None. Raises UsageError for a file that cannot be written."""
    with writing(path), nullcontext(sys.stdout) if path is None else path.open("w", newline="") as out:
        yield out


@contextmanager
def writing(path: Path | None) -> Iterator[None]:
    """Turn what the system says about a file that the body writes into a UsageError. path: None for stdout."""
    try:
        yield
    except OSError as error:
        if path is None:
            raise
        why = error if error.errno is None else os.strerror(error.errno)
        raise UsageError(f"{path}: cannot be written ({why}).") from error
