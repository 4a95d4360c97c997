"""The label map of a frame, and what people ask of it: a picture, a file, areas, polygons."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segclip_deploy.artifacts.files import write_file
from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX, UNLABELLED, Vocabulary
from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.inference.drawing import OPACITY, label_image, overlay, png
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.inference.images import ImageLike, as_frame
from segclip_deploy.runtime.inference.outlines import area_of, feature, outlines

__all__ = ["ClassArea", "LabelMap", "StageTimes", "class_areas"]


@dataclass(frozen=True)
class StageTimes:
    """Milliseconds of wall time by a monotonic clock.

    Attributes:
        prepare: padding and cutting windows.
        infer: all windows through the engine.
        postprocess: joining windows and cropping to the frame.
    """

    prepare: float
    infer: float
    postprocess: float

    @property
    def total(self) -> float:
        """All stages."""
        return self.prepare + self.infer + self.postprocess


class ClassArea(TypedDict):
    """How much of a label map a class takes.

    Attributes:
        pixels: how many.
        share: of all pixels of the map, 0 to 1, rounded to 6 decimals.
    """

    pixels: int
    share: float


@dataclass(frozen=True, repr=False)
class LabelMap:
    """What the model says of a frame. Only labels are computed; the methods do the rest when called.

    Attributes:
        labels: (H, W) uint8 class indices, of the frame's own size; ``IGNORE_INDEX`` where it is not valid.
        windows: how many windows the frame took.
        times: where the milliseconds went.
        margin: (⌈H/4⌉, ⌈W/4⌉) uint8, the best class's probability less the second's, times 255;
            None where the engine has no such output.
        vocabulary: names and colours of the labels.
        frame: that was labelled: itself, no copy, so an array must not be overwritten before ``overlay``.

    Examples:
        >>> from segclip_deploy import open_segmenter
        >>> with open_segmenter("dubai.ort.onnx") as segment:
        ...     labels = segment("tile.jpg")
        >>> round(labels.areas()["water"]["share"], 1)
        0.5
        >>> labels.save("labels.png")
        >>> labels.overlay(alpha=0.6).save("overlay.jpg")
        >>> labels.polygons()["features"][0]["geometry"]["type"]
        'Polygon'
    """

    labels: NDArray[np.uint8]
    windows: int
    times: StageTimes
    margin: NDArray[np.uint8] | None = None
    vocabulary: Vocabulary = field(kw_only=True)
    frame: Frame = field(kw_only=True)

    def __repr__(self) -> str:
        height, width = self.labels.shape
        return f"<LabelMap of {width}×{height} pixels, {len(self.vocabulary.classes)} classes of {self.vocabulary.name}>"

    def overlay(self, image: ImageLike | None = None, *, alpha: float = OPACITY) -> Image.Image:
        """The frame with the colour of each pixel's class over it, as ``run`` draws it.

        Args:
            image: to draw on, of the same size; by default the frame that was labelled.
            alpha: of the colours, from 0, the bare image, to 1, colours alone. Pixels without a
                label stay bare.

        Raises:
            BadInput: an image of another size, one that cannot be read, or another alpha.
        """
        if not 0 <= alpha <= 1:
            raise BadInput(f"alpha is {alpha}, not 0 to 1")
        frame = self.frame if image is None else as_frame(image)
        if frame.pixels.shape[:2] != self.labels.shape:
            sizes = (f"{w}×{h}" for h, w in (frame.pixels.shape[:2], self.labels.shape))
            raise BadInput("is {} pixels, and its labels {}".format(*sizes), where=frame.source)
        return overlay(frame.pixels, self.labels, self.vocabulary.palette, opacity=alpha)

    def save(self, path: str | Path) -> None:
        """Write the labels as ``run`` does: a PNG of class indices under the vocabulary's palette.

        Pixels without a label are 255, and black. The file is there whole or not at all; folders
        are made.

        Raises:
            BadInput: the name does not end in ``.png``.
            OSError: it could not be written; says which file.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise BadInput(
                "labels are written as PNG", where=path, fix=f"call it {path.with_suffix('.png')}"
            )
        write_file(path, png(label_image(self.labels, self.vocabulary.palette)))

    def areas(self) -> dict[str, ClassArea]:
        """Pixels and share of each class, and of ``unlabelled`` if there are any: as ``areas.jsonl`` has them."""
        return class_areas(self.labels, self.vocabulary.names)

    def polygons(self) -> dict[str, Any]:
        """Connected pixels of one class as polygons: a GeoJSON FeatureCollection in pixels.

        x is to the right and y down, from the upper left corner of the frame; corners of pixels
        are whole numbers. Pixels connect along their sides; what has no label has no polygon. The
        first ring is the outer one, of positive area by the shoelace formula, and the others are holes.

        Returns:
            features with the properties ``class`` (its name), ``index``, ``mask_value``, ``colour``
            (``"#rrggbb"``) and ``pixels`` (area).

        Raises:
            MissingDependency: rasterio, of the extra ``geo``, is not installed.
        """
        drawn = []
        for shape, index in outlines(self.labels, mask=self.labels != IGNORE_INDEX):
            entry = self.vocabulary.classes[index]
            rings = [[(int(x), int(y)) for x, y in ring] for ring in shape["coordinates"]]
            one = feature({"type": "Polygon", "coordinates": rings}, index, self.vocabulary)
            one["properties"] |= {
                "mask_value": entry.mask_value,
                "colour": entry.hex_colour,
                "pixels": area_of(one["geometry"]["coordinates"]),
            }
            drawn.append(one)
        return {"type": "FeatureCollection", "features": drawn}


def class_areas(labels: NDArray[np.uint8], names: tuple[str, ...]) -> dict[str, ClassArea]:
    """Pixels and share of each class in a label map (H, W), and of ``unlabelled`` if there are any."""
    counts = np.bincount(labels.ravel(), minlength=IGNORE_INDEX + 1)
    found = dict(zip(names, counts, strict=False))
    if counts[IGNORE_INDEX]:
        found[UNLABELLED] = counts[IGNORE_INDEX]
    return {
        name: {"pixels": int(count), "share": round(float(count / labels.size), 6)}
        for name, count in found.items()
    }
