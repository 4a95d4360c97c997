"""Accuracy, latency and energy of the points of a sweep, kept on disk as they come."""

from __future__ import annotations

import gc
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.engine import Engine
from segclip_deploy.artifacts.files import UNREADABLE, read_json, write_json
from segclip_deploy.errors import BadArtifact
from segclip_deploy.evaluation.accuracy import Accuracy, score
from segclip_deploy.evaluation.dataset import open_dataset
from segclip_deploy.evaluation.metrics import BoundaryTally, Confusion
from segclip_deploy.runtime.engine import open_segmenter
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.inference.segmenter import LabelMap, Segmenter
from segclip_deploy.runtime.profiling.power import PowerMeter, find_wattmeter
from segclip_deploy.tradeoff.grid import Point

__all__ = [
    "FRAMES",
    "WARM_UP",
    "Latency",
    "load_accuracy",
    "load_latency",
    "measure_accuracy",
    "measure_energy",
    "measure_latency",
]

FRAMES = 3
"""Frames of the evaluation set that latency is measured on, the same for every point."""

WARM_UP = 2
"""Rounds over all points and frames that do not count, in every process."""

_ENERGY_SECONDS = 5.0
"""How long a point runs alone under the wattmeter: sensors are too slow for single frames."""


@dataclass(frozen=True)
class Latency:
    """Samples of a point.

    Attributes:
        frame_ms: uint8 image to label map, one sample a frame.
        stages: milliseconds of each stage, as many samples.
        windows: in each frame.
        backend: what ran.
    """

    frame_ms: tuple[float, ...] = ()
    stages: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    windows: tuple[int, ...] = ()
    backend: str = ""

    def then(self, elapsed: Sequence[float], results: Sequence[LabelMap], backend: str) -> Latency:
        """With the samples of one more round."""
        stages = {
            name: (*self.stages.get(name, ()), *(round(getattr(r.times, name), 4) for r in results))
            for name in ("prepare", "infer", "restore")
        }
        frame_ms = (*self.frame_ms, *(round(ms, 4) for ms in elapsed))
        return Latency(frame_ms, stages, tuple(r.windows for r in results), backend)


def measure_accuracy(
    path: Path, point: Point, engine: Engine, dataset: Path, split: str
) -> Accuracy:
    """Score an engine on a split, or take what was measured before from ``path``."""
    if not path.is_file():
        data = open_dataset(dataset, engine.vocabulary)
        # Threads sum in another order, and a value at the edge of a level falls to the next.
        with _open(point, engine) as segmenter:
            accuracy = score(segmenter, data.samples(split))
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "images": list(accuracy.images),
            "counts": [one.counts.tolist() for one in accuracy.by_image],
            "boundary": [accuracy.boundary.intersection.tolist(), accuracy.boundary.union.tolist()],
        }
        write_json(path, record)
    return load_accuracy(path, engine.vocabulary.names)


def load_accuracy(path: Path, names: tuple[str, ...]) -> Accuracy:
    """What ``measure_accuracy`` kept.

    Args:
        names: of the classes, by index.

    Raises:
        BadArtifact: damaged.
    """
    with _state(path) as record:
        shape = (len(names), len(names))
        counts = [_counts(one, shape) for one in record["counts"]]
        inner, union = (_counts(one, shape[:1]) for one in record["boundary"])
        images = tuple(str(name) for name in record["images"])
        if not len(images) == len(counts) > 0:
            raise ValueError(f"{len(counts)} scores of {len(images)} images")
    by_image = tuple(Confusion(one, names) for one in counts)
    pooled = sum(by_image, Confusion.empty(names))
    return Accuracy(pooled, BoundaryTally(inner, union, names), images, by_image)


