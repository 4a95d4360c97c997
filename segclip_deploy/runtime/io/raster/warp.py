"""Rasters whose place is ground control points or RPCs: turned to a grid whose rows run east.

GDAL's warper would take nodata, masks and alpha bands its own way. It is therefore shown a VRT whose bands
are all plain, masks among them, and leaves every value as it is: the nearest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from segclip_deploy._optional import require
from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.io.raster.gdal import opened

__all__ = ["Warp", "check_warped", "choose_warp"]

_FEWEST = 3  # ground control points that place an image
_MOST_LARGER = 16  # times the pixels of the source; more is no place but an error in the points


@dataclass(frozen=True)
class Warp:
    """How an image is turned to the north.

    Attributes:
        source: a VRT of its bands, as XML; of ``bands`` bands.
        points_crs: of the ground control points or RPCs.
        crs: of the grid.
        bands: of the source; band + 1 of the turned image is 0 outside of it.
        options: of GDAL's transformer.
        told: what its place is, in words.
    """

    source: str
    points_crs: Any
    crs: Any
    bands: int
    options: tuple[tuple[str, str], ...]
    told: str

    @contextmanager
    def over(self, *, allow_remote: bool) -> Iterator[Any]:
        """The turned image as a dataset of rasterio.

        The grid is GDAL's own choice: of a WarpedVRT that is given one, rasterio drops the points.

        Raises:
            BadInput: GDAL cannot warp it.
        """
        vrt = require("rasterio.vrt", why="reading GeoTIFF")
        enums = require("rasterio.enums", why="reading GeoTIFF")
        with (
            opened(self.source, "VRT", allow_remote=allow_remote) as plain,
            vrt.WarpedVRT(
                plain,
                src_crs=self.points_crs,
                crs=self.crs,
                resampling=enums.Resampling.nearest,
                add_alpha=True,
                **dict(self.options),
            ) as turned,
        ):
            yield turned


def choose_warp(dataset: Any, path: Path, crs: Any, *, masks: tuple[int, ...]) -> Warp | None:
    """How an image with ground control points or RPCs is turned.

    The grid is in the system of the points, or, where that has degrees, in UTM, so that pixels
    are square.

    Args:
        dataset: of rasterio, with no transformation of its own.
        path: of its file.
        crs: of the points, where the file names none.
        masks: bands, from 1, whose masks become bands behind its own.

    Returns:
        None where there are neither, or too few points.
    """
    points, points_crs = dataset.gcps
    points_crs = points_crs or crs
    options: dict[str, str] = {}
    if len(points) >= _FEWEST and points_crs:
        target = points_crs
        if points_crs.is_geographic:
            target = _utm(_mean([p.x for p in points]), _mean([p.y for p in points]))
        place = _gcp_list(points, points_crs)
        told = f"{len(points)} ground control points"
    elif dataset.rpcs is not None:
        rpcs = dataset.rpcs
        points_crs, target = _system("EPSG:4326"), _utm(rpcs.long_off, rpcs.lat_off)
        options["RPC_HEIGHT"] = repr(float(rpcs.height_off))
        place = _rpc_metadata(dataset)
        told = f"RPCs, at a height of {rpcs.height_off:g} m"
    else:
        return None
    return Warp(
        source=_plain_vrt(dataset, path, place, masks=masks),
        points_crs=points_crs,
        crs=target,
        bands=dataset.count + len(masks),
        options=tuple(options.items()),
        told=told,
    )


def check_warped(turned: Any, warp: Warp, source: Any, path: Path) -> str:
    """What is to be said of a turned image.

    Args:
        turned: from ``Warp.over``.
        warp: that it comes from.
        source: the image as it is stored.
        path: of its file.

    Raises:
        BadInput: the points lead to a grid that cannot be.
    """
    size = f"{turned.width}×{turned.height}"
    if turned.width * turned.height > _MOST_LARGER * source.width * source.height:
        raise BadInput(
            f"its place is {warp.told}, which lead to a grid of {size} pixels",
            where=path,
            fix="mend the points, or label a copy without them: its PNG, for example",
        )
    return (
        f"its place is {warp.told}: turned to {warp.crs.to_string()}, {size} pixels, "
        "each value from the nearest"
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _system(text: str) -> Any:
    return require("rasterio.crs", why="reading GeoTIFF").CRS.from_string(text)


def _utm(lon: float, lat: float) -> Any:
    """The UTM zone, on WGS 84, of a place in degrees."""
    zone = int((lon + 180) % 360 // 6) + 1
    return _system(f"EPSG:{(32600 if lat >= 0 else 32700) + zone}")


def _gcp_list(points: Any, crs: Any) -> str:
    listed = "".join(
        f'<GCP Id="{number}" Pixel="{p.col!r}" Line="{p.row!r}" X="{p.x!r}" Y="{p.y!r}" Z="{p.z or 0.0!r}"/>'
        for number, p in enumerate(points)
    )
    return f'<GCPList Projection="{escape(crs.to_wkt())}">{listed}</GCPList>'


def _rpc_metadata(dataset: Any) -> str:
    items = "".join(
        f'<MDI key="{escape(key)}">{escape(value)}</MDI>'
        for key, value in dataset.tags(ns="RPC").items()
    )
    return f'<Metadata domain="RPC">{items}</Metadata>'


def _plain_vrt(dataset: Any, path: Path, place: str, *, masks: tuple[int, ...]) -> str:
    """All bands, and masks behind them, without nodata and colours: gdal.org/drivers/raster/vrt.html."""
    types = require("rasterio.dtypes", why="reading GeoTIFF")
    kinds = [types.typename_fwd[types.dtype_rev[dtype]] for dtype in dataset.dtypes]
    sources = [*map(str, dataset.indexes), *(f"mask,{band}" for band in masks)]
    bands = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{number}"><SimpleSource>'
        f'<SourceFilename relativeToVRT="0">{escape(str(path.absolute()))}</SourceFilename>'
        f"<SourceBand>{source}</SourceBand></SimpleSource></VRTRasterBand>"
        for number, (source, kind) in enumerate(
            zip(sources, [*kinds, *(["Byte"] * len(masks))], strict=True), start=1
        )
    )
    size = f'rasterXSize="{dataset.width}" rasterYSize="{dataset.height}"'
    return f"<VRTDataset {size}>{place}{bands}</VRTDataset>"
