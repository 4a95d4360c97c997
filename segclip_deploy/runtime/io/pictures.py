"""The one reader of pictures: image files, and rasters; bands, scale and transparency mean the same of both.

Flight, calibration, evaluation and training all come through here; flight reads the rows of a
georeferenced raster by ``RowReader``, which is also used here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.formats.georeference import driver_of, find_georeference
from segclip_deploy.runtime.formats.image_file import (
    StoredImage,
    check_size,
    header_of,
    is_16_bit,
    open_image,
)
from segclip_deploy.runtime.inference.frame import Frame, prepare
from segclip_deploy.runtime.inference.windows import Window
from segclip_deploy.runtime.io.raster.bands import to_8_bits
from segclip_deploy.runtime.io.raster.gdal import opened
from segclip_deploy.runtime.io.raster.pixels import read_window
from segclip_deploy.runtime.io.raster.rows import RowReader
from segclip_deploy.runtime.io.raster.source import (
    Raster,
    Reading,
    describe_raster,
)

__all__ = ["Opener", "Windows", "applied_options", "open_windows", "read_picture"]

_AS_STORED = Reading()


def read_picture(
    path: str | Path, reading: Reading = _AS_STORED, *, max_megapixels: float | None = None
) -> Frame:
    """Read an image, or a raster at its own scale, as 8-bit RGB and what of it is valid.

    Args:
        path: an image file, georeferenced or not.
        reading: which channels are red, green and blue, and what becomes black and white. It must
            be said of all that is not 8-bit RGB: of a greyscale image bands 1, 1, 1; of RGBA 1, 2, 3.
        max_megapixels: how large it may be; by default Pillow's bound, 89.5.

    Raises:
        BadInput: unreadable, of several pages, too large, or not 8-bit RGB and nothing is said of it.
        MissingDependency: rasterio is needed and not installed.
    """
    path = Path(path)
    if find_georeference(path):
        raster = describe_raster(path, replace(reading, keep_scale=True), None)
        check_size(*raster.grid.own, path, max_megapixels)
        pixels, valid = read_window(raster)
        return Frame(pixels, str(path), None if valid.all() else valid)
    stored = open_image(path, max_megapixels=max_megapixels)
    if stored.kind == "an RGB image" and reading.bands is None:
        return Frame(np.asarray(stored.image), str(path))
    return _chosen(stored, reading, path)


def applied_options(path: Path, reading: Reading) -> frozenset[str]:
    """The options of ``Reading`` that make a difference to an image or raster, by its header.

    Args:
        path: of the file.
        reading: what the user says of it.

    Returns:
        of ``bands``, ``scale`` and ``ignore_alpha``.

    Raises:
        BadInput: it cannot be read.
        MissingDependency: rasterio is needed and not installed.
    """
    if find_georeference(path):
        return describe_raster(path, replace(reading, keep_scale=True), None).applied
    try:
        with header_of(path) as image:
            mode = image.mode
            deep = mode[0] in "IF" or is_16_bit(image)
            alpha = mode in ("LA", "RGBA") or (mode == "P" and "transparency" in image.info)
    except Exception as error:  # Pillow's decoders raise many types on damaged files
        raise BadInput(f"damaged or unreadable ({error})", where=path) from error
    applies = {"bands": True, "scale": deep, "ignore_alpha": alpha}
    return frozenset(name for name, applied in applies.items() if applied)


class Windows(Protocol):
    """Windows of one size of a picture, in any order; cheap from the top down."""

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the picture, reflected to one window at least."""

    def __call__(self, top: int, left: int) -> tuple[NDArray[np.uint8], bool]:
        """The pixels (h, w, 3) of a window, and whether all of them are valid."""

    def __enter__(self) -> Windows: ...

    def __exit__(self, *_: object) -> None: ...


Opener = Callable[[Path, int, int], Windows]
"""(path, height, width of the windows) → its windows."""


def open_windows(
    path: Path,
    height: int,
    width: int,
    *,
    reading: Reading = _AS_STORED,
    model_metres: float | None = None,
) -> Windows:
    """A picture as flight sees it, in windows; a georeferenced raster is resampled as there.

    Args:
        path: an image file, georeferenced or not.
        height, width: of a window, pixels.
        reading: as of ``read_picture``.
        model_metres: ground sample distance of the model's images; None: nothing is resampled.

    Raises:
        BadInput: as of ``read_picture``, and for a raster far too coarse for the model.
    """
    if find_georeference(path):
        return _RasterWindows(describe_raster(path, reading, model_metres), height, width)
    return _ImageWindows(read_picture(path, reading), height, width)


class _ImageWindows:
    """Of an image, which is held."""

    def __init__(self, frame: Frame, height: int, width: int) -> None:
        self._size, self._pixels = (height, width), prepare(frame, height, width)
        self._valid = frame.valid
        self.shape = self._pixels.shape[0], self._pixels.shape[1]

    def __enter__(self) -> _ImageWindows:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, top: int, left: int) -> tuple[NDArray[np.uint8], bool]:
        place = slice(top, top + self._size[0]), slice(left, left + self._size[1])
        whole = self._valid is None or bool(self._valid[place].all())
        return np.ascontiguousarray(self._pixels[place]), whole


