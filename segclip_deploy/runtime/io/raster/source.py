"""A georeferenced raster: which of its bands the model sees, at what scale; or why it cannot see them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy._optional import require
from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.io.raster.grid import MAX_ENLARGED, Grid, model_size
from segclip_deploy.runtime.io.raster.ground import pixel_metres

__all__ = ["Raster", "Reading", "describe_raster", "environment", "opened", "to_8_bits"]

_CACHE = 128 << 20
"""Bytes of GDAL's block cache; a twentieth of the machine's memory if nobody says."""

_DTYPES = ("uint8", "uint16", "int16", "float32")


@dataclass(frozen=True)
class Reading:
    """What a user says of rasters.

    Attributes:
        bands: red, green and blue, from 1; None: what the file says.
        scale: the values that become 0 and 255, of rasters that are not 8-bit.
        keep_scale: never resample to the model's ground sample distance.
    """

    bands: tuple[int, int, int] | None = None
    scale: tuple[float, float] | None = None
    keep_scale: bool = False


@dataclass(frozen=True)
class Raster:
    """A raster that can be read, and how.

    Attributes:
        path: the file.
        grid: its size, and that at which the model sees it.
        bands: of red, green and blue, from 1.
        scale: the values that become 0 and 255; None for 8 bits.
        crs: of rasterio; None where the file names none.
        transform: affine, from (column, row) to the CRS.
        area_or_point: what the file calls its pixels.
        metres: width and height of the middle pixel on the ground; None where unknown.
        notes: what the user should know of it, a line each.
    """

    path: Path
    grid: Grid
    bands: tuple[int, int, int]
    scale: tuple[float, float] | None
    crs: Any
    transform: Any
    area_or_point: str
    metres: tuple[float, float] | None
    notes: tuple[str, ...]


def environment() -> Any:
    """GDAL with a bounded block cache, for the thread that enters it."""
    return require("rasterio", why="reading GeoTIFF").Env(GDAL_CACHEMAX=_CACHE)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A dataset of rasterio, for the thread that opens it; what GDAL says of reading it, as ``BadInput``."""
    rasterio = require("rasterio", why="reading GeoTIFF")
    try:
        with environment(), rasterio.open(path) as dataset:
            yield dataset
    except rasterio.errors.RasterioError as error:
        reason = error.__cause__ or error
        raise BadInput(f"damaged or unreadable ({reason})", where=path) from error


def describe_raster(path: Path, reading: Reading, model_metres: float | None) -> Raster:
    """Read a raster's header and choose bands, scale and grid.

    Args:
        path: a GeoTIFF.
        reading: what the user says of it.
        model_metres: ground sample distance of the model's images, or None.

    Raises:
        BadInput: unreadable; bands that are not there, or cannot be told apart; values of more
            than 8 bits without a scale; far too coarse for the model.
        MissingDependency: no rasterio.
    """
    with opened(path) as dataset:
        bands, notes = _choose_bands(dataset, reading.bands, path)
        scale = _choose_scale(dataset, bands, reading.scale, path)
        middle = (dataset.height - 1) / 2
        found = pixel_metres(
            dataset.crs, dataset.transform, np.array([middle]), (dataset.width - 1) / 2
        )
        metres = None if found is None else (float(found[0, 0]), float(found[0, 1]))
        if dataset.crs is None:
            notes.append("no coordinate reference system: areas in m² stay unknown")
        size = (dataset.height, dataset.width)
        grid = Grid(size, size if reading.keep_scale else model_size(size, metres, model_metres))
        if grid.resampled:
            notes.append(_check_grid(grid, metres, model_metres, path))
        return Raster(
            path=path,
            grid=grid,
            bands=bands,
            scale=scale,
            crs=dataset.crs,
            transform=dataset.transform,
            area_or_point=dataset.tags().get("AREA_OR_POINT", "Area"),
            metres=metres,
            notes=tuple(notes),
        )


def to_8_bits(
    values: NDArray[Any], scale: tuple[float, float], out: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Map ``scale`` linearly to 0–255, clipped, rounded; what is not a number becomes 0."""
    low, high = scale
    levels = (values.astype(np.float32) - low) * (255 / (high - low))
    out[...] = np.rint(np.clip(np.nan_to_num(levels, nan=0.0), 0, 255))
    return out


def _choose_bands(
    dataset: Any, asked: tuple[int, int, int] | None, path: Path
) -> tuple[tuple[int, int, int], list[str]]:
    """(red, green, blue), and what is to be said of it."""
    count = dataset.count
    if asked is not None:
        if max(asked) > count:
            raise BadInput(
                f"has {count} band{'s' * (count > 1)}, not {max(asked)}",
                where=path,
                fix="change --bands",
            )
        return asked, []
    kinds = [kind.name for kind in dataset.colorinterp]
    if all(kinds.count(colour) == 1 for colour in ("red", "green", "blue")):
        red, green, blue = (kinds.index(colour) + 1 for colour in ("red", "green", "blue"))
        said = [f"bands {red}, {green}, {blue} of {count} are its red, green and blue"]
        return (red, green, blue), said * ((count > 3 and "alpha" not in kinds) or count > 4)
    if count < 3:
        kind = "a palette image" if "palette" in kinds else f"{count} band{'s' * (count > 1)}"
        raise BadInput(
            f"{kind}, and the model takes red, green and blue",
            where=path,
            fix="gdal_translate -expand rgb makes three bands" if "palette" in kinds else None,
        )
    names = [f"{index} {text}" for index, text in enumerate(dataset.descriptions, start=1) if text]
    raise BadInput(
        f"does not say which of its {count} bands are red, green and blue"
        + (f" (it has {', '.join(names)})" if names else ""),
        where=path,
        fix="name them, e.g. --bands 1,2,3",
    )


def _choose_scale(
    dataset: Any, bands: tuple[int, int, int], asked: tuple[float, float] | None, path: Path
) -> tuple[float, float] | None:
    kinds = {dataset.dtypes[band - 1] for band in bands}
    if kinds == {"uint8"}:
        return None
    kind = sorted(kinds)[-1]
    if not kinds <= set(_DTYPES):
        raise BadInput(f"its values are {kind}, not one of {', '.join(_DTYPES)}", where=path)
    if asked is None:
        raise BadInput(
            f"its values are {kind}, and the model takes 8 bits",
            where=path,
            fix="say what becomes black and white with --scale LOW,HIGH, "
            "as the images the model was trained on were scaled",
        )
    return asked


def _check_grid(
    grid: Grid, metres: tuple[float, float] | None, model_metres: float | None, path: Path
) -> str:
    """What is said of resampling, where it makes sense."""
    assert metres is not None
    assert model_metres is not None
    if max(metres) > MAX_ENLARGED * model_metres:
        raise BadInput(
            f"{max(metres):.3g} m per pixel, {max(metres) / model_metres:.0f} times the model's "
            f"{model_metres:.3g} m: what the model looks for is not to be seen in it",
            where=path,
            fix="segment it as it is with --keep-scale, and check the result",
        )
    return (
        f"{metres[0]:.3g} × {metres[1]:.3g} m per pixel, the model's images have {model_metres:.3g} m: "
        f"resampled to {grid.model[1]}×{grid.model[0]}, labels brought back to {grid.own[1]}×{grid.own[0]}"
    )
