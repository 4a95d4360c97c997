"""Options and values that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from segclip_deploy.artifacts.scheme import Scheme

__all__ = [
    "PATH",
    "batches",
    "checkpoint_option",
    "class_iou",
    "duration",
    "json_option",
    "judging_option",
    "known_target",
    "mask_suffix_option",
    "model_option",
    "overlap_option",
    "scheme_option",
    "size",
    "storage",
    "text_option",
    "threads_option",
    "tiles_option",
    "vocabulary_option",
]

PATH = click.Path(path_type=Path)
model_option = click.option(
    "--model",
    help="Your own network: package.module:function. Its code is run (docs/own-network.md).",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
overlap_option = click.option(
    "--overlap", type=int, help="Pixels windows share; by default a quarter."
)
threads_option = click.option(
    "--threads", type=click.IntRange(0), default=0, help="0: the engine's choice."
)
tiles_option = click.option(
    "--tiles",
    type=PATH,
    multiple=True,
    required=True,
    help="Images, folders, lists (.txt) or a dataset; may be repeated.",
)
judging_option = click.option(
    "--eval", "dataset", type=PATH, help="Dataset that will judge; none of its tiles may be used."
)
mask_suffix_option = click.option(
    "--mask-suffix",
    default="",
    metavar="SUFFIX",
    help="Of the dataset: what the names of masks have more, e.g. _mask for a.jpg and a_mask.png.",
)
vocabulary_option = click.option(
    "--vocabulary", required=True, help="Name of a shipped one, or a YAML file."
)
text_option = click.option(
    "--text", required=True, help="Text bank (.npz, .safetensors), or open_clip:MODEL@WEIGHTS."
)
checkpoint_option = click.option(
    "-o", "--out", type=PATH, required=True, help="Checkpoint to write (.safetensors)."
)


def known_target(_context: object, _option: object, names: tuple[str, ...]) -> tuple[str, ...]:
    """Accept names of targets."""
    from segclip_deploy.runtime.registry import TARGETS

    for name in names:
        if name not in TARGETS:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(TARGETS)}")
    return names


def scheme_option(*, required: bool) -> Callable[[Any], Any]:
    """Whom a precision is written for."""
    return click.option(
        "--scheme",
        type=click.Choice([scheme.value for scheme in Scheme]),
        callback=lambda _context, _option, name: name and Scheme(name),
        required=required,
        help="Whom it is for: "
        + "; ".join(f"{scheme.value} ({scheme.rules.engines})" for scheme in Scheme)
        + ".",
    )


def size(text: str) -> tuple[int, int]:
    """Parse ``512x768``, height first, or ``512`` for a square, to (height, width)."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match:
        raise click.BadParameter(f"{text!r} is no size like 512 or 512x768 (height first)")
    return int(match[1]), int(match[2] or match[1])


def batches(text: str) -> tuple[int | None, int]:
    """Parse ``4``, or the range ``1..8``, to (least or None, most)."""
    match = re.fullmatch(r"(?:(\d+)\.\.)?(\d+)", text)
    least, most = (int(n) if n else None for n in match.groups()) if match else (None, 0)
    if not most or (least is not None and not 1 <= least < most):
        raise click.BadParameter(f"{text!r} is no batch like 4 and no range like 1..8")
    return least, most


def duration(text: str) -> float:
    """Parse ``90s``, ``20m`` or ``2h`` to seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not match or not float(match[1]):
        raise click.BadParameter(f"{text!r} is no time like 90s, 20m or 2h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def class_iou(rule: str) -> tuple[str, float]:
    """Parse ``building=0.5``, as of ``--min-class-iou``, to name and IoU."""
    name, _equals, least = rule.partition("=")
    try:
        return name, float(least)
    except ValueError as error:
        raise click.UsageError(f"--min-class-iou {rule} is not CLASS=IOU") from error


def storage(text: str) -> int:
    """Parse ``500MB``, ``10GB`` or ``1TB`` to bytes, in powers of ten."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([MGT])B", text)
    if not match or not float(match[1]):
        raise click.BadParameter(f"{text!r} is no size like 500MB or 10GB")
    return int(float(match[1]) * {"M": 10**6, "G": 10**9, "T": 10**12}[match[2]])
