"""From folders of images to a calibration table, or a smoothed bundle: find tiles, choose, measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.calibration.calibrate import measure_ranges
from segclip_deploy.calibration.selection import TileSet, select_tiles
from segclip_deploy.calibration.sheet import contact_sheet
from segclip_deploy.calibration.table import CalibrationTable
from segclip_deploy.calibration.tiles import TilePool, find_tiles
from segclip_deploy.export.onnx_model import check_fp32, load_model
from segclip_deploy.progress import Report, silent, stage
from segclip_deploy.quantization.placement import find_probes
from segclip_deploy.quantization.smooth import smooth
from segclip_deploy.runtime.io.raster.source import Reading
from segclip_deploy.runtime.open_engine import open_engine

__all__ = ["calibrate", "calibrate_on", "smooth_on"]

_SELECTED = 256


def calibrate(
    bundle: Bundle,
    tiles: TileSet,
    out: Path,
    *,
    method: str,
    scheme: Scheme | None = None,
    report: Callable[[int, int], None] = lambda _done, _total: None,
) -> CalibrationTable:
    """Measure on tiles all that plans need; arguments and errors as of ``measure_ranges``.

    Args:
        scheme: of the plans. None: any; the graphs of the bundle are measured side by side, each for the
            schemes that are written into it.
    """
    check_fp32(bundle)
    wanted = Scheme if scheme is None else (scheme,)
    schemes = {
        lowering: [one for one in wanted if bundle.for_scheme(one).lowering is lowering]
        for lowering in bundle.lowerings
    }
    probes = {
        lowering: find_probes(
            load_model(bundle.lowered(lowering).model_path).graph,
            own,
            bundle.record.trained_for_int8,
        )
        for lowering, own in schemes.items()
        if own
    }
    return measure_ranges(bundle, probes, tiles, out, method=method, report=report)


def calibrate_on(
    bundle: Bundle,
    sources: Sequence[Path],
    out: Path,
    *,
    method: str = "percentile",
    select: int = _SELECTED,
    scheme: Scheme | None = None,
    exclude: Path | None = None,
    layout: str | None = None,
    sheet: Path | None = None,
    reading: Reading | None = None,
    report: Report = silent,
) -> CalibrationTable:
    """Find tiles, choose those that cover them all, and measure ranges on these.

    Args:
        bundle: in FP32; it also labels the tiles, so that no class is forgotten.
        sources: images, folders, lists or datasets.
        out: the table to write.
        method: how a range is read off a histogram.
        select: how many tiles.
        scheme: of the plans that are to be made; None: any.
        exclude: a dataset for evaluation; none of its tiles is used.
        layout: of the datasets among these that fit several; by default what is there decides.
        sheet: a contact sheet to write.
        reading: how images and rasters are read; by default as they are stored.
        report: of progress.

    Raises:
        BadInput: the tiles cannot be used.
        BadArtifact: the bundle is not FP32.
    """
    check_fp32(bundle)  # before all images are read
    pool = _pool(bundle, sources, exclude, layout, reading, report)
    with open_engine(bundle.path).backend as backend:
        batch = backend.inputs[0].batches.start

        def label(tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
            outputs = backend.infer({"image": np.repeat(tile[None], batch, axis=0)})
            return outputs["labels"][0].copy()

        tiles = select_tiles(pool, select, labels=label, report=stage(report, "labelling"))
    if sheet:
        contact_sheet(tiles, sheet, vocabulary=bundle.vocabulary)
    return calibrate(
        bundle, tiles, out, method=method, scheme=scheme, report=stage(report, "calibrating")
    )


def smooth_on(
    bundle: Bundle,
    sources: Sequence[Path],
    out: Path,
    *,
    alpha: float,
    select: int,
    exclude: Path | None = None,
    layout: str | None = None,
    reading: Reading | None = None,
    report: Report = silent,
) -> Bundle:
    """Find tiles, choose those that cover them all, and ``smooth`` by what channels reach on these.

    Args:
        sources, select, exclude, layout, reading, report: as for ``calibrate_on``.
        bundle, out, alpha: as for ``smooth``.

    Raises:
        SegclipError: whatever finding tiles and smoothing raise.
    """
    check_fp32(bundle)  # before all images are read
    pool = _pool(bundle, sources, exclude, layout, reading, report)
    tiles = select_tiles(pool, select)
    return smooth(bundle, tiles, out, alpha=alpha, report=stage(report, "looking"))


def _pool(
    bundle: Bundle,
    sources: Sequence[Path],
    exclude: Path | None,
    layout: str | None,
    reading: Reading | None,
    report: Report,
) -> TilePool:
    """Every tile, read as flight reads it."""
    return find_tiles(
        sources,
        bundle.input,
        exclude=exclude,
        layout=layout,
        reading=reading,
        model_metres=bundle.vocabulary.ground_sample_distance_m,
        report=stage(report, "reading"),
    )
