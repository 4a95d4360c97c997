"""Options and values that several commands share; each has the name of the API's parameter."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from segclip_deploy import api

__all__ = [
    "PATH",
    "bands_option",
    "batches",
    "camera_frame",
    "checkpoint_option",
    "dataset_options",
    "duration",
    "evaluation_option",
    "floors_option",
    "json_option",
    "labelling_options",
    "layout_option",
    "model_option",
    "overlap_option",
    "picture_options",
    "reading_options",
    "scheme_option",
    "size",
    "storage",
    "text_option",
    "threads_option",
    "tiles_option",
    "torch_device_option",
    "training_run_options",
    "vocabulary_option",
]

F = TypeVar("F", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)
model_option = click.option(
    "--model",
    help="Your own network: package.module:function. Its code is run (docs/how-to/own-network.md).",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
overlap_option = click.option(
    "--overlap",
    type=int,
    help="Pixels windows share; by default what export --frame chose, or a quarter.",
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
evaluation_option = click.option(
    "--eval", type=PATH, help="Dataset for evaluation; none of its tiles may be used."
)
layout_option = click.option(
    "--layout",
    type=click.Choice(api.LAYOUT_NAMES),
    help="Of the dataset.  [default: what is there decides]",
)
_MASK_SUFFIX = click.option(
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


def _with_options(options: Sequence[Callable[[Any], Any]], command: F) -> F:
    """A command with options, which ``--help`` shows in this order."""
    for option in reversed(options):
        command = option(command)
    return command


def dataset_options(command: F) -> F:
    """How a dataset lies."""
    return layout_option(_MASK_SUFFIX(command))


def labelling_options(*, margin: str, unhealthy: str) -> Callable[[F], F]:
    """How frames are labelled as they come.

    Args:
        margin: where margins are written, as the help says it.
        unhealthy: which frames get no labels, as the help says it.
    """
    options = (
        overlap_option,
        threads_option,
        click.option(
            "--preflight", is_flag=True, help="Verify the engine first; exit 3 if it fails."
        ),
        click.option(
            "--deadline-ms", type=click.FloatRange(0, min_open=True), help="Leave out what is late."
        ),
        click.option(
            "--margin-below",
            type=click.IntRange(1, 255),
            default=None,
            help=f"No label (255) where the margin is smaller; 0-255 as in {margin}.",
        ),
        click.option("--healthy-only", is_flag=True, help=f"No labels for {unhealthy}."),
    )

    return lambda command: _with_options(options, command)


def torch_device_option(default: str | None, help_: str) -> Callable[[F], F]:
    """``--device`` of PyTorch."""
    return click.option(
        "--device",
        type=click.Choice(("auto", "cpu", "cuda")),
        default=default,
        show_default=default is not None,
        help=help_,
    )


def training_run_options(command: F) -> F:
    """What repeats a training run, and how its images are read."""
    options = (
        click.option("--seed", default=0, show_default=True),
        click.option(
            "--threads",
            type=click.IntRange(1),
            help="CPU threads; all by default. Part of what repeats a run.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(0),
            help="Processes that read images.  [default: 0 if all fit into the cache, else up to 4]",
        ),
        click.option(
            "--cache-gb",
            type=click.FloatRange(0),
            default=1.0,
            show_default=True,
            help="Decoded images kept in memory, over all processes.",
        ),
    )
    return _with_options(options, command)


def scheme_option(*, required: bool) -> Callable[[Any], Any]:
    """Whom a precision is written for."""
    return click.option(
        "--scheme",
        type=click.Choice([scheme.value for scheme in api.Scheme]),
        required=required,
        help="Whom it is for: "
        + "; ".join(f"{scheme.value} ({scheme.rules.engines})" for scheme in api.Scheme)
        + ".",
    )


def _bands(_context: object, _option: object, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    numbers = text.split(",")
    if len(numbers) != 3 or not all(n.isdecimal() and int(n) for n in numbers):
        raise click.BadParameter(f"{text!r} is no three bands like 1,2,3 (from 1)")
    return tuple(map(int, numbers))


def _scale(_context: object, _option: object, text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise click.BadParameter(f"{text!r} is no scale like 0,3000 (LOW,HIGH)")
    return low, high


bands_option = click.option(
    "--bands", callback=_bands, help="Which bands are red, green and blue, e.g. 4,3,2."
)

_READING = (
    bands_option,
    click.option(
        "--scale",
        callback=_scale,
        metavar="LOW,HIGH",
        help="Of more than 8 bits: the values that become 0 and 255.",
    ),
    click.option(
        "--keep-scale",
        is_flag=True,
        help="Of rasters: do not resample to the model's ground sample distance.",
    ),
    click.option(
        "--ignore-alpha",
        is_flag=True,
        help="An alpha band takes no pixel away, e.g. where it is near infrared.",
    ),
    click.option(
        "--allow-remote",
        is_flag=True,
        help="Of VRTs: they may refer to the network and to other folders.",
    ),
)


def reading_options(command: F) -> F:
    """How images and rasters are read."""
    return _with_options(_READING, command)


def picture_options(command: F) -> F:
    """How images are read, and rasters at their own scale."""
    bands, scale, _, alpha, _ = _READING
    return bands(scale(alpha(command)))


def floors_option(command: F) -> F:
    """IoU that classes must keep."""
    return click.option(
        "--min-class-iou",
        multiple=True,
        metavar="CLASS=IOU",
        callback=_floors,
        help="A floor; may be repeated.",
    )(command)


def _floors(_context: object, _option: object, rules: tuple[str, ...]) -> dict[str, float]:
    """Parse ``building=0.5``."""
    found = {}
    for rule in rules:
        name, _equals, least = rule.partition("=")
        try:
            found[name] = float(least)
        except ValueError:
            raise click.BadParameter(f"{rule!r} is not CLASS=IOU") from None
    return found


def size(text: str) -> tuple[int, int]:
    """Parse ``512x768``, height first, or ``512`` for a square, to (height, width)."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match:
        raise click.BadParameter(f"{text!r} is no size like 512 or 512x768 (height first)")
    return int(match[1]), int(match[2] or match[1])


