"""The pool: every tile there is to calibrate on, read once, measured, and refused where it must be."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.errors import BadInput, command
from segclip_deploy.evaluation.dataset_index import Index, read_index
from segclip_deploy.evaluation.layouts import LAYOUTS, is_dataset
from segclip_deploy.runtime.formats.geotiff import ONE_SCALE, ground_sample_distance
from segclip_deploy.runtime.inference.frame import list_images
from segclip_deploy.runtime.inference.tile_descriptors import (
    DESCRIPTORS,
    TileDescriptors,
    correlation,
    describe,
)
from segclip_deploy.runtime.io.idle_options import refuse_idle_options
from segclip_deploy.runtime.io.pictures import Opener, open_windows
from segclip_deploy.runtime.io.raster.source import Reading

__all__ = [
    "MIN_TILES",
    "Tile",
    "TilePool",
    "cut_tiles",
    "find_tiles",
    "images_of",
    "pixels_sha256",
    "stream_tiles",
]

MIN_TILES = 16
"""Of the range that a tensor of the example model has over the 142 Dubai training tiles, 16 chosen ones
reach 0.89 in the median of 160 tensors, 8 only 0.82, 32 reach 0.94 (benchmarks/tiles.py)."""

_CONSTANT = 1.0
"""Levels of 8 bits: a tile that deviates less in every channel is fill, not ground."""

_NOISE = 0.3
"""Least correlation of neighbouring pixels. White noise has 0.00, and at most 0.18 after JPEG (quality
20). The least of 101 real images is 0.79 (Dubai 0.81, DJI frames 0.85, UAVid 0.91, GeoTIFFs 0.79); of
381 tiles of 512² cut from them 0.48, calm water of 2.5 levels' deviation, and of 1889 of 256² 0.42.
Noise that was enlarged passes: twice has 0.50, thrice 0.67."""

_FLAT = 10.0
"""Levels: an image with no more luma contrast in any tile is not called noise. On calm water there may
be little but the sensor's; uniform random pixels have 49."""


@dataclass(frozen=True)
class Tile:
    """A window of an image.

    Attributes:
        source: the image.
        top, left: of the window, pixels.
        sha256: of its shape and pixels.
    """

    source: Path
    top: int
    left: int
    sha256: str


@dataclass(frozen=True, eq=False)
class TilePool:
    """All tiles that can be chosen from.

    Attributes:
        tiles: in the order of the sources, then by row and column; no two have the same pixels.
        height, width: of every tile, pixels.
        images: how many they come from.
        constant: tiles left out for being of one colour.
        invalid: tiles left out for a pixel that is transparent, masked or no data.
        repeated: tiles left out because an earlier one has the same pixels.
        descriptors: (N, D) float64, a row of ``tile_descriptors.DESCRIPTORS`` for each tile.
        opener: how images are read.
    """

    tiles: tuple[Tile, ...]
    height: int
    width: int
    images: int
    constant: int
    invalid: int
    repeated: int
    descriptors: NDArray[np.float64]
    opener: Opener


def find_tiles(
    sources: Sequence[Path],
    spec: InputSpec,
    *,
    exclude: Path | None = None,
    layout: str | None = None,
    reading: Reading | None = None,
    model_metres: float | None = None,
    report: Callable[[int, int], None] = lambda _done, _total: None,
) -> TilePool:
    """Cut images into tiles of the model's input size, on a grid from the upper left, without overlap.

    What is left at the lower and right border is not used; an image smaller than a tile is
    reflected, as in flight. A tile with a pixel that is not valid is left out: what the file holds
    there is no ground, and its value would enter the ranges.

    Args:
        sources: images, folders of images, text files with one image a line (relative to the
            file), or datasets with splits, of which ``train`` is taken.
        spec: the model's input.
        exclude: a dataset whose splits, except ``train``, are for evaluation: a tile with
            the same pixels as one of theirs, whatever the file, is refused.
        layout: of the datasets among these that fit several; by default what is there decides.
        reading: how images and rasters are read; by default as they are stored.
        model_metres: ground sample distance of the model's images, to which rasters are resampled
            as in flight; None: nothing is resampled.
        report: called with (images read, images in all).

    Raises:
        BadInput: an image cannot be used, is noise, or is one of ``exclude``; ground sample
            distances differ; ``reading`` changes no image; or there are fewer than
            ``MIN_TILES`` tiles.
    """
    paths = [path for source in sources for path in images_of(source, layout)]
    reading = reading or Reading()
    refuse_idle_options(paths, reading)
    opener = partial(open_windows, reading=reading, model_metres=model_metres)
    if model_metres is None or reading.keep_scale:
        _check_scales(paths)
    evaluated = _evaluated(exclude, layout) if exclude else []
    total = len(evaluated) + len(paths)

    taken: dict[str, tuple[str, Path]] = {}
    for done, (split, path) in enumerate(evaluated, start=1):
        for tile, pixels in cut_tiles(path, spec, opener):
            if describe(pixels).deviation >= _CONSTANT:
                taken[tile.sha256] = (split, path)
        report(done, total)

    found: dict[str, tuple[Tile, TileDescriptors]] = {}
    constant = invalid = repeated = 0
    for done, path in enumerate(paths, start=len(evaluated) + 1):
        windows = [
            (tile, describe(pixels)) if whole else None
            for tile, pixels, whole in _cut(path, spec, opener)
        ]
        cut = [window for window in windows if window is not None]
        invalid += len(windows) - len(cut)
        _check_noise(path, [descriptors for _, descriptors in cut])
        for tile, descriptors in cut:
            if descriptors.deviation < _CONSTANT:
                constant += 1
            elif tile.sha256 in taken:
                raise _leak(tile, *taken[tile.sha256])
            elif tile.sha256 in found:
                repeated += 1
            else:
                found[tile.sha256] = (tile, descriptors)
        report(done, total)

    if len(found) < MIN_TILES:
        raise BadInput(
            f"{len(found)} usable tiles of {spec.height}×{spec.width} in {len(paths)} images "
            f"({constant} of one colour, {invalid} with pixels that are not valid, {repeated} repeated), and calibration needs {MIN_TILES}",
            where="--tiles",
            fix="add images of the ground this model will fly over",
        )
    tiles, described = zip(*found.values(), strict=True)
    rows = np.array([one.values for one in described])
    return TilePool(
        tiles, spec.height, spec.width, len(paths), constant, invalid, repeated, rows, opener
    )


