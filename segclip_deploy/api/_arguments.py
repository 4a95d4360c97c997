"""Arguments as people write them: paths, and values that are none."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from segclip_deploy.errors import UsageError

__all__ = [
    "FLIGHT_ONLY",
    "TORCH_DEVICES",
    "AnyPath",
    "AnyPaths",
    "check_above",
    "check_choice",
    "check_endless",
    "check_range",
    "check_target",
    "check_values",
    "optional_path",
    "paths_of",
    "texts_of",
]

TORCH_DEVICES = ("auto", "cpu", "cuda")
"""Where PyTorch may compute; auto: on the GPU where it finds one."""

AnyPath: TypeAlias = "str | Path"
AnyPaths: TypeAlias = "str | Path | Iterable[str | Path]"

FLIGHT_ONLY = (
    *("service", "preflight", "stop", "report"),
    *("video", "mcap", "polygons", "seam_score", "keep_scale", "allow_remote"),
)
"""Parameters of ``run`` that a unit has no use for: it implies the first two, and writes no rasters."""


def optional_path(path: AnyPath | None) -> Path | None:
    """A path, or none."""
    return None if path is None else Path(path)


def paths_of(paths: AnyPaths) -> tuple[Path, ...]:
    """One path, or several."""
    return (Path(paths),) if isinstance(paths, str | Path) else tuple(map(Path, paths))


def texts_of(sources: AnyPaths) -> list[str]:
    """One source or several, which may be URLs."""
    return [str(sources)] if isinstance(sources, str | Path) else [str(s) for s in sources]


def check_range(
    option: str,
    value: float | Sequence[float] | None,
    least: float,
    most: float | None = None,
) -> None:
    """Accept a finite number, or several, from ``least`` to ``most``; and None.

    Raises:
        UsageError: another one.
    """
    for one in _each(value):
        if not least <= one <= (sys.float_info.max if most is None else most):
            allowed = f"{least:g} or more" if most is None else f"from {least:g} to {most:g}"
            raise UsageError(f"{one} is not {allowed}", where=option)


def check_above(option: str, value: float | None, bound: float) -> None:
    """Accept a finite number above ``bound``; and None.

    Raises:
        UsageError: another one.
    """
    if value is not None and not bound < value < math.inf:
        raise UsageError(f"{value} is not above {bound:g}", where=option)


def check_choice(option: str, value: str | Sequence[str] | None, choices: Collection[str]) -> None:
    """Accept a word, or several, of ``choices``; and None.

    Raises:
        UsageError: another one.
    """
    for one in [value] if isinstance(value, str) else value or ():
        if one not in choices:
            raise UsageError(f"{one!r} is not one of {', '.join(choices)}", where=option)


def check_target(target: str | Sequence[str] | None) -> None:
    """Accept the name of a target, or several; and None.

    Raises:
        UsageError: there is none of this name.
    """
    from segclip_deploy.runtime.registry import TARGETS

    check_choice("--target", target, TARGETS)


def check_values(
    threads: int,
    deadline_ms: float | None,
    margin_below: int | None,
    max_megapixels: float | None = None,
    decoder: str | None = None,
) -> None:
    """Accept numbers and words of ``run`` and ``ros``.

    Raises:
        UsageError: one that is none.
    """
    check_range("--threads", threads, 0)
    check_above("--deadline-ms", deadline_ms, 0)
    check_range("--margin-below", margin_below, 1, 255)
    check_above("--max-megapixels", max_megapixels, 0)
    check_choice("--decoder", decoder, ("nv", "sw", "auto"))


def check_endless(
    *,
    keep: int | None,
    video: AnyPath | None,
    mcap: AnyPath | None,
    jsonl: AnyPath | None,
) -> None:
    """Accept what a service may write: nothing that grows for ever.

    Raises:
        UsageError: no bound, or a file that has none.
    """
    if keep is None:
        raise UsageError(
            "its results would fill the disk", where="--service", fix="add --keep 10GB"
        )
    for option, given in {"--video": video, "--mcap": mcap}.items():
        if given is not None:
            raise UsageError("a service writes none: it would never be complete", where=option)
    if jsonl not in (None, "-") and (Path(jsonl).is_file() or not Path(jsonl).exists()):
        raise UsageError(
            "a copy of the lines would grow for ever; areas.jsonl in --out has them, "
            "and a pipe may be named here",
            where="--jsonl",
        )


def _each(value: float | Sequence[float] | None) -> Sequence[float]:
    if value is None:
        return ()
    return value if isinstance(value, Sequence) else (value,)