def camera_frame(text: str) -> tuple[int, int] | tuple[int, int, int]:
    """Parse ``1600x900``, width first as cameras say it, or ``1600x900,64`` with an overlap."""
    match = re.fullmatch(r"(\d+)x(\d+)(?:,(\d+))?", text)
    if not match:
        raise click.BadParameter(
            f"{text!r} is no frame like 1600x900, or 1600x900,64 with an overlap (width first)"
        )
    width, height = int(match[1]), int(match[2])
    return (width, height) if match[3] is None else (width, height, int(match[3]))


def parts(text: str) -> tuple[float, ...]:
    """Several numbers, such as ``0.75,0.5,0.35``."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"expected numbers like 0.75,0.5,0.35, not {text!r}") from None


def batches(text: str) -> int | tuple[int, int]:
    """Parse ``4``, or the range ``1..8`` to (least, most)."""
    match = re.fullmatch(r"(?:(\d+)\.\.)?(\d+)", text)
    least, most = (int(n) if n else None for n in match.groups()) if match else (None, 0)
    if not most or (least is not None and not 1 <= least < most):
        raise click.BadParameter(f"{text!r} is no batch like 4 and no range like 1..8")
    return most if least is None else (least, most)


def duration(text: str) -> float:
    """Parse ``90s``, ``20m`` or ``2h`` to seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not match or not float(match[1]):
        raise click.BadParameter(f"{text!r} is no time like 90s, 20m or 2h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def storage(text: str) -> int:
    """Parse ``500MB``, ``10GB`` or ``1TB`` to bytes, in powers of ten."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([MGT])B", text)
    if not match or not float(match[1]):
        raise click.BadParameter(f"{text!r} is no size like 500MB or 10GB")
    return int(float(match[1]) * {"M": 10**6, "G": 10**9, "T": 10**12}[match[2]])