class _RasterWindows:
    """Of a raster, of which a row of windows is held."""

    def __init__(self, raster: Raster, height: int, width: int) -> None:
        self._raster, self._size = raster, (height, width)
        self.shape = max(raster.grid.model[0], height), max(raster.grid.model[1], width)
        self._stack = ExitStack()
        self._reader, self._top = self._begin(), -1

    def __enter__(self) -> _RasterWindows:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __call__(self, top: int, left: int) -> tuple[NDArray[np.uint8], bool]:
        height, width = self._size
        if top < self._top:  # a reader only goes down
            self._stack.close()
            self._reader = self._begin()
        pixels = self._reader(Window(top, left, height, width, (top, top + height, left, left)))
        grid = self._raster.grid
        if top != self._top:
            rows = grid.own_rows(top, top + height)
            self._valid, self._top = self._reader.take_valid(*rows), top
        first, last = np.searchsorted(grid.columns, [left, left + width])
        if pixels is None:
            return np.zeros((height, width, 3), np.uint8), False
        return np.ascontiguousarray(pixels), bool(self._valid[:, first:last].all())

    def _begin(self) -> RowReader:
        return self._stack.enter_context(RowReader(self._raster, self.shape))


def _chosen(stored: StoredImage, reading: Reading, path: Path) -> Frame:
    """The channels of an image that were asked for, as 8 bits, and where its alpha is not 0."""
    channels, names = _channels(stored, path)
    deep = channels.dtype != np.uint8
    clear = reading.bands is not None or (names == ("R", "G", "B") and stored.image.mode != "P")
    if not clear or (deep and reading.scale is None):
        raise BadInput(
            f"{stored.kind}, and the model takes 8-bit RGB",
            where=path,
            fix=_remedy(channels, names, clear),
        )
    bands = reading.bands or (1, 2, 3)
    if max(bands) > channels.shape[2]:
        raise BadInput(
            f"has {channels.shape[2]} channels ({', '.join(names)}), not {max(bands)}",
            where=path,
            fix="change --bands",
        )
    pixels = np.empty((*channels.shape[:2], 3), np.uint8)
    valid = np.ones(channels.shape[:2], np.bool_)
    for channel, band in enumerate(bands):
        values = channels[..., band - 1]
        if not deep or reading.scale is None:
            pixels[..., channel] = values
        else:
            to_8_bits(values, reading.scale, pixels[..., channel])
            valid &= np.isfinite(values)
    if "A" in names and not reading.ignore_alpha:
        valid &= channels[..., names.index("A")] != 0
    return Frame(pixels, str(path), None if valid.all() else valid)


def _channels(stored: StoredImage, path: Path) -> tuple[NDArray[Any], tuple[str, ...]]:
    """(H, W, C) as stored, a palette's as its colours, and what they are: L, R, G, B, A."""
    image = stored.image
    if ";16" in stored.raw_mode and image.mode in (
        "LA",
        "RGB",
        "RGBA",
    ):  # Pillow has high bytes only
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has no place
            with opened(path, driver_of(path) or "GTiff") as dataset:
                array = np.moveaxis(dataset.read(), 0, 2)
        return array, tuple({2: "LA", 3: "RGB", 4: "RGBA"}[array.shape[2]])
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode == "1":
        image = image.convert("L")
    names = ("L",) if image.mode in ("I", "F") or image.mode.startswith("I;") else image.getbands()
    if not {*names} <= set("LRGBA"):
        raise BadInput(
            f"{stored.kind}, and the model takes 8-bit RGB",
            where=path,
            fix="convert it to RGB with its colour profile",
        )
    array = np.asarray(image)
    return array.reshape(*array.shape[:2], -1), names


def _remedy(channels: NDArray[Any], names: tuple[str, ...], clear: bool) -> str:
    """The options that read an image as it is meant; ``clear``: which channels are meant."""
    options = [] if clear else [f"--bands {'1,2,3' if 'R' in names else '1,1,1'}"]
    said = "transparent pixels get no label" if "A" in names else ""
    if channels.dtype != np.uint8:
        colours = channels[..., : len(names) - ("A" in names)]
        highest = np.nanmax(np.where(np.isfinite(colours), colours, 0))
        bits = next((b for b in (10, 12, 14, 16) if highest < 1 << b), None)
        high = f"{(1 << bits) - 1}" if bits and channels.dtype.kind in "iu" else f"{highest:g}"
        options.append(f"--scale 0,{high}")
        said += (
            "; " * bool(said) + f"its values reach {highest:g}, scale it as training's images were"
        )
    return f"{' '.join(options)}{' (' + said + ')' if said else ''}"
