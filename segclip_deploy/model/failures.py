"""Failures in code that is not ours: one line, with the user's own file and line."""

from __future__ import annotations

import linecache
import re
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from segclip_deploy.errors import BadInput, SegclipError

__all__ = ["causes", "first_line", "one_line_for", "user_line"]

_LIBRARIES = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
_FOREIGN = tuple(
    f"{place.resolve()}/" for place in (Path(__file__).parents[1], *map(Path, _LIBRARIES))
)
_QUOTED_FRAME = re.compile(r'File "?([^"\n]+?\.py)"?(?:, line |:)(\d+)')


@contextmanager
def one_line_for(what: str, *, where: str) -> Iterator[None]:
    """Turn any exception of a user's code into one line with the place it comes from.

    Args:
        what: what failed, as in "its forward fails".
        where: what was given, where the exception comes from no line of the user's.

    Raises:
        BadInput: in place of the exception, unless that is an error of ours.
    """
    try:
        yield
    except SegclipError:
        raise
    except Exception as error:
        place = user_line(error)
        root = list(causes(error))[-1] if place else error
        raise BadInput(
            f"{what}: {first_line(root)}" + (f", in {place[1]!r}" if place else ""),
            where=place[0] if place else where,
        ) from error


def user_line(error: BaseException) -> tuple[str, str] | None:
    """``FILE:LINE`` and its text, of the innermost line of the user's that led to an error.

    The frames of the exception and of those it came from are looked at, then what stands in their
    messages: torch.export quotes the line that it stopped at.
    """
    for cause in reversed(list(causes(error))):
        frames = [*_frames(cause.__traceback__), *_quoted(str(cause)), *_of_nodes(cause)]
        mine = [frame for frame in frames if _is_users(frame[0])]
        if mine:
            file, line = mine[-1]
            return f"{file}:{line}", _code(file, line)
    return None


def _code(file: str, line: int) -> str:
    return re.split(r"\s+#", linecache.getline(file, line).strip())[0]


def first_line(error: BaseException) -> str:
    """Class and first line of an exception."""
    told = str(error).strip().splitlines()
    return f"{type(error).__name__}: {told[0]}" if told else type(error).__name__


def causes(error: BaseException) -> Iterator[BaseException]:
    """An exception, and those it came from, the first cause last."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _frames(trace: TracebackType | None) -> Iterator[tuple[str, int]]:
    while trace is not None:
        yield trace.tb_frame.f_code.co_filename, trace.tb_lineno
        trace = trace.tb_next


def _quoted(message: str) -> Iterator[tuple[str, int]]:
    for file, line in _QUOTED_FRAME.findall(message):
        yield file, int(line)


def _of_nodes(error: BaseException) -> Iterator[tuple[str, int]]:
    """Where the node of a graph comes from that an exporter was at work on."""
    trace = error.__traceback__
    while trace is not None:
        node = trace.tb_frame.f_locals.get("node")
        if isinstance(meta := getattr(node, "meta", None), dict):
            yield from _quoted(str(meta.get("stack_trace", "")))
        trace = trace.tb_next


def _is_users(file: str) -> bool:
    if file.startswith("<"):
        return False
    path = str(Path(file).resolve())
    return not path.startswith(_FOREIGN) and "/site-packages/" not in path
