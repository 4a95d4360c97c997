"""What reading, preparing, postprocessing and writing cost beside bare inference, at 1024².

    python benchmarks/streams.py ENGINE IMAGES [--rounds 9] [--frames 6]

ENGINE takes 1024×1024. The images' centres are cut to that size, so that a frame is one window.
Each round runs the same frames through the engine alone and through ``run`` in three ways, in an
order that is turned from round to round, all in one process. Costs are the medians over the rounds of
each way's wall time divided by the bare time of its round; CPU time, of all threads, likewise: what
is written beside the inference costs no wall time where a core is idle.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image
from record import record

from segclip_deploy.runtime.inference.frame import read_frame
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.io.sinks.folder import FolderSink
from segclip_deploy.runtime.io.sources.file_source import FileSource
from segclip_deploy.runtime.io.sources.naming import SourceFile
from segclip_deploy.runtime.open_engine import open_segmenter
from segclip_deploy.runtime.streaming.run import Run

SIDE = 1024


class LinesOnly(FolderSink):
    """Areas and times of each frame, no images."""

    def _put(self, name: str, image: Any) -> None:
        """Write no image."""


def centres(images: Path, folder: Path, count: int) -> list[Path]:
    """The middles of images, padded where an image is lower, as JPEG."""
    made = []
    for path in sorted(images.iterdir())[:count]:
        pixels = read_frame(path).pixels
        below = max(0, SIDE - pixels.shape[0])
        pixels = np.pad(pixels, ((0, below), (0, 0), (0, 0)), mode="reflect")
        top, left = ((side - SIDE) // 2 for side in pixels.shape[:2])
        made.append(folder / f"{path.stem}.jpg")
        Image.fromarray(pixels[top : top + SIDE, left : left + SIDE]).save(made[-1], quality=90)
    return made


def bare(segmenter: Segmenter, frames: list[np.ndarray]) -> None:
    """The engine alone."""
    name = segmenter.backend.inputs[0].name
    for pixels in frames:
        segmenter.backend.infer({name: pixels[None]})


def flown(segmenter: Segmenter, paths: list[Path], sink: FolderSink) -> None:
    """A run from its start to its last written frame."""
    for outcome in Run(
        segmenter, FileSource([SourceFile(path, path.stem) for path in paths]), sink
    ):
        assert outcome.error is None


def costs(taken: dict[str, list[float]]) -> dict[str, float]:
    """Median over the rounds of each way's excess over the bare."""
    return {
        name: round(median(t / b for t, b in zip(values, taken["bare"], strict=True)) - 1, 4)
        for name, values in taken.items()
        if name != "bare"
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("engine", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--threads", type=int, default=0)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as scratch,
        open_segmenter(given.engine, threads=given.threads) as segmenter,
    ):
        assert (segmenter.spec.height, segmenter.spec.width) == (SIDE, SIDE)
        paths = centres(given.images, Path(scratch), given.frames)
        frames = [read_frame(path).pixels.copy() for path in paths]

        def sink(kind: type[FolderSink], name: str, **options: Any) -> FolderSink:
            return kind(Path(scratch) / name, **options)

        with (
            sink(LinesOnly, "lines", overlays=False) as lines,
            sink(FolderSink, "labels", overlays=False) as labels,
            sink(FolderSink, "all") as everything,
        ):
            ways: dict[str, Callable[[], None]] = {
                "bare": lambda: bare(segmenter, frames),
                "no images": lambda: flown(segmenter, paths, lines),
                "labels": lambda: flown(segmenter, paths, labels),
                "labels and overlays": lambda: flown(segmenter, paths, everything),
            }
            wall: dict[str, list[float]] = {name: [] for name in ways}
            cpu: dict[str, list[float]] = {name: [] for name in ways}
            for number in range(1 + given.rounds):
                names = list(ways)
                for name in names[number % 4 :] + names[: number % 4]:
                    before = time.perf_counter(), time.process_time()
                    ways[name]()
                    if number:  # the first round warms up
                        wall[name].append(time.perf_counter() - before[0])
                        cpu[name].append(time.process_time() - before[1])
        backend = segmenter.backend.name
    result = {
        "engine": backend,
        "frames_per_round": given.frames,
        "rounds": given.rounds,
        "ms_per_frame": {
            name: round(1e3 * median(taken) / given.frames, 1) for name, taken in wall.items()
        },
        "wall_cost": costs(wall),
        "cpu_cost": costs(cpu),
    }
    record("streams", [result])
    print(f"{'bare':20} {result['ms_per_frame']['bare']:8.1f} ms a frame")
    for name, cost in result["wall_cost"].items():
        print(
            f"{name:20} {result['ms_per_frame'][name]:8.1f} ms a frame, {cost:+.1%}; "
            f"CPU time {result['cpu_cost'][name]:+.1%}"
        )


if __name__ == "__main__":
    main()
