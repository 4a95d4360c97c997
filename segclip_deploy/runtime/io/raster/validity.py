"""The one decision which pixels of a raster are real: nodata, masks, alpha, and what is no number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["RULES", "Validity", "choose_validity", "is_valid", "removed_by"]

RULES = 1
"""Version of the decision: raise it when the same raster gets other valid pixels."""

Window = tuple[tuple[int, int], tuple[int, int]]
"""Rows and columns, (from, to) each."""


@dataclass(frozen=True)
class Validity:
    """What takes pixels away from a raster.

    Attributes:
        nodata: of each band that the model sees, the value that marks no data; None: no value does.
        alphas: bands, from 1, whose zeros are transparent.
        masks: bands, from 1, whose masks GDAL keeps (internal, external, of a VRT); one stands for
            all where the mask is of the dataset.
        numbers: whether a value of the bands may be no number.
        clear: entries of the palette that are transparent.
        coverage: the band, from 1, that is zero outside a warped raster; None for others.
        mask_bands: bands, from 1, that hold the masks of a warped raster; none for others.
    """

    nodata: tuple[float | None, float | None, float | None] = (None, None, None)
    alphas: tuple[int, ...] = ()
    masks: tuple[int, ...] = ()
    numbers: bool = False
    clear: tuple[int, ...] = ()
    coverage: int | None = None
    mask_bands: tuple[int, ...] = ()


def choose_validity(
    dataset: Any,
    bands: tuple[int, int, int],
    *,
    ignore_alpha: bool,
    written_nodata: str | None = None,
    clear: tuple[int, ...] = (),
) -> tuple[Validity, tuple[str, ...]]:
    """Decide what takes pixels away, and what is to be said of it.

    A pixel is real where no alpha band is 0, no mask hides it, every value that the model sees is
    a number, and one of these values at least is not nodata. A band that the model sees is no
    alpha band, whatever the file calls it.

    Args:
        dataset: of rasterio.
        bands: that the model sees, from 1.
        ignore_alpha: take no alpha band into account.
        written_nodata: what the file says of nodata, where GDAL may have dropped it.
        clear: entries of the palette that are transparent.
    """
    notes = []
    nodata = []
    for band in bands:
        value = dataset.nodatavals[band - 1]
        known = None if value is None else _as_stored(value, dataset.dtypes[band - 1])
        if value is not None and known is None:
            written_nodata = f"{value:g}"
        nodata.append(known)
    if written_nodata is not None and nodata == [None] * 3:
        kind = dataset.dtypes[bands[0] - 1]
        notes.append(f"nodata {written_nodata} is no value of {kind}: it takes no pixel away")
    alphas = [i for i, kind in enumerate(dataset.colorinterp, 1) if kind.name == "alpha"]
    shown = [band for band in alphas if band in bands]
    if shown:
        notes.append(f"band {shown[0]}, which the file calls alpha, is taken for a colour")
    flags = [{flag.name for flag in dataset.mask_flag_enums[band - 1]} for band in bands]
    masked = [band for band, has in zip(bands, flags, strict=True) if _is_kept(has)]
    if any("per_dataset" in has and _is_kept(has) for has in flags):
        masked = masked[:1]
    elif len(masked) < len(bands):
        masked = []  # one of the bands is real everywhere
    kinds = {np.dtype(dataset.dtypes[band - 1]).kind for band in bands}
    return Validity(
        nodata=(nodata[0], nodata[1], nodata[2]),
        alphas=() if ignore_alpha else tuple(band for band in alphas if band not in bands),
        masks=tuple(dict.fromkeys(masked)),
        numbers="f" in kinds,
        clear=clear,
    ), tuple(notes)


def is_valid(
    dataset: Any, validity: Validity, values: NDArray[Any], window: Window
) -> NDArray[np.bool_]:
    """Which pixels of a window are real: (h, w).

    Args:
        dataset: of rasterio.
        validity: of it.
        values: (3, h, w), what is stored in the bands that the model sees.
        window: that they come from.
    """
    valid = np.ones(values.shape[1:], np.bool_)
    if valid.size:
        for _, removed in removed_by(dataset, validity, values, window):
            valid &= ~removed
    return valid


def removed_by(
    dataset: Any, validity: Validity, values: NDArray[Any], window: Window
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Each reason that takes pixels away, in words, with those pixels (h, w); arguments as above."""
    if validity.coverage is None:
        yield from _removed_inside(dataset, validity, values, window)
        return
    outside = dataset.read(validity.coverage, window=window) == 0
    yield "what lies outside the turned image removes", outside
    for reason, removed in _removed_inside(dataset, validity, values, window):
        yield reason, removed & ~outside


def _removed_inside(
    dataset: Any, validity: Validity, values: NDArray[Any], window: Window
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    if None not in validity.nodata:
        parts = zip(values, validity.nodata, strict=True)
        gone = np.logical_and.reduce([_equals(value, nodata) for value, nodata in parts])
        names = dict.fromkeys(f"{nodata:g}" for nodata in validity.nodata)
        yield f"nodata {' '.join(names)} removes", gone
    if validity.numbers:
        bad = ~np.isfinite(values).all(axis=0)
        if None not in validity.nodata and np.isnan(np.float64(validity.nodata[0] or 0)):
            bad &= ~np.isnan(values).all(axis=0)  # was counted above
        yield "what is no number removes", bad
    if validity.clear:
        yield "transparent colours remove", np.isin(values[0], validity.clear)
    if validity.masks:
        hidden = [dataset.read_masks(band, window=window) == 0 for band in validity.masks]
        yield "the mask removes", np.logical_and.reduce(hidden)
    if validity.mask_bands:
        hidden = [dataset.read(band, window=window) == 0 for band in validity.mask_bands]
        yield "the mask removes", np.logical_and.reduce(hidden)
    for band in validity.alphas:
        yield f"alpha band {band} removes", dataset.read(band, window=window) == 0


def _is_kept(flags: set[str]) -> bool:
    """Whether GDAL keeps a mask of a band that is neither alpha nor made of the band's nodata."""
    if "alpha" in flags or "all_valid" in flags:
        return False
    return "nodata" not in flags or "per_dataset" in flags


def _as_stored(value: float, dtype: str) -> float | None:
    """A nodata value as the band stores it; None where it has no such value."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        if not np.isfinite(value):
            return float(value)
        limits = np.finfo(kind)
        return float(kind.type(value)) if limits.min <= value <= limits.max else None
    if kind.kind not in "iu" or not float(value).is_integer():
        return None
    return float(value) if np.iinfo(kind).min <= value <= np.iinfo(kind).max else None


def _equals(values: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    assert nodata is not None
    return np.isnan(values) if np.isnan(nodata) else values == nodata
