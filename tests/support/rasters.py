"""Rasters for tests, and a segmenter that knows the class of each of their pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.records import replace
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.io.raster.segment import LabelledRaster, segment_raster, settings_digest
from segclip_deploy.runtime.io.raster.source import Raster, Reading, describe_raster
from tests.support.fakes import FakeBackend, random_frame

DUBAI = load_vocabulary("dubai")
HALF_METRE = rasterio.Affine(0.5, 0, 346000, 0, -0.5, 5648000)
RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


def write_raster(
    path: Path,
    bands: NDArray[Any],
    *,
    colours: tuple[ColorInterp, ...] | None = RGB,
    mask: NDArray[np.uint8] | None = None,
    **profile: Any,
) -> Path:
    """A GeoTIFF of bands (C, H, W): half a metre, UTM 32 N, untiled unless the profile says otherwise."""
    count, height, width = bands.shape
    settings = {"crs": "EPSG:25832", "transform": HALF_METRE, **profile}
    options = {"photometric": "RGB"} if colours == RGB else {}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path,
            "w",
            driver="GTiff",
            height=height,
            width=width,
            count=count,
            dtype=bands.dtype,
            **options,
            **settings,
        ) as dataset,
    ):
        dataset.write(bands)
        if colours is not None and colours != RGB:
            dataset.colorinterp = colours
        if mask is not None:
            dataset.write_mask(mask)
    return path


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """(3, H, W) of random pixels."""
    return np.ascontiguousarray(random_frame(height, width, seed).pixels.transpose(2, 0, 1))


def segmenter(
    backend: FakeBackend | None = None, *, metres: float | None = None, **options: Any
) -> Segmenter:
    """Windows of 64×96, in batches of up to 3; the ground sample distance is of the model."""
    backend = backend or FakeBackend(64, 96, 3, min_batch=1, **options)
    vocabulary = replace(DUBAI, ground_sample_distance_m=metres)
    return Segmenter(backend, InputSpec(64, 96, 3, 1), vocabulary)


def describe(path: Path, flyer: Segmenter, **reading: Any) -> Raster:
    """What is to be read of a raster."""
    return describe_raster(path, Reading(**reading), flyer.vocabulary.ground_sample_distance_m)


def label(path: Path, out: Path, flyer: Segmenter | None = None, **reading: Any) -> LabelledRaster:
    """A raster through a segmenter."""
    flyer = flyer or segmenter()
    raster = describe(path, flyer, **reading)
    return segment_raster(flyer, raster, out, digest=settings_digest(flyer, raster, "engine"))


def labels_in(path: Path) -> NDArray[np.uint8]:
    """The labels of an output."""
    with rasterio.open(path) as dataset:
        return dataset.read(1)