def stream_tiles(
    tiles: Iterable[Tile], height: int, width: int, opener: Opener = open_windows
) -> Iterator[tuple[Tile, NDArray[np.uint8]]]:
    """Read tiles again, (height, width, 3) each, holding one image at a time.

    An image is decoded once for all tiles of it that follow each other.

    Raises:
        BadInput: an image is gone, or a tile is no longer what it was.
    """
    for source, group in groupby(tiles, key=lambda tile: tile.source):
        with opener(source, height, width) as read:
            for tile in group:
                pixels, _ = read(tile.top, tile.left)
                if pixels_sha256(pixels) != tile.sha256:
                    raise BadInput(
                        f"the tile at row {tile.top}, column {tile.left} has changed since it was "
                        "chosen",
                        where=source,
                        fix="calibrate again",
                    )
                yield tile, pixels


def images_of(source: Path, layout: str | None) -> list[Path]:
    """The images a source stands for: itself, those in a folder or list, or a dataset's for training.

    Raises:
        BadInput: it stands for none, or a list names one that is no file.
    """
    if is_dataset(source):
        index = _index(source, layout)
        names = index.splits.get("train", ())
        if not names:
            raise BadInput(
                "this dataset has no split 'train' to calibrate on",
                where=source,
                fix=f"give {command(source / 'images')}, or a text file that lists images",
            )
        return [index.image(name, source) for name in names]
    if source.suffix.lower() != ".txt":
        return list_images(source)
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot be read as a list of images ({error})", where=source) from error
    entries = [line.strip() for line in lines]
    paths = [source.parent / entry for entry in entries if entry and not entry.startswith("#")]
    if not paths:
        raise BadInput("lists no image", where=source, fix="write one path a line")
    for path in paths:
        if not path.is_file():
            raise BadInput(f"lists {path}, which is no file", where=source)
    return paths


def _evaluated(root: Path, layout: str | None) -> list[tuple[str, Path]]:
    """(split, image) of everything in a dataset that is not for training."""
    index = _index(root, layout)
    return [(split, index.image(name, root)) for split, name in index.not_for_training()]


def _index(root: Path, layout: str | None) -> Index:
    """What a dataset holds; of several here, the layout may be that of another."""
    fits = [known.name for known in LAYOUTS.values() if known.matches(root)]
    return read_index(root, layout=layout if layout in fits else None)


def cut_tiles(
    path: Path, spec: InputSpec, opener: Opener = open_windows
) -> Iterator[tuple[Tile, NDArray[np.uint8]]]:
    """The tiles of an image and their pixels (H, W, 3), on the grid that ``find_tiles`` cuts.

    Raises:
        BadInput: the image cannot be used.
    """
    for tile, pixels, whole in _cut(path, spec, opener):
        if whole:
            yield tile, pixels


def _cut(
    path: Path, spec: InputSpec, opener: Opener
) -> Iterator[tuple[Tile, NDArray[np.uint8], bool]]:
    """Every tile, its pixels, and whether all of them are valid."""
    height, width = spec.height, spec.width
    with opener(path, height, width) as read:
        for top in range(0, read.shape[0] - height + 1, height):
            for left in range(0, read.shape[1] - width + 1, width):
                pixels, whole = read(top, left)
                yield Tile(path, top, left, pixels_sha256(pixels)), pixels, whole


def pixels_sha256(pixels: NDArray[np.uint8]) -> str:
    """The SHA-256 that a tile (H, W, 3) is known by: of its shape and pixels."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(pixels.data)
    return digest.hexdigest()


def _check_noise(path: Path, descriptors: list[TileDescriptors]) -> None:
    if not descriptors:
        return
    contrast = max(m.values[DESCRIPTORS.index("luma contrast")] for m in descriptors)
    found = correlation(descriptors)
    if found < _NOISE and contrast > _FLAT:
        raise BadInput(
            f"noise, not a picture: neighbouring pixels correlate by {found:.2f}, "
            "where real images have about 0.8 and more",
            where=path,
            fix="calibrate on real images, ranges of noise are wrong for them",
        )


def _check_scales(paths: list[Path]) -> None:
    known = [(d, path) for path in paths if (d := ground_sample_distance(path)) is not None]
    if not known:
        return
    (low, fine), (high, coarse) = min(known), max(known)
    if high > ONE_SCALE * low:
        raise BadInput(
            f"{high:.3g} m per pixel, and {fine} has {low:.3g}: {high / low:.1f} times apart, "
            f"at most {ONE_SCALE} is one scale",
            where=coarse,
            fix="resample one of them to what the model flies at, e.g. rio warp --res METRES",
        )


def _leak(tile: Tile, split: str, other: Path) -> BadInput:
    return BadInput(
        f"the tile at row {tile.top}, column {tile.left} has the pixels of {other}, "
        f"and split {split!r} there is for evaluation",
        where=tile.source,
        fix="leave this image out: give a dataset folder, of which only train is taken, "
        "or a text file that lists the others",
    )
