"""The animation of the README: a flight over a tile, and the labels that it leaves behind.

    python benchmarks/animation.py [-o docs/images/flight.webp]

The tile is of the example's split val, so the model was not trained on it. The labels are those of a
bundle that is exported here, windows of 512². The flight is drawn: its speed was not measured.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from record import ROOT

from segclip_deploy import api, open_segmenter
from segclip_deploy.artifacts.files import replace_file
from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.runtime.inference.drawing import overlay

EXAMPLE = ROOT / "examples/dubai"
TILE = EXAMPLE / "images/tile8_part3.jpg"
WIDTH, STRIP = 800, 48  # pixels of the picture, and of the strip of classes below it
ROWS, STEPS = 3, 27  # the flight's lines, and the frames of each
AHEAD = 0.28  # of the width: what the camera sees
FRAME_MS, FIRST_MS, LAST_MS = 90, 900, 2600
QUALITY = 72


@dataclass(frozen=True)
class Ground:
    """The tile before and after.

    Attributes:
        image, labelled: (H, W, 3), of the picture's size.
        labels: (H, W), class indices.
        vocabulary: names and colours.
    """

    image: NDArray[np.uint8]
    labelled: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    vocabulary: Vocabulary


def label_ground() -> Ground:
    """Export the example, segment the tile in its full size, and make all of it as large as the picture."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        api.export(EXAMPLE / "model.safetensors", out=bundle, size=(512, 512), for_="cpu")
        with open_segmenter(bundle) as segmenter:
            found = segmenter(TILE)
            vocabulary = segmenter.vocabulary
    with Image.open(TILE) as image:
        size = WIDTH, round(WIDTH * image.height / image.width)
        pixels = np.asarray(image.convert("RGB"))
    labelled = overlay(pixels, found.labels, vocabulary.palette, opacity=0.5)
    small = [Image.fromarray(pixels), labelled]
    before, after = (np.asarray(one.resize(size, Image.Resampling.LANCZOS)) for one in small)
    labels = Image.fromarray(found.labels).resize(size, Image.Resampling.NEAREST)
    return Ground(before, after, np.asarray(labels), vocabulary)


def fly(ground: Ground) -> Iterator[Image.Image]:
    """The frames: bare ground, the lines of the flight there and back, all of the labels."""
    height, width = ground.labels.shape
    seen = np.zeros((height, width), bool)
    yield draw_frame(ground, seen, None)
    ahead = round(AHEAD * width)
    for row in range(ROWS):
        top, bottom = (round(height * one / ROWS) for one in (row, row + 1))
        for step in range(1, STEPS + 1):
            front = round((width + ahead) * step / (STEPS + 1))
            left, right = (
                (front - ahead, front) if row % 2 == 0 else (width - front, width - front + ahead)
            )
            seen[top:bottom, max(left, 0) : max(right, 0)] = True
            yield draw_frame(ground, seen, (left, top, right, bottom))
        seen[top:bottom] = True
    yield draw_frame(ground, seen, None)


def draw_frame(
    ground: Ground, seen: NDArray[np.bool_], camera: tuple[int, int, int, int] | None
) -> Image.Image:
    """The ground with labels where it has been ``seen``, what the ``camera`` sees, and the classes' shares."""
    height, width = seen.shape
    picture = Image.new("RGB", (width, height + STRIP), "white")
    picture.paste(Image.fromarray(np.where(seen[..., None], ground.labelled, ground.image)), (0, 0))
    draw = ImageDraw.Draw(picture)
    if camera is not None:
        left, top, right, bottom = camera
        draw.rectangle((left, top, right, bottom - 1), outline="white", width=3)
        draw_drone(draw, (left + right) / 2, (top + bottom) / 2)
    draw_strip(draw, ground, seen, height)
    return picture


def draw_drone(draw: ImageDraw.ImageDraw, x: float, y: float) -> None:
    """Four rotors on a cross, white with a dark edge."""
    for width, colour in ((9, "#212529"), (5, "white")):
        for across in (-1, 1):
            draw.line((x - 17 * across, y - 17, x + 17 * across, y + 17), fill=colour, width=width)
    for dx in (-17, 17):
        for dy in (-17, 17):
            draw.circle((x + dx, y + dy), 10, fill="white", outline="#212529", width=2)


def draw_strip(
    draw: ImageDraw.ImageDraw, ground: Ground, seen: NDArray[np.bool_], top: int
) -> None:
    """Each class by colour and name, and its share of what has been seen."""
    counts = np.bincount(ground.labels[seen], minlength=len(ground.vocabulary.names))
    font = ImageFont.load_default(size=17)
    draw.rectangle((0, top, WIDTH, top + STRIP), fill="white")
    column = WIDTH / len(counts)
    for index, (name, count) in enumerate(zip(ground.vocabulary.names, counts, strict=True)):
        x, colour = 10 + index * column, tuple(ground.vocabulary.palette[index].tolist())
        draw.rectangle((x, top + 14, x + 20, top + 34), fill=colour, outline="#212529")
        told = f"{name} {count / counts.sum():.0%}" if seen.any() else name
        draw.text((x + 27, top + 24), told, fill="#212529", font=font, anchor="lm")


def main() -> None:
    """Label, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, default=ROOT / "docs/images/flight.webp")
    out = parser.parse_args().out
    frames = list(fly(label_ground()))
    times = [FIRST_MS, *[FRAME_MS] * (len(frames) - 2), LAST_MS]
    with replace_file(out) as temporary:
        frames[0].save(
            temporary, format="WEBP", save_all=True, append_images=frames[1:], duration=times, loop=0,
            quality=QUALITY, method=6, minimize_size=True,
        )  # fmt: skip
    print(
        f"{out}: {len(frames)} frames, {sum(times) / 1000:.1f} s, {out.stat().st_size / 1e6:.2f} MB"
    )


if __name__ == "__main__":
    main()
