"""Health of a frame before it is labelled: too dark, too bright, blurred, or unlike what was calibrated on."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segclip_deploy.artifacts.appearance import Appearance
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.inference.tile_descriptors import features_of

__all__ = ["HEALTH_PROBLEMS", "FrameHealth", "HealthProblem", "check_health", "distance_from"]

HealthProblem = Literal["dark", "bright", "blurred", "unlike"]
HEALTH_PROBLEMS: tuple[HealthProblem, ...] = ("dark", "bright", "blurred", "unlike")

_DARK = 48.0
"""Levels of luma: nine tenths of a frame that is too dark are below. 48 is 5 stops under white in sRGB
(IEC 61966-2-1). The least of 92 real frames is 61, open water (benchmarks/health.py)."""

_BRIGHT = 235.0
"""Levels of luma: half of a frame that is too bright is above. It is white in 8-bit video (ITU-R BT.709).
The largest of 92 real frames is 216, sand (benchmarks/health.py)."""

_BLURRED = 0.33
"""Of ``_blur``; above is blurred. The largest of 91 real frames is 0.30, and a soft one of iSAID has
0.35 (benchmarks/health.py)."""

_WINDOWS = 6  # looked at, spread over the frame
_GRID = 3  # blocks each way in a window
_BLOCK = 32  # pixels each way
_LOW_PASS = 9  # pixels, of the filter that blur is measured with
_STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))  # right, down and the diagonals


@dataclass(frozen=True)
class FrameHealth:
    """What a look at parts of a frame says; None: of a frame too small, or without valid pixels.

    Attributes:
        problems: what is wrong, in the order of ``HEALTH_PROBLEMS``.
        bright_part: luma that a tenth of the pixels exceeds, 0 to 255.
        median: luma of the median pixel.
        blur: 0, sharp, to 1; None also for a frame of one colour.
        unlike: distance from what the model was calibrated on, over the distance that 99 % of
            such tiles stay below; None where the engine does not know its tiles, too.
        ms: the look took.
    """

    problems: tuple[HealthProblem, ...]
    bright_part: float | None
    median: float | None
    blur: float | None
    unlike: float | None
    ms: float

    def to_json(self) -> dict[str, Any]:
        """As in the line of a frame, without what it took."""
        values = {name: getattr(self, name) for name in ("bright_part", "median", "blur", "unlike")}
        told = {name: None if v is None else round(v, 3) for name, v in values.items()}
        return {"problems": list(self.problems), **told}


def check_health(
    frame: Frame, window: tuple[int, int], appearance: Appearance | None = None
) -> FrameHealth:
    """Look at up to 6 windows of a frame, in each at 9 blocks of 32 × 32 pixels.

    Blur is that of Crete et al. (The Blur Effect, SPIE 6492, 2007), who compare differences of
    neighbours with those of the low-passed image, over the worst of four directions: motion blurs
    one only. Descriptors are those of calibration, of the median window.

    Args:
        frame: (H, W, 3) uint8 RGB; a block with a pixel that is not valid is left out.
        window: (height, width) of the model's input, which descriptors are of.
        appearance: of the tiles that the model was calibrated on, if it is known.

    Examples:
        >>> import numpy as np
        >>> from segclip_deploy import Frame
        >>> from segclip_deploy.runtime.inference.health import check_health
        >>> check_health(Frame(np.zeros((90, 160, 3), np.uint8), "lid on"), (64, 64)).problems
        ('dark',)
    """
    started = time.perf_counter()
    blocks, counts = _blocks(frame, window)
    bright_part = median = blur = unlike = None
    if len(blocks):
        strip = Image.fromarray(blocks.reshape(-1, *blocks.shape[2:])).convert("YCbCr")
        grey = strip.getchannel("Y")
        luma = np.asarray(grey).reshape(blocks.shape[:3])
        below = np.cumsum(grey.histogram()) / luma.size
        bright_part, median = (float(np.searchsorted(below, share)) for share in (0.9, 0.5))
        blur = _blur(luma.astype(np.int16))
        if appearance is not None:
            features = features_of(_descriptors(strip, luma.shape, counts))
            unlike = distance_from(appearance, np.median(features, axis=0))
    found: dict[HealthProblem, bool] = {
        "dark": bright_part is not None and bright_part < _DARK,
        "bright": median is not None and median > _BRIGHT,
        "blurred": blur is not None and blur > _BLURRED,
        "unlike": unlike is not None and unlike > 1,
    }
    ms = 1e3 * (time.perf_counter() - started)
    problems = tuple(name for name in HEALTH_PROBLEMS if found[name])
    return FrameHealth(problems, bright_part, median, blur, unlike, ms)


def distance_from(appearance: Appearance, features: NDArray[np.float64]) -> float:
    """Mahalanobis distance of features (6,) from the centre of a cloud, over that of its border."""
    apart = features - np.array(appearance.centre)
    return float(np.sqrt(max(0.0, apart @ np.array(appearance.metric) @ apart)))


def _blocks(frame: Frame, window: tuple[int, int]) -> tuple[NDArray[np.uint8], list[int]]:
    """Blocks (N, b, b, 3) of some windows, and how many are of each; of none where nothing is valid."""
    shape = frame.pixels.shape[:2]
    height, width = (min(side, whole) for side, whole in zip(window, shape, strict=True))
    side = min(_BLOCK, height, width) // 4 * 4  # descriptors are taken of quarters, too
    if side <= _LOW_PASS:
        return np.empty((0, 0, 0, 3), np.uint8), []
    corners = [
        (top, left) for top in _spread(shape[0], height) for left in _spread(shape[1], width)
    ]
    few = min(_WINDOWS, len(corners))
    found: list[NDArray[np.uint8]] = []
    counts: list[int] = []
    for top, left in (corners[(2 * i + 1) * len(corners) // (2 * few)] for i in range(few)):
        before = len(found)
        for y in _centred(top, height, side):
            for x in _centred(left, width, side):
                place = slice(y, y + side), slice(x, x + side)
                if frame.valid is None or frame.valid[place].all():
                    found.append(frame.pixels[place])
        if len(found) > before:
            counts.append(len(found) - before)
    return np.array(found, np.uint8).reshape(-1, side, side, 3), counts


def _spread(whole: int, part: int) -> list[int]:
    """Where parts begin that are spread over a side; as many as fit on it, rounded."""
    return np.linspace(0, whole - part, max(1, round(whole / part))).round().astype(int).tolist()


def _centred(start: int, length: int, side: int) -> list[int]:
    """Where blocks begin in a window; they overlap in a small one."""
    middles = ((index + 0.5) * length / _GRID for index in range(_GRID))
    return [start + min(max(0, round(middle - side / 2)), length - side) for middle in middles]


def _descriptors(
    strip: Image.Image, shape: tuple[int, ...], counts: list[int]
) -> NDArray[np.float64]:
    """Those of ``tile_descriptors.DESCRIPTORS`` (windows, 6), from blocks (N, b, b) below each other."""
    count, side, _ = shape
    planes = [np.asarray(one).reshape(count, -1) for one in strip.split()]
    quarter = side // 4
    luma, blue, red = (plane.mean(axis=1) for plane in planes)
    square = np.square(planes[0], dtype=np.uint16).mean(axis=1)
    coarse = np.asarray(strip.getchannel("Y").reduce(4)).reshape(count, quarter, quarter)
    fine = _texture(planes[0].reshape(shape).astype(np.int16))
    values = np.stack([luma, square, blue, red, fine, _texture(coarse.astype(np.int16))], axis=1)
    starts = np.cumsum([0, *counts[:-1]])
    means = np.add.reduceat(values, starts, axis=0) / np.array(counts)[:, None]
    means[:, 1] = np.sqrt(np.maximum(0, means[:, 1] - means[:, 0] ** 2))
    return means


def _texture(luma: NDArray[np.int16]) -> NDArray[np.float64]:
    """Mean absolute difference of neighbours in each block (N, b, b)."""
    down, right = (np.abs(np.diff(luma, axis=axis)) for axis in (1, 2))
    found: NDArray[np.float64] = (down.mean(axis=(1, 2)) + right.mean(axis=(1, 2))) / 2
    return found


def _blur(luma: NDArray[np.int16]) -> float | None:
    """How much of the differences of neighbours a low pass leaves, in the direction where it is most.

    Low-passed neighbours differ by (y[i + 5] − y[i − 4]) / 9, so no filter has to run.

    Args:
        luma: (N, b, b), b above 9.
    """
    found = []
    half, side = _LOW_PASS // 2, luma.shape[1]
    for down, right in _STEPS:

        def at(step: int, down: int = down, right: int = right) -> NDArray[np.int16]:
            return luma[:, _run(down, step, half, side), _run(right, step, half, side)]

        sharp = _LOW_PASS * np.abs(at(1) - at(0))
        lost = np.maximum(0, sharp - np.abs(at(half + 1) - at(-half)))
        total = int(sharp.sum(dtype=np.int64))
        if total:
            found.append(1 - int(lost.sum(dtype=np.int64)) / total)
    return max(found, default=None)


def _run(direction: int, step: int, half: int, side: int) -> slice:
    """Pixels of a side that lie ``step`` further in a direction, of all that have ``half`` before and after."""
    if not direction:
        return slice(0, side)
    start, stop = (half, side - half - 1) if direction > 0 else (half + 1, side - half)
    return slice(start + direction * step, stop + direction * step)
