"""The verb: a raster through a segmenter to a label map of the same grid."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX
from segclip_deploy.errors import BadInput
from segclip_deploy.progress import Report, silent
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.inference.stitching import Tally
from segclip_deploy.runtime.io.raster.cog import stored_digest, write_cog
from segclip_deploy.runtime.io.raster.gdal import opened, translated
from segclip_deploy.runtime.io.raster.ground import AreaCount, measure_areas
from segclip_deploy.runtime.io.raster.partial import Partial
from segclip_deploy.runtime.io.raster.rows import RowReader
from segclip_deploy.runtime.io.raster.source import Raster
from segclip_deploy.runtime.io.raster.validity import RULES

__all__ = [
    "LabelledRaster",
    "count_areas",
    "describe_labels",
    "label_rows",
    "read_labels",
    "segment_raster",
    "settings_digest",
]

_SCHEMA = 2  # of what decides the labels: raise it when the same settings give others
_BLOCK = 512  # rows of a COG's tile


@dataclass(frozen=True)
class LabelledRaster:
    """The label map of a raster, and how it was made; small, and able to travel between processes.

    Attributes:
        labels: the Cloud-Optimized GeoTIFF.
        areas: pixels, share and m² by class.
        size: (H, W) of the raster and of its labels.
        model_size: (H, W) at which the model saw it.
        crs: the coordinate reference system as text; None where the raster names none.
        pixel_m: width and height of the middle pixel on the ground; None where unknown.
        bands: of red, green and blue, from 1.
        scale: the values that became 0 and 255; None for 8 bits.
        windows: how many were inferred this time.
        kept: rows that were finished before.
        seconds: of this time, writing included.
        inferring: seconds of them inside the engine.
    """

    labels: Path
    areas: dict[str, dict[str, Any]]
    size: tuple[int, int]
    model_size: tuple[int, int]
    crs: str | None
    pixel_m: tuple[float, float] | None
    bands: tuple[int, int, int]
    scale: tuple[float, float] | None
    windows: int
    kept: int
    seconds: float
    inferring: float


def settings_digest(segmenter: Segmenter, raster: Raster, engine_sha256: str) -> str:
    """SHA-256 of all that decides the labels: engine, classes, settings, and size and time of each file.

    Files are the raster, those beside it that place or mask it, and the sources of a VRT.
    """
    stats = [(file.name, file.stat()) for file in raster.files]
    deciding = {
        "schema": _SCHEMA,
        "engine": engine_sha256,
        "vocabulary": segmenter.vocabulary.to_json(),
        "overlap": segmenter.overlap,
        "raster": raster.grid.own,
        "files": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats],
        "crs": raster.crs and raster.crs.to_wkt(),
        "transform": list(raster.transform)[:6],
        "validity": [RULES, asdict(raster.validity)],
        "allow_remote": raster.allow_remote,
        "grid": raster.grid.model,
        "bands": raster.bands,
        "scale": raster.scale,
    }
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def segment_raster(
    segmenter: Segmenter,
    raster: Raster,
    out: Path,
    *,
    digest: str,
    report: Report = silent,
) -> LabelledRaster:
    """Label a raster of any size; ``out`` appears when it is whole.

    Reading, inference and writing overlap; what is held is two rows of windows. An interrupted
    call leaves its finished rows beside ``out``, and one with the same digest goes on from there;
    an ``out`` of the same digest is left as it is.

    Args:
        segmenter: its vocabulary gives colours and names.
        raster: what to label.
        out: NAME.tif, in a folder that exists.
        digest: from ``settings_digest``.
        report: called with what is done, rows done and rows in all.

    Raises:
        BadInput: the raster is damaged, or there is no room; nothing is left behind.
        OSError: something could not be written; the finished rows are kept.
    """
    started = time.perf_counter()
    height, names = raster.grid.own[0], segmenter.vocabulary.names
    tally = Tally()
    if out.exists() and stored_digest(out) == digest:
        kept, areas = height, count_areas(out, raster, names)
    else:
        areas = _no_areas(raster, names)
        with Partial(out, raster.grid.own, digest) as partial:
            kept = partial.rows
            for top in range(0, kept, _BLOCK):
                areas.add(top, partial.read(top, min(top + _BLOCK, kept)))

            def write(labels: NDArray[np.uint8]) -> None:
                areas.add(partial.rows, labels)
                partial.append(labels)

            if kept < height:
                try:
                    label_rows(segmenter, raster, kept, height, write, tally=tally, report=report)
                except BadInput:
                    partial.remove()
                    raise
            report("writing", height, height)
            write_cog(partial.labels, raster, segmenter.vocabulary, out, digest=digest)
            partial.remove()
    return describe_labels(
        raster,
        out,
        areas,
        windows=tally.windows,
        kept=kept,
        seconds=time.perf_counter() - started,
        inferring=tally.inferring,
    )


def count_areas(labels: Path, raster: Raster, names: tuple[str, ...]) -> AreaCount:
    """Count the areas of a label map that is written; the same whenever it is done."""
    areas, height = _no_areas(raster, names), raster.grid.own[0]
    with opened(labels) as dataset:
        for top in range(0, height, _BLOCK):
            areas.add(top, read_labels(dataset, top, min(top + _BLOCK, height)))
    return areas


def describe_labels(
    raster: Raster,
    labels: Path,
    areas: AreaCount,
    *,
    windows: int,
    kept: int,
    seconds: float,
    inferring: float,
) -> LabelledRaster:
    """The label map of a raster with what is known of both; arguments as in ``LabelledRaster``."""
    return LabelledRaster(
        labels,
        areas.to_json(),
        size=raster.grid.own,
        model_size=raster.grid.model,
        crs=raster.crs and raster.crs.to_string(),
        pixel_m=raster.metres,
        bands=raster.bands,
        scale=raster.scale,
        windows=windows,
        kept=kept,
        seconds=seconds,
        inferring=inferring,
    )


def read_labels(dataset: Any, top: int, bottom: int) -> NDArray[np.uint8]:
    """Rows (bottom − top, W) of a label map that rasterio has open."""
    return dataset.read(1, window=((top, bottom), (0, dataset.width)))


def label_rows(
    segmenter: Segmenter,
    raster: Raster,
    top: int,
    bottom: int,
    write: Callable[[NDArray[np.uint8]], None],
    *,
    tally: Tally,
    report: Report = silent,
) -> None:
    """Label the raster's rows ``top`` to ``bottom``: the same, whatever else is labelled with them.

    Args:
        write: is given them (h, W), in order, in a thread, while the next are made.
        tally: is added to.
        report: called with what is done, rows done and rows in all.

    Raises:
        BadInput: the raster is damaged.
    """
    grid = raster.grid
    shape = segmenter.padded(*grid.model)
    first, stop = int(grid.rows[top]), int(grid.rows[bottom - 1]) + 1

    def mask(labels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> None:
        write(np.where(valid, labels, np.uint8(IGNORE_INDEX)))

    with RowReader(raster, shape) as reader, ThreadPoolExecutor(1) as pool:
        written: Future[None] | None = None
        for rows in segmenter.rows(shape, reader, first=first, stop=stop, tally=tally):
            own_top, own_bottom = grid.own_rows(rows.top, rows.bottom)
            begin, end = max(top, own_top), min(bottom, own_bottom)
            if begin >= end:
                continue
            labels = grid.to_own(rows.values, rows.top)[begin - own_top : end - own_top]
            valid = reader.take_valid(begin, end)
            if written is not None:
                written.result()
            written = pool.submit(mask, labels, valid)
            report("labelling", end, grid.own[0])
        if written is not None:
            written.result()


def _no_areas(raster: Raster, names: tuple[str, ...]) -> AreaCount:
    with translated(raster.path):
        return AreaCount(names, measure_areas(raster.crs, raster.transform, *raster.grid.own))
