"""What the commands print: errors as one line, tables and bars on stderr, JSON on stdout."""

from __future__ import annotations

import json
import re
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import click

from segclip_deploy.errors import SegclipError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

__all__ = [
    "ErrorGroup",
    "console",
    "print_json",
    "print_table",
    "progress_bar",
    "say_it_runs",
    "stage_bar",
    "stop_at_signals",
]

_PACKAGE = Path(__file__).parents[1]


class ErrorGroup(click.Group):
    """Ends a command that fails with one line on stderr and the error's exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            with _notes():
                return super().invoke(ctx)
        except SegclipError as error:
            message, code = str(error), error.exit_code
        except KeyboardInterrupt:
            message, code = "interrupted; nothing half-written was left behind", 130
        except OSError as error:  # disk full, no permission
            where = f"{error.filename}: " if error.filename else ""
            message, code = f"{where}{error.strerror or error}", 1
        click.echo(f"error: {message}", err=True)
        return ctx.exit(code)


@contextmanager
def _notes() -> Iterator[None]:
    """Show warnings of this package as one line each; those of others as ever."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def note(message: Any, category: Any, filename: str, *more: Any, **options: Any) -> None:
            if issubclass(category, UserWarning) and Path(filename).is_relative_to(_PACKAGE):
                click.echo(f"note: {message}", err=True)
            else:
                show(message, category, filename, *more, **options)

        warnings.showwarning = note
        yield


@contextmanager
def stop_at_signals() -> Iterator[Event]:
    """An event that the first Ctrl-C or SIGTERM sets; the second ends the process as ever."""
    stop = Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(*_: object) -> None:
        stop.set()
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        restore()


def say_it_runs(model: str | None) -> None:
    """Say on stderr that the code ``--model`` names is about to be run."""
    if model is not None:
        click.echo(f"--model {model}: this code is run, with all rights of yours", err=True)


def console() -> Console:
    """A console on stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def progress_bar(unit: str) -> Progress:
    """A bar on stderr with count, elapsed and remaining time."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console(),
    )


@contextmanager
def stage_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr for stages with a name; what has no total is printed as a line."""
    with progress_bar("") as bar:
        task = bar.add_task("", total=None)

        def report(what: str, done: int, total: int) -> None:
            if total:
                bar.update(task, description=what, completed=done, total=total)
            else:
                bar.console.print(what, markup=False)

        yield report


def print_json(data: Mapping[str, Any]) -> None:
    """One JSON object on stdout."""
    click.echo(json.dumps(data, indent=2, allow_nan=False))


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, err: bool = False
) -> None:
    """A titled table on stdout, or stderr; columns of numbers stand to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for index, column in enumerate(columns):
        numbers = all(re.fullmatch(r"[\d.,%e+-]+|absent", row[index]) for row in rows)
        table.add_column(column, justify="right" if numbers else "left")
    for row in rows:
        table.add_row(*row)
    click.echo(title, err=err)
    Console(highlight=False, markup=False, stderr=err).print(table)
