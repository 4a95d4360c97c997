"""Which bands of a raster the model sees, and which values of them are black and white."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.errors import BadInput

__all__ = ["RasterBands", "choose_bands", "choose_scale", "to_8_bits"]


@dataclass(frozen=True)
class RasterBands:
    """What the model sees of a raster.

    Attributes:
        rgb: of red, green and blue, from 1; of a palette the same three times.
        palette: (256, 3) colours as bytes, of a palette.
        clear: entries of the palette that are transparent.
        notes: what is to be said of them.
    """

    rgb: tuple[int, int, int]
    palette: bytes | None = None
    clear: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def choose_bands(dataset: Any, asked: tuple[int, int, int] | None, path: Path) -> RasterBands:
    """Red, green and blue: those that the user names, or those that the file calls so.

    Raises:
        BadInput: bands that are not there, or that cannot be told apart.
    """
    count = dataset.count
    if asked is not None:
        if max(asked) > count:
            raise BadInput(
                f"has {count} band{'s' * (count > 1)}, not {max(asked)}",
                where=path,
                fix="change --bands",
            )
        return RasterBands(asked)
    kinds = [kind.name for kind in dataset.colorinterp]
    if all(kinds.count(colour) == 1 for colour in ("red", "green", "blue")):
        red, green, blue = (kinds.index(colour) + 1 for colour in ("red", "green", "blue"))
        said = (f"bands {red}, {green}, {blue} of {count} are its red, green and blue",)
        plain = count == 3 or (count == 4 and "alpha" in kinds)
        return RasterBands((red, green, blue), notes=() if plain else said)
    if "palette" in kinds and dataset.dtypes[kinds.index("palette")] == "uint8":
        return _palette(dataset, kinds.index("palette") + 1)
    if count < 3:
        raise BadInput(
            f"has {count} band{'s' * (count > 1)}, and the model takes red, green and blue",
            where=path,
            fix="if the model was trained on grey images, take one band three times: --bands 1,1,1",
        )
    names = [f"{index} {text}" for index, text in enumerate(dataset.descriptions, start=1) if text]
    raise BadInput(
        f"does not say which of its {count} bands are red, green and blue"
        + (f" (it has {', '.join(names)})" if names else ""),
        where=path,
        fix="name them, e.g. --bands 1,2,3",
    )


def _palette(dataset: Any, band: int) -> RasterBands:
    colours = np.zeros((256, 4), np.uint8)
    for index, colour in dataset.colormap(band).items():
        if 0 <= index < len(colours):
            colours[index] = colour
    clear = tuple(int(index) for index in dataset.colormap(band) if colours[index, 3] == 0)
    said = (f"band {band} is a palette: its colours are read",)
    return RasterBands((band,) * 3, colours[:, :3].tobytes(), clear, said)


def choose_scale(
    dataset: Any, bands: RasterBands, asked: tuple[float, float] | None, path: Path
) -> tuple[float, float] | None:
    """The values that become 0 and 255; None where they are 8 bits, of which ``asked`` changes nothing.

    Raises:
        BadInput: other values, and no scale asked for; or values that are no real numbers.
    """
    kinds = {dataset.dtypes[band - 1] for band in bands.rgb}
    if kinds == {"uint8"}:
        return None
    kind = sorted(kinds - {"uint8"})[-1]
    if kind.startswith("complex"):
        raise BadInput(
            f"its values are {kind}, and the model takes 8 bits",
            where=path,
            fix="make real numbers of them, e.g. their magnitude, with the tool that wrote them",
        )
    if asked is None:
        raise BadInput(
            f"its values are {kind}, and the model takes 8 bits",
            where=path,
            fix="say what becomes black and white with --scale LOW,HIGH, "
            "as the images the model was trained on were scaled",
        )
    return asked


def to_8_bits(
    values: NDArray[Any], scale: tuple[float, float], out: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Map ``scale`` linearly to 0–255, clipped, rounded; what is not a number becomes 0."""
    low, high = scale
    wide = values.dtype.itemsize >= 4 and values.dtype != np.float32  # beyond 24 bits
    levels = (values.astype(np.float64 if wide else np.float32) - low) * (255 / (high - low))
    out[...] = np.rint(np.clip(np.nan_to_num(levels, nan=0.0), 0, 255))
    return out
