"""A window that fits the frames of a camera: of all sizes, the one that computes the fewest pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from segclip_deploy.artifacts.input_spec import InputSpec
from segclip_deploy.artifacts.records import replace
from segclip_deploy.errors import BadInput, command
from segclip_deploy.runtime.inference.windows import (
    LOGIT_STRIDE,
    count_windows,
    flight_overlap,
)

__all__ = [
    "FITTED_OVERLAP",
    "MOST_PIXELS",
    "WindowGrid",
    "describe_fit",
    "fit_hint",
    "fit_windows",
    "pixel_ratio",
]

FITTED_OVERLAP = 128
"""Pixels that fitted windows share by default: as windows of 512 × 512 do. A seam needs the same
context around it, however large the windows are."""

MOST_PIXELS = 2**21
"""Pixels of an inference at most, batch × height × width: a Full HD frame fits in one.

What an inference holds in memory grows with its pixels: 134 bytes for each, the shipped example in
OpenVINO, FP32 (docs/how-to/frames.md), so 280 MB here.
"""

_STEP = 32  # of the encoder's coarsest map: the sides of every window are multiples of it
_LONGEST = 2**15  # side of a frame; what is larger is no camera's
_WORTH_A_HINT = 1.3  # times the pixels that are needed
_SHOWN = 6  # windows of a fit
_USUAL = 512  # side of a window that nobody chose: what a fit is compared with


@dataclass(frozen=True)
class WindowGrid:
    """Windows of one size over frames of one size.

    Attributes:
        frame: (height, width), pixels.
        input: size of the windows, overlap, and how many an inference takes.
    """

    frame: tuple[int, int]
    input: InputSpec

    @property
    def windows(self) -> int:
        """How many are computed for a frame; what fills up the last batch is one of them."""
        rows, columns = count_windows(
            self.frame, (self.input.height, self.input.width), flight_overlap(self.input)
        )
        return _filled(rows * columns, self.input.batches)

    @property
    def computed(self) -> int:
        """Pixels that are computed for a frame."""
        return self.windows * self.input.height * self.input.width

    @property
    def needed(self) -> int:
        """Pixels of a frame."""
        return self.frame[0] * self.frame[1]


def pixel_ratio(grids: Iterable[WindowGrid]) -> float:
    """Pixels that are computed over pixels that are needed, of some frames: 1 is no waste."""
    pairs = [(grid.computed, grid.needed) for grid in grids]
    return sum(computed for computed, _ in pairs) / sum(needed for _, needed in pairs)


def fit_windows(
    frame: tuple[int, int],
    *,
    overlap: int = FITTED_OVERLAP,
    batch: int = 1,
    min_batch: int | None = None,
) -> tuple[WindowGrid, ...]:
    """The window for frames of one size, and what smaller ones would cost.

    All sizes of multiples of 32 are tried, up to the frame's own and to ``MOST_PIXELS`` an inference.

    Args:
        frame: (height, width), pixels.
        overlap: pixels that neighbours share at least, a multiple of 4.
        batch, min_batch: of the engine, as of ``InputSpec``.

    Returns:
        First the window that computes the fewest pixels; of several the largest, then the
        squarest. After it each that takes fewer pixels an inference, and so less memory, than all before
        it, by the pixels that it computes.

    Raises:
        BadInput: a frame of no size, or larger than a camera's; an overlap off the grid; or no
            window of that overlap and batch within ``MOST_PIXELS``.

    Examples:
        >>> best = fit_windows((900, 1600))[0]
        >>> best.input.height, best.input.width, best.windows, round(pixel_ratio([best]), 2)
        (928, 1600, 1, 1.03)
    """
    if not all(1 <= side <= _LONGEST for side in frame):
        raise BadInput(
            f"a camera's frame has sides from 1 to {_LONGEST} pixels, not {_size(frame[::-1])}",
            where="--frame",
        )
    if overlap < 0 or overlap % LOGIT_STRIDE:
        raise BadInput(f"overlap {overlap} is no multiple of {LOGIT_STRIDE}", where="--frame")
    batches = InputSpec(_STEP, _STEP, batch, min_batch).batches
    found = []
    for height in _sides(frame[0], overlap):
        for width in _sides(frame[1], overlap):
            if batch * height * width > MOST_PIXELS:
                break
            rows, columns = count_windows(frame, (height, width), overlap)
            area = height * width
            computed = _filled(rows * columns, batches) * area
            found.append((computed, -area, height + width, height, width))
    if not found:
        raise BadInput(
            f"no {batch} windows that share {overlap} pixels have {MOST_PIXELS:,} pixels or fewer",
            where="--frame",
            fix="take a smaller overlap or --batch",
        )
    best: list[WindowGrid] = []
    smallest = MOST_PIXELS + 1
    for _, negative, _, height, width in sorted(found):
        if -negative < smallest:
            smallest = -negative
            best.append(WindowGrid(frame, InputSpec(height, width, batch, min_batch, overlap)))
    return tuple(best)


def describe_fit(grids: Sequence[WindowGrid]) -> Iterator[str]:
    """What ``fit_windows`` found, for people: lines of a table, the chosen window first."""
    chosen = grids[0]
    yield (
        f"--frame {_size(chosen.frame[::-1])} (width first), overlap {flight_overlap(chosen.input)}: "
        "the first of these windows (height first)"
    )
    shown = list(grids[:_SHOWN])
    if flight_overlap(chosen.input) < _USUAL:
        usual = replace(chosen.input, height=_USUAL, width=_USUAL)
        shown.append(WindowGrid(chosen.frame, usual))
    yield "window     windows  computed/needed  waste  pixels an inference"
    for grid in shown:
        ratio, size = pixel_ratio([grid]), (grid.input.height, grid.input.width)
        yield (
            f"{_size(size):9}  {grid.windows:7}  {ratio:15.2f}  {1 - 1 / ratio:5.0%}  "
            f"{grid.input.batch * size[0] * size[1]:,}"
        )


def fit_hint(grid: WindowGrid) -> str | None:
    """One line where a fitted window would compute much less for such frames; None elsewhere."""
    ratio = pixel_ratio([grid])
    if ratio <= _WORTH_A_HINT or max(grid.frame) > _LONGEST:
        return None
    fitted = pixel_ratio(fit_windows(grid.frame)[:1])
    if fitted >= ratio:
        return None
    frame = _size(grid.frame[::-1])
    export = command("segclip-deploy", "export", "CKPT", "-o", "BUNDLE", "--frame", frame)
    return (
        f"windows of {_size((grid.input.height, grid.input.width))} (height first) compute {ratio:.2f} "
        f"times the pixels of a frame of {frame} (width first); {fitted:.2f} times with: {export}"
    )


def _sides(length: int, overlap: int) -> range:
    """Sides a window may have along an axis: larger than the overlap, and no longer than it takes."""
    least = overlap // _STEP * _STEP + _STEP
    return range(least, max(least, -(-length // _STEP) * _STEP) + 1, _STEP)


def _filled(windows: int, batches: range) -> int:
    """How many are computed where the last batch is filled up to the fewest that it takes."""
    full, rest = divmod(windows, batches[-1])
    return full * batches[-1] + (max(rest, batches.start) if rest else 0)


def _size(sides: tuple[int, ...]) -> str:
    return "x".join(map(str, sides))
