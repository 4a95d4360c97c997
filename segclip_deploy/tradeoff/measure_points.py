"""Accuracy, latency and energy of the points of a sweep, kept on disk as they come."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from segclip_deploy.artifacts.engine import Engine
from segclip_deploy.errors import BadInput
from segclip_deploy.evaluation.accuracy import Accuracy, score
from segclip_deploy.evaluation.dataset import Dataset
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.inference.label_map import LabelMap
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.open_engine import open_segmenter
from segclip_deploy.runtime.profiling.power import PowerMeter, find_wattmeter
from segclip_deploy.runtime.targets.device import system_memory
from segclip_deploy.tradeoff.state import (
    ENERGY,
    LATENCY,
    Energy,
    Latency,
    load_accuracy,
    load_energy,
    load_latency,
    save_accuracy,
)
from segclip_deploy.tradeoff.sweep_grid import Point

__all__ = ["WARM_UP_ROUNDS", "measure_accuracy", "measure_energy", "measure_latency"]

WARM_UP_ROUNDS = 2
"""Rounds over all points and frames that do not count, in every process."""

_SPARE_BYTES = 200_000_000
"""Of memory, left to frames and to the system while engines are timed."""

_ENERGY_SECONDS = 5.0
"""How long a point runs alone under the wattmeter: sensors are too slow for single frames."""


def measure_accuracy(
    path: Path, point: Point, engine: Engine, data: Dataset, split: str
) -> Accuracy:
    """Score an engine on a split, or take what was measured before from ``path``."""
    if not path.is_file():
        # Threads sum in another order, and a value at the edge of a level falls to the next.
        with _open(point, engine) as segmenter:
            save_accuracy(path, score(segmenter, data.samples(split)))
    return load_accuracy(path, engine.vocabulary.names)


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

    Raises:
        BadInput: the memory is too small for all engines at once.
    """
    rounds = -(-samples // len(frames))
    known = {path: load_latency(path) if path.is_file() else Latency.empty() for path in engines}
    if all(len(one.frame_ms) >= rounds * len(frames) for one in known.values()):
        return known
    with ExitStack() as stack:
        opened = _open_all(stack, engines)
        done = min(len(one.frame_ms) for one in known.values()) // len(frames)
        for turn in range(-WARM_UP_ROUNDS, rounds - done):
            for path, segmenter in opened.items():
                elapsed, results = _once(segmenter, frames)
                if turn >= 0:
                    known[path] = known[path].then(elapsed, results, segmenter.backend.name)
            if turn >= 0:
                for path, latency in known.items():
                    LATENCY.write(path, latency)
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
                ENERGY.write(path, Energy(joules=_joules(segmenter, frames, root)))
        found[path] = load_energy(path).joules
    return found


def _open_all(
    stack: ExitStack, engines: Mapping[Path, tuple[Point, Engine]]
) -> dict[Path, Segmenter]:
    """Every engine, open; refused before the next one fills what is left of the memory."""
    opened: dict[Path, Segmenter] = {}
    free, largest = system_memory("MemAvailable"), 0
    for path, (point, engine) in engines.items():
        if free is not None and opened and free < largest + _SPARE_BYTES:
            raise BadInput(
                f"{len(opened)} of {len(engines)} engines leave {free / 1e9:.2f} GB of memory, and one "
                f"of them took {largest / 1e9:.2f} GB; they are timed in turns, all open",
                where="benchmark",
                fix="measure fewer at once: --target, --precision, or fewer bundles",
            )
        opened[path] = stack.enter_context(_open(point, engine))
        now = system_memory("MemAvailable")
        if free is not None and now is not None:
            largest = max(largest, free - now)
        free = now
    return opened


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
    return None if joules is None else joules / count


def _once(segmenter: Segmenter, frames: Sequence[Frame]) -> tuple[list[float], list[LabelMap]]:
    """Each frame once: milliseconds and results."""
    gc.collect()  # now, and not while the clock runs
    elapsed, results = [], []
    for frame in frames:
        started = time.perf_counter()
        results.append(segmenter.segment(frame))
        elapsed.append(1e3 * (time.perf_counter() - started))
    return elapsed, results
