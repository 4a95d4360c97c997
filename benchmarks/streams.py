"""What reading, preparing, postprocessing and writing cost beside bare inference, at 1024².

    python benchmarks/streams.py ENGINE IMAGES [--rounds 9] [--frames 6] [--decoding]

ENGINE takes 1024×1024. The images' centres are cut to that size, so that a frame is one window.
Each round runs the same frames through the engine alone and through ``run`` in three ways, in an
order that is turned from round to round, all in one process. Costs are the medians over the rounds of
each way's wall time divided by the bare time of its round; CPU time, of all threads, likewise: what
is written beside the inference costs no wall time where a core is idle.

``--decoding`` measures something else: PyAV against GStreamer, both from the same H.264 film to written
lines. The film shows the same images, each wandering for eight frames. The two take turns, in an
order that is turned from round to round. GStreamer must not be slower: exit code 3 where the median of
the rounds' ratios is above 1.01. Writes results/decoding.json.
"""

from __future__ import annotations

import argparse
import sys
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


def film_of(frames: list[np.ndarray], path: Path) -> Path:
    """A film of H.264 in which each image wanders by 8 pixels a frame, for 8 frames."""
    import av

    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=30, options={"crf": "20", "preset": "medium"})
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        for pixels in frames:
            for step in range(8):
                shown = np.ascontiguousarray(np.roll(pixels, 8 * step, 1))
                film.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        film.mux(stream.encode(None))
    return path


def compare_decoders(
    segmenter: Segmenter, film: Path, sink: FolderSink, rounds: int
) -> dict[str, Any]:
    """PyAV and GStreamer in turns, each from the film to its lines."""
    wall: dict[str, list[float]] = {"PyAV": [], "GStreamer": []}
    cpu: dict[str, list[float]] = {"PyAV": [], "GStreamer": []}
    counts = set()
    for number in range(1 + rounds):
        for name in sorted(wall, reverse=bool(number % 2)):
            source = FileSource(
                [SourceFile(film, "film")], decoder="sw" if name == "GStreamer" else None
            )
            before = time.perf_counter(), time.process_time()
            outcomes = list(Run(segmenter, source, sink))
            if number:  # the first round warms up
                wall[name].append(time.perf_counter() - before[0])
                cpu[name].append(time.process_time() - before[1])
            assert all(outcome.error is None for outcome in outcomes)
            counts.add(len(outcomes))
    (frames,) = counts
    return {
        "engine": segmenter.backend.name,
        "frames": frames,
        "rounds": rounds,
        "ms_per_frame": {name: round(1e3 * median(t) / frames, 1) for name, t in wall.items()},
        "cpu_ms_per_frame": {name: round(1e3 * median(t) / frames, 1) for name, t in cpu.items()},
        "wall_ratio": spread(wall),
        "cpu_ratio": spread(cpu),
    }


def spread(taken: dict[str, list[float]]) -> dict[str, float]:
    """GStreamer's time divided by PyAV's of its round: quartiles."""
    ratios = [g / p for g, p in zip(taken["GStreamer"], taken["PyAV"], strict=True)]
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    return {"p25": round(low, 4), "p50": round(middle, 4), "p75": round(high, 4)}


def decoding(segmenter: Segmenter, frames: list[np.ndarray], scratch: Path, rounds: int) -> None:
    """Measure, record and print the decoders."""
    film = film_of(frames, scratch / "film.mp4")
    with LinesOnly(scratch / "decoded", overlays=False) as sink:
        result = compare_decoders(segmenter, film, sink, rounds)
    record("decoding", [result])
    for kind, name in (("wall", "ms_per_frame"), ("cpu", "cpu_ms_per_frame")):
        told = ", ".join(f"{who} {ms} ms a frame" for who, ms in result[name].items())
        ratio = result[f"{kind}_ratio"]
        print(f"{kind} time: {told}; ratio {ratio['p50']} ({ratio['p25']} to {ratio['p75']})")
    if result["wall_ratio"]["p50"] > 1.01:
        sys.exit(3)


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
    parser.add_argument("--decoding", action="store_true", help="PyAV against GStreamer")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as scratch,
        open_segmenter(given.engine, threads=given.threads) as segmenter,
    ):
        assert (segmenter.spec.height, segmenter.spec.width) == (SIDE, SIDE)
        paths = centres(given.images, Path(scratch), given.frames)
        frames = [read_frame(path).pixels.copy() for path in paths]
        if given.decoding:
            decoding(segmenter, frames, Path(scratch), given.rounds)
            return

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
