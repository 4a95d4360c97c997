"""A georeferenced raster: which of its bands the model sees, at what scale; or why it cannot see them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from segclip_deploy._optional import require
from segclip_deploy.errors import BadInput, UsageError, command
from segclip_deploy.runtime.formats.georeference import driver_of, side_files
from segclip_deploy.runtime.formats.geotiff import TIFF_ERRORS, read_tags
from segclip_deploy.runtime.io.raster.bands import choose_bands, choose_scale
from segclip_deploy.runtime.io.raster.gdal import opened
from segclip_deploy.runtime.io.raster.grid import MAX_ENLARGED, RasterGrid, model_size
from segclip_deploy.runtime.io.raster.ground import measure_areas, pixel_metres
from segclip_deploy.runtime.io.raster.location import locate
from segclip_deploy.runtime.io.raster.validity import Validity, choose_validity
from segclip_deploy.runtime.io.raster.vrt import check_vrt
from segclip_deploy.runtime.io.raster.warp import Warp

__all__ = ["Raster", "Reading", "describe_raster", "opened_raster"]

_NODATA = 42113  # GDAL's tag of a TIFF


@dataclass(frozen=True)
class Reading:
    """What a user says of rasters.

    Attributes:
        bands: red, green and blue, from 1; None: what the file says.
        scale: the values that become 0 and 255, of rasters that are not 8-bit.
        keep_scale: never resample to the model's ground sample distance.
        ignore_alpha: transparent pixels are real ones.
        allow_remote: a VRT may refer to the network and to other folders.

    Raises:
        UsageError: bands or a scale that are none.
    """

    bands: tuple[int, int, int] | None = None
    scale: tuple[float, float] | None = None
    keep_scale: bool = False
    ignore_alpha: bool = False
    allow_remote: bool = False

    def __post_init__(self) -> None:
        if self.bands is not None and (len(self.bands) != 3 or min(self.bands) < 1):
            raise UsageError(f"{self.bands} are no three bands, from 1", where="--bands")
        if self.scale is not None and not (
            all(map(math.isfinite, self.scale)) and self.scale[0] < self.scale[1]
        ):
            raise UsageError(f"{self.scale} is no scale (LOW, HIGH)", where="--scale")

    @property
    def given(self) -> tuple[str, ...]:
        """The options that say something, as on a command line."""
        return tuple(
            f"--{field.name.replace('_', '-')}"
            for field in fields(self)
            if getattr(self, field.name)
        )


@dataclass(frozen=True)
class Raster:
    """A raster that can be read, and how.

    Attributes:
        path: the file.
        driver: of GDAL, which reads it.
        grid: its size, and that at which the model sees it.
        bands: of red, green and blue, from 1; of a palette the same three times.
        palette: (256, 3) colours as bytes; None for others.
        scale: the values that become 0 and 255; None for 8 bits.
        validity: which of its pixels are real.
        crs: of rasterio; None where the file names none.
        transform: affine, from (column, row) to the CRS.
        warp: to its grid, where its place is ground control points or RPCs.
        area_or_point: what the file calls its pixels.
        metres: width and height of the middle pixel on the ground; None where unknown.
        files: that decide its pixels and its place, itself among them.
        allow_remote: whether GDAL may read over the network.
        applied: the options of ``Reading`` that make a difference to it, of ``bands``, ``scale``
            and ``ignore_alpha``.
        notes: what the user should know of it, a line each.
    """

    path: Path
    driver: str
    grid: RasterGrid
    bands: tuple[int, int, int]
    palette: bytes | None
    scale: tuple[float, float] | None
    validity: Validity
    crs: Any
    transform: Any
    warp: Warp | None
    area_or_point: str
    metres: tuple[float, float] | None
    files: tuple[Path, ...]
    allow_remote: bool
    applied: frozenset[str]
    notes: tuple[str, ...]


_MOST_WIDE = 1 << 22
"""Pixels. The whole Earth is 4.0 million wide at 10 m; a damaged header may say any number."""


@contextmanager
def opened_raster(raster: Raster) -> Iterator[Any]:
    """A raster as a dataset of rasterio, on its own grid, for the thread that opens it.

    Raises:
        BadInput: damaged, in a format that is not read here, or not to be turned.
    """
    if raster.warp is not None:
        with raster.warp.over(allow_remote=raster.allow_remote) as dataset:
            yield dataset
    else:
        with opened(raster.path, raster.driver, allow_remote=raster.allow_remote) as dataset:
            yield dataset


def describe_raster(path: Path, reading: Reading, model_metres: float | None) -> Raster:
    """Read a raster's header and choose bands, scale, valid pixels, place and grid.

    Args:
        path: of any format that is read here (``place.driver_of``).
        reading: what the user says of it.
        model_metres: ground sample distance of the model's images, or None.

    Raises:
        BadInput: unreadable; more than one raster; a VRT that refers to what it may not; bands that are not there, or
            cannot be told apart; absurdly wide; values of more than 8 bits without a scale; far too coarse for
            the model.
        MissingDependency: no rasterio.
    """
    driver = driver_of(path)
    if driver is None:
        raise BadInput("is in no format of rasters that is read here", where=path)
    require("rasterio", why=f"{path} has a place, and reading it")
    remote = reading.allow_remote
    files = {path, *side_files(path)}
    if driver == "VRT":
        sources = check_vrt(path, allow_remote=remote)
        files |= {file for source in sources for file in (source, *side_files(source))}
    with opened(path, driver, allow_remote=remote) as dataset:
        parts = dataset.subdatasets
        if len(parts) > 1:
            raise BadInput(
                f"holds {len(parts)} rasters, and one is taken",
                where=path,
                fix="make files of them, which begins with "
                + command("rio", "convert", parts[0], path.with_name(f"{path.stem}_1.tif")),
            )
        if dataset.width > _MOST_WIDE:  # rows of windows are held
            raise BadInput(
                f"is {dataset.width} pixels wide, and at most {_MOST_WIDE} are taken",
                where=path,
                fix="cut it into tiles",
            )
        bands = choose_bands(dataset, reading.bands, path)
        scale = choose_scale(dataset, bands, reading.scale, path)
        validity, said = choose_validity(
            dataset,
            bands.rgb,
            ignore_alpha=reading.ignore_alpha,
            written_nodata=_written_nodata(path, driver),
            clear=bands.clear,
        )
        ground = locate(dataset, path, driver, validity, allow_remote=remote)
        crs, transform, size, warp = ground.crs, ground.transform, ground.size, ground.warp
        notes = [*bands.notes, *said, *ground.notes]
        if warp is not None:
            extra = range(dataset.count + 1, warp.bands + 1)
            validity = replace(validity, masks=(), mask_bands=tuple(extra), coverage=warp.bands + 1)
        metres, off = _measure(crs, transform, size)
        if crs is not None and (metres is None or off):
            share = (
                "all"
                if metres is None
                else f"about {100 * off:.0f} %"
                if off > 0.01
                else "a little"
            )
            notes.append(f"{share} of it lies off the Earth, without m² and polygons")
        grid = RasterGrid(
            size, size if reading.keep_scale else model_size(size, metres, model_metres)
        )
        if grid.resampled:
            notes.append(_check_grid(grid, metres, model_metres, path))
        alphas = choose_validity(dataset, bands.rgb, ignore_alpha=False)[0].alphas
        applied = {"bands": True, "scale": scale is not None, "ignore_alpha": bool(alphas)}
        return Raster(
            path=path,
            driver=driver,
            grid=grid,
            bands=bands.rgb,
            palette=bands.palette,
            scale=scale,
            validity=validity,
            crs=crs,
            transform=transform,
            warp=warp,
            area_or_point=dataset.tags().get("AREA_OR_POINT", "Area"),
            metres=metres,
            files=tuple(sorted(files)),
            allow_remote=remote,
            applied=frozenset(name for name, applies in applied.items() if applies),
            notes=tuple(notes),
        )


def _written_nodata(path: Path, driver: str) -> str | None:
    """What a TIFF says of nodata, which GDAL drops where the values cannot be so."""
    if driver != "GTiff":
        return None
    try:
        text = read_tags(path).get(_NODATA)
    except TIFF_ERRORS:
        return None
    return text.strip(" \0") or None if isinstance(text, str) else None


def _measure(
    crs: Any, transform: Any, size: tuple[int, int]
) -> tuple[tuple[float, float] | None, float]:
    """Width and height of the middle pixel, or of one on the Earth; and the share off the Earth."""
    areas = measure_areas(crs, transform, *size)
    if areas is None:
        return None, 1.0
    rows, columns = (axis.ravel() for axis in np.meshgrid(*(_middle_first(n) for n in size)))
    found = pixel_metres(crs, transform, rows, columns)
    found = found[np.isfinite(found[:, 2])]
    if not len(found):
        return None, areas.share_off
    return (float(found[0, 0]), float(found[0, 1])), areas.share_off


def _middle_first(length: int) -> Any:
    """Places along an axis, those nearer to its middle first."""
    places = np.linspace(0, length - 1, 9)
    return places[np.argsort(np.abs(places - (length - 1) / 2), kind="stable")]


def _check_grid(
    grid: RasterGrid, metres: tuple[float, float] | None, model_metres: float | None, path: Path
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
