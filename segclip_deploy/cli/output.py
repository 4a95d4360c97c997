"""What the commands print: errors as one line, tables, JSON on stdout."""

from __future__ import annotations

import json
import os
import re
import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from keyword import iskeyword
from pathlib import Path
from threading import Event
from typing import Any

import click

from segclip_deploy.errors import SegclipError

__all__ = [
    "Verbs",
    "print_json",
    "print_table",
    "stop_at_signals",
    "tell",
]

_PACKAGE = Path(__file__).parents[1]

_PRIORITIES = {"error": 3, "warning": 4, "note": 5, "hint": 5}
"""Of syslog, by what a line begins with; 6 is information."""


class Verbs(click.Group):
    """The commands, by the parts of the work they belong to.

    One is imported when it is called: the overview costs the time of none. ``build-engine`` is
    ``build_engine`` in ``segclip_deploy.cli.build_engine``; ``import``, which Python keeps for itself, ``import_``.
    One that fails ends with one line on stderr and the error's exit code.

    Args:
        parts: title of a part → name of a command → what the overview says of it.
    """

    def __init__(self, *args: Any, parts: Mapping[str, Mapping[str, str]], **options: Any) -> None:
        super().__init__(*args, **options)
        self.parts = parts

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The commands, in the order of the work."""
        return [name for part in self.parts.values() for name in part]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if there is none of that name."""
        if cmd_name not in self.list_commands(ctx):
            return None
        name = cmd_name.replace("-", "_") + "_" * iskeyword(cmd_name)
        command: click.Command = getattr(import_module(f"segclip_deploy.cli.{name}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, part by part, as wide as all of them need."""
        width = max(map(len, self.list_commands(ctx)))
        for title, part in self.parts.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), does) for name, does in part.items()])

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
        tell(f"error: {message}")
        return ctx.exit(code)


@contextmanager
def _notes() -> Iterator[None]:
    """Show warnings of this package as one line each; those of others as ever."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def note(message: Any, category: Any, filename: str, *more: Any, **options: Any) -> None:
            if issubclass(category, UserWarning) and Path(filename).is_relative_to(_PACKAGE):
                tell(f"note: {message}")
            else:
                show(message, category, filename, *more, **options)

        warnings.showwarning = note
        yield


def tell(line: str) -> None:
    """A line on stderr, with its priority where the journal reads it (sd-daemon(3))."""
    priority = ""
    if _to_journal():
        kind = line.partition(":")[0]
        priority = f"<{_PRIORITIES.get(kind, 6)}>"
    click.echo(f"{priority}{line}", err=True)


def _to_journal() -> bool:
    """Whether stderr is the stream that JOURNAL_STREAM names, by device and inode (systemd.exec(5))."""
    try:
        found = os.fstat(2)
    except OSError:  # closed
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


@contextmanager
def stop_at_signals(begun: Event | None = None) -> Iterator[Event]:
    """An event that the first Ctrl-C or SIGTERM sets; the second ends the process as ever.

    Args:
        begun: set when there is work that can be finished; before, the first one ends it. None: there is
            from the start.
    """
    stop = Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(*_: object) -> None:
        stop.set()
        restore()
        if begun and not begun.is_set():
            raise KeyboardInterrupt

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        restore()


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
    Console(highlight=False, markup=False, emoji=False, stderr=err).print(table)
