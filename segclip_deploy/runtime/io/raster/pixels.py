"""Pixels of a raster as the model sees them, and which of them are real."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.runtime.io.raster.bands import to_8_bits
from segclip_deploy.runtime.io.raster.source import Raster, opened_raster
from segclip_deploy.runtime.io.raster.validity import Window, is_valid, removed_by

__all__ = ["read_pixels", "read_window", "what_is_removed"]

_EXACT = 1 << 24
"""Pixels of a raster that are all looked at to say how many are removed; of a larger one, as many."""
_STRIP = 256  # rows looked at together


def read_window(
    raster: Raster, window: Window | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A part of a raster in its own pixels: (h, w, 3) RGB, and (h, w) which of them are real.

    Args:
        raster: from ``describe_raster``.
        window: rows and columns, (from, to) each; None: all of it.

    Raises:
        BadInput: the raster is damaged.
    """
    height, width = raster.grid.own
    with opened_raster(raster) as dataset:
        return read_pixels(dataset, raster, window or ((0, height), (0, width)))


def read_pixels(
    dataset: Any, raster: Raster, window: Window
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """As ``read_window``, of a dataset that is open (``opened_raster``)."""
    (top, bottom), (left, right) = window
    pixels = np.empty((bottom - top, right - left, 3), np.uint8)
    channels = pixels.transpose(2, 0, 1)
    if not pixels.size:
        return pixels, np.empty(pixels.shape[:2], np.bool_)
    if raster.scale is None and raster.palette is None:
        dataset.read(list(raster.bands), window=window, out=channels)
        return pixels, is_valid(dataset, raster.validity, channels, window)
    values = _read_values(dataset, raster, window)
    if raster.palette is not None:
        pixels = np.frombuffer(raster.palette, np.uint8).reshape(256, 3)[values[0]]
    elif raster.scale is not None:
        for value, channel in zip(values, channels, strict=True):
            to_8_bits(value, raster.scale, channel)
    return pixels, is_valid(dataset, raster.validity, values, window)


def what_is_removed(raster: Raster) -> tuple[str, ...]:
    """Which share of a raster is not real, and why, in one line; none where all of it is.

    Counted over the raster if that has up to 16 million pixels, else over rows spread evenly, and
    then it says «about».

    Raises:
        BadInput: the raster is damaged.
    """
    if raster.validity == type(raster.validity)():
        return ()
    height, width = raster.grid.own
    tops = list(range(0, height, _STRIP))
    exact = height * width <= _EXACT
    if not exact:
        count = max(1, _EXACT // (_STRIP * width))
        tops = [tops[len(tops) * (2 * i + 1) // (2 * count)] for i in range(min(count, len(tops)))]
    counts: dict[str, int] = {}
    total = 0
    with opened_raster(raster) as dataset:
        for top in tops:
            window = ((top, min(top + _STRIP, height)), (0, width))
            values = _read_values(dataset, raster, window)
            total += values[0].size
            for reason, removed in removed_by(dataset, raster.validity, values, window):
                counts[reason] = counts.get(reason, 0) + int(removed.sum())
    parts = [f"{reason} {_percent(n / total, exact)}" for reason, n in counts.items() if n]
    if not parts:
        return ()
    keep = "; --ignore-alpha keeps it"
    alpha = any(counts.get(f"alpha band {band} removes") for band in raster.validity.alphas)
    if alpha and len(parts) > 1:
        keep = "; --ignore-alpha keeps what the alpha band removes"
    return (", ".join(parts) + " of the area" + keep * alpha,)


def _percent(share: float, exact: bool) -> str:
    about = "" if exact else "about "
    if share < 0.01:
        return f"{about}less than 1 %"
    return f"{about}{'more than 99' if 0.99 < share < 1 else round(100 * share)} %"


def _read_values(dataset: Any, raster: Raster, window: Window) -> NDArray[Any]:
    """(3, h, w) as stored; bands of several kinds as numbers that hold all of them."""
    kinds = {dataset.dtypes[band - 1] for band in raster.bands}
    if len(kinds) == 1:
        return dataset.read(list(raster.bands), window=window)
    return np.stack([dataset.read(band, window=window) for band in raster.bands])