def measure_latency(
    engines: Mapping[Path, tuple[Point, Engine]],
    frames: Sequence[Frame],
    samples: int,
    progress: Callable[[int, int], None],
) -> dict[Path, Latency]:
    """Time all points in turns, frame by frame, so that a slow minute hits them all.

    Samples are written after every round; a killed measurement goes on where it was.

    Args:
        engines: by the file that holds the samples.
        frames: read already; reading is the same for all.
        samples: a point, at least.
        progress: called with (rounds done, rounds).
    """
    rounds = -(-samples // len(frames))
    known = {path: load_latency(path) if path.is_file() else Latency() for path in engines}
    if all(len(one.frame_ms) >= rounds * len(frames) for one in known.values()):
        return known
    with ExitStack() as stack:
        opened = {}
        for path, (point, engine) in engines.items():
            opened[path] = stack.enter_context(_open(point, engine))
        done = min(len(one.frame_ms) for one in known.values()) // len(frames)
        for turn in range(-WARM_UP, rounds - done):
            for path, segmenter in opened.items():
                elapsed, results = _once(segmenter, frames)
                if turn >= 0:
                    known[path] = known[path].then(elapsed, results, segmenter.backend.name)
            if turn >= 0:
                for path, latency in known.items():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_json(path, asdict(latency))
                progress(done + turn + 1, rounds)
    return known


def measure_energy(
    engines: Mapping[Path, tuple[Point, Engine]],
    frames: Sequence[Frame],
    progress: Callable[[int, int], None],
    *,
    root: Path = Path("/"),
) -> dict[Path, float | None]:
    """Joules a frame of each point, at the mean power while it runs alone; None without a sensor.

    Args:
        engines: by the file that keeps the figure.
        frames: as for latency.
        progress: called with (points done, points).
        root: of the file system that sensors are looked for in.

    Raises:
        BadArtifact: a file that was kept is damaged.
    """
    if find_wattmeter(root)[0] is None:
        return dict.fromkeys(engines)
    found: dict[Path, float | None] = {}
    for index, (path, (point, engine)) in enumerate(engines.items()):
        if not path.is_file():
            progress(index, len(engines))
            with _open(point, engine) as segmenter:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, {"joules": _joules(segmenter, frames, root)})
        with _state(path) as record:
            joules = record["joules"]
            found[path] = None if joules is None else float(joules)
    return found


def _open(point: Point, engine: Engine) -> Segmenter:
    return open_segmenter(engine.path, overlap=point.overlap, threads=point.threads)


def _joules(segmenter: Segmenter, frames: Sequence[Frame], root: Path) -> float | None:
    _once(segmenter, frames)  # warms up
    count = 0
    with PowerMeter(root=root) as meter:
        started = time.perf_counter()
        while (elapsed := time.perf_counter() - started) < _ENERGY_SECONDS:
            _once(segmenter, frames)
            count += len(frames)
    joules = meter.log().joules(elapsed)
    return joules and joules / count


def _once(segmenter: Segmenter, frames: Sequence[Frame]) -> tuple[list[float], list[LabelMap]]:
    """Each frame once: milliseconds and results."""
    gc.collect()  # now, and not while the clock runs
    elapsed, results = [], []
    for frame in frames:
        started = time.perf_counter()
        results.append(segmenter.segment(frame))
        elapsed.append(1e3 * (time.perf_counter() - started))
    return elapsed, results


def load_latency(path: Path) -> Latency:
    """What ``measure_latency`` kept.

    Raises:
        BadArtifact: damaged.
    """
    with _state(path) as record:
        return Latency(
            _times(record["frame_ms"]),
            {str(name): _times(values) for name, values in record["stages"].items()},
            tuple(int(count) for count in record["windows"]),
            str(record["backend"]),
        )


@contextmanager
def _state(path: Path) -> Iterator[dict[str, Any]]:
    """A file that an earlier sweep has left; what goes wrong in reading it says how to go on."""
    remedy = f"rm {shlex.quote(str(path))}, and the same command measures it again"
    try:
        yield read_json(path)
    except BadArtifact as error:
        raise BadArtifact(error.what, where=path, fix=remedy) from error
    except UNREADABLE as error:
        raise BadArtifact(f"damaged ({error!r})", where=path, fix=remedy) from error


def _counts(values: Any, shape: tuple[int, ...]) -> NDArray[np.int64]:
    counts = np.array(values, np.int64)
    if counts.shape != shape or counts.min() < 0:
        raise ValueError(f"counts of shape {counts.shape}, not {shape}, or negative")
    return counts


def _times(values: Iterable[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
