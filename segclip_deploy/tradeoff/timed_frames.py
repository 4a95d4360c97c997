"""The frames that latency is measured on, and which window would fit them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.artifacts.engine import load_engine
from segclip_deploy.evaluation.dataset import Dataset
from segclip_deploy.progress import Report, saying
from segclip_deploy.runtime.inference.frame import Frame, list_images
from segclip_deploy.runtime.inference.window_fit import WindowGrid, fit_hint, pixel_ratio
from segclip_deploy.runtime.io.pictures import read_picture
from segclip_deploy.runtime.io.raster.source import Reading
from segclip_deploy.tradeoff.made import Given

__all__ = ["CAMERA_FRAMES", "FRAMES", "say_what_fits", "timed_frames"]

FRAMES = 3
"""Frames of the evaluation set that latency is measured on, the same for every point."""

CAMERA_FRAMES = 20
"""Frames of a camera that latency is measured on, at most: all are in memory at once."""


def timed_frames(
    folder: Path | None, reading: Reading, dataset: Dataset, split: str
) -> tuple[Frame, ...]:
    """The first images of a camera's folder, or else of the split.

    Raises:
        BadInput: no such folder, or an image that cannot be used.
    """
    if folder is None:
        return tuple(dataset.read(name).frame for name in dataset.names(split)[:FRAMES])
    return tuple(read_picture(path, reading) for path in list_images(folder)[:CAMERA_FRAMES])


def say_what_fits(given: Given, frames: Sequence[Frame], report: Report) -> None:
    """Name the window that fits, where all frames have one size and no window that is given does."""
    sizes = {(frame.pixels.shape[0], frame.pixels.shape[1]) for frame in frames}
    if len(sizes) != 1:
        return
    (size,) = sizes
    paths = (*given.bundles, *(made.path for made in given.made))
    inputs = [(load_bundle(path) if path.is_dir() else load_engine(path)).input for path in paths]
    best = min((WindowGrid(size, one) for one in inputs), key=lambda grid: pixel_ratio([grid]))
    if hint := fit_hint(best):
        saying(report)(f"hint: {hint}")
