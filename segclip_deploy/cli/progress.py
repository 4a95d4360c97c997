"""How far a command is, on stderr: a bar on a terminal, elsewhere a line every 30 seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Event, Thread
from typing import TYPE_CHECKING

from segclip_deploy.cli.output import tell

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, Task, TaskID

    from segclip_deploy import api

__all__ = ["console", "phase_bars", "service_lines", "spinner", "stage_bar"]

_EVERY_S = 30.0
"""Between two lines of a log."""


def console() -> Console:
    """A console on stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, emoji=False)  # a:loop: may be in a path


def _progress_bar() -> Progress:
    """Count, elapsed and remaining time of tasks, from ``start`` to ``stop``."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    class Log(Progress):
        """Keeps count as the bar does, and draws nothing."""

        def start(self) -> None:
            if thread.ident is None:
                thread.start()

        def stop(self) -> None:
            ended.set()

    def tell() -> None:
        while not ended.wait(_EVERY_S):
            for task in log.tasks:
                if task.visible and not task.finished:
                    screen.print(_line(task), markup=False, soft_wrap=True)

    screen = console()
    if not screen.is_terminal:
        log, ended = Log(console=screen, disable=True), Event()
        thread = Thread(target=tell, name="progress", daemon=True)
        return log
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=screen,
    )


@contextmanager
def stage_bar() -> Iterator[api.Report]:
    """Progress of stages one after another; what is no stage is printed as a line."""
    with _progress_bar() as bar:
        task = bar.add_task("", total=None, visible=False)
        before = (0, 0)

        def report(what: str, done: int, total: int) -> None:
            nonlocal before
            if not (done or total):
                bar.console.print(what, markup=False, soft_wrap=True)
                return
            if total != before[1] or done < before[0]:
                bar.reset(task)  # another stage: its rate is its own
            before = (done, total)
            bar.update(task, description=what, completed=done, total=total or None, visible=True)

        yield report


@contextmanager
def service_lines() -> Iterator[api.Report]:
    """Lines only: how far a service is, its manager hears from itself."""

    def report(what: str, done: int, total: int) -> None:
        if not (done or total):
            tell(what)

    yield report


@contextmanager
def spinner(what: str) -> Iterator[api.Report]:
    """Something moves on a terminal, for work that cannot tell how far it is; lines are printed."""
    screen = console()
    with screen.status(what):
        yield lambda line, _done, _total: screen.print(line, markup=False, soft_wrap=True)


@contextmanager
def phase_bars() -> Iterator[api.Report]:
    """A bar for each phase of a build that is going on; they lie within each other."""
    with _progress_bar() as bar:
        tasks: dict[str, TaskID] = {}

        def report(phase: str, done: int, steps: int) -> None:
            if not (done or steps):
                bar.console.print(phase, markup=False, soft_wrap=True)
                return
            if phase not in tasks:
                tasks[phase] = bar.add_task(phase, total=steps)
            bar.update(tasks[phase], completed=done, total=steps)
            if done == steps:
                bar.remove_task(tasks.pop(phase))

        yield report


def _line(task: Task) -> str:
    """For example ``evaluating images: 120/900, 0:01:30 elapsed, 1.33/s, 0:09:45 left``."""
    count = f"{task.completed:g}" + (f"/{task.total:g}" if task.total is not None else "")
    parts = [count, f"{_time(task.elapsed or 0)} elapsed"]
    if task.elapsed and task.completed:
        rate = task.completed / task.elapsed
        parts.append(f"{rate:.3g}/s")
        if task.total is not None:
            parts.append(f"{_time((task.total - task.completed) / rate)} left")
    return f"{task.description}: " * bool(task.description) + ", ".join(parts)


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
