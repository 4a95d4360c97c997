"""Accuracy, latency and energy of the points of a sweep, kept on disk as they come."""

from __future__ import annotations

import gc
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from segclip_deploy.artifacts.engine import Engine
from segclip_deploy.errors import BadInput
from segclip_deploy.evaluation.accuracy import Accuracy, score
from segclip_deploy.evaluation.dataset import Dataset
from segclip_deploy.progress import Report, saying
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.inference.label_map import LabelMap
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.open_engine import open_segmenter
from segclip_deploy.runtime.profiling.power import PowerMeter, find_wattmeter
from segclip_deploy.runtime.profiling.steadiness import STEADY_SECONDS, HeatLog
from segclip_deploy.runtime.targets.device import system_memory
from segclip_deploy.tradeoff.row import IdlePower
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

__all__ = [
    "WARM_UP_ROUNDS",
    "WARM_UP_SECONDS",
    "measure_accuracy",
    "measure_energy",
    "measure_latency",
]

WARM_UP_ROUNDS = 2
"""Rounds over all points and frames that do not count, in every process, at least."""

WARM_UP_SECONDS = 600.0
"""They go on until the temperature is steady, but no longer than this."""

_SPARE_BYTES = 200_000_000
"""Of memory, left to frames and to the system while engines are timed."""

_ENERGY_SECONDS = 5.0
"""How long a point runs alone under the wattmeter: sensors are too slow for single frames."""

_IDLE_SECONDS = 10.0
"""How long the idle machine is under the wattmeter."""

_IDLE_PAUSE = 5.0
"""Seconds from the last engine to that: clocks fall."""


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
    report: Report,
    *,
    root: Path = Path("/"),
) -> dict[Path, Latency]:
    """Time all points in turns, each on all frames, so that a slow minute hits them all.

    Samples are written after every round; a killed measurement goes on where it was. Before the first
    one, the points run until the temperature is steady. How hot it was is read between the rounds.

    Args:
        engines: by the file that holds the samples.
        frames: read already; reading is the same for all.
        samples: a point, at least.
        report: of progress.
        root: of the file system that sensors are looked for in.

    Raises:
        BadInput: the memory is too small for all engines at once.
    """
    rounds = -(-samples // len(frames))
    known = {path: load_latency(path) if path.is_file() else Latency.empty() for path in engines}
    if all(len(one.frame_ms) >= rounds * len(frames) for one in known.values()):
        return known
    with ExitStack() as stack:
        opened = _open_all(stack, engines)
        done, earlier = min(len(one.frame_ms) for one in known.values()) // len(frames), {**known}
        log = HeatLog(root)
        _warm_up(opened.values(), frames, log, report)
        log.begin()
        for turn in range(done, rounds):
            for path, segmenter in opened.items():
                elapsed, results = _once(segmenter, frames)
                known[path] = known[path].then(elapsed, results, segmenter.backend.name)
            if turn + 1 < rounds:
                log.note()
            else:
                log.end()
            span = log.span()
            for path, latency in known.items():
                known[path] = latency.heated(earlier[path], span)
                LATENCY.write(path, known[path])
            report("timing, in turns", turn + 1, rounds)
    return known


def measure_energy(
    engines: Mapping[Path, tuple[Point, Engine]],
    frames: Sequence[Frame],
    report: Report,
    *,
    root: Path = Path("/"),
) -> dict[Path, Energy]:
    """Joules a frame of each point, at the mean power while it runs alone; None without a sensor.

    Before the first one the idle machine is metered, when no engine is open.

    Args:
        engines: by the file that keeps the figure.
        frames: as for latency.
        report: of progress.
        root: of the file system that sensors are looked for in.

    Raises:
        BadArtifact: a file that was kept is damaged.
    """
    if find_wattmeter(root)[0] is None:
        return dict.fromkeys(engines, Energy(joules=None))
    missing = [path for path in engines if not path.is_file()]
    idle = _idle_power(root, report) if missing else None
    for index, path in enumerate(missing):
        report("metering", index, len(missing))
        with _open(*engines[path]) as segmenter:
            ENERGY.write(path, _energy(segmenter, frames, idle, root))
    return {path: load_energy(path) for path in engines}


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


def _warm_up(
    segmenters: Collection[Segmenter], frames: Sequence[Frame], log: HeatLog, report: Report
) -> None:
    """Run all in turns until the temperature is steady, where a sensor tells of it."""
    done = 0
    while done < WARM_UP_ROUNDS or log.steady() is False:
        elapsed = log.elapsed
        if done >= WARM_UP_ROUNDS:
            if elapsed >= WARM_UP_SECONDS:
                change = log.change()
                pace = "" if change is None else f": {change:+.1f} K in {STEADY_SECONDS:.0f} s"
                saying(report)(
                    f"not steady after {elapsed:.0f} s of warm-up{pace}; the rows are marked"
                )
                return
            report("warming up to a steady temperature", int(elapsed), int(WARM_UP_SECONDS))
        for segmenter in segmenters:
            _once(segmenter, frames)
        log.note()
        done += 1


def _idle_power(root: Path, report: Report) -> IdlePower | None:
    """The mean power while nothing of ours runs but the meter; None where the sensor tells nothing."""
    report("metering the idle machine", 0, 1)
    time.sleep(_IDLE_PAUSE)
    with PowerMeter(root=root) as meter:
        time.sleep(_IDLE_SECONDS)
    log = meter.log()
    watts = log.joules(1.0)
    if watts is None or log.sensor is None:
        return None
    return IdlePower(watts=watts, seconds=_IDLE_SECONDS, sensor=log.sensor)


def _energy(
    segmenter: Segmenter, frames: Sequence[Frame], idle: IdlePower | None, root: Path
) -> Energy:
    """Joules a frame: of everything, and without ``idle`` watts for as long as a frame takes."""
    _once(segmenter, frames)  # warms up
    count = 0
    with PowerMeter(root=root) as meter:
        started = time.perf_counter()
        while (elapsed := time.perf_counter() - started) < _ENERGY_SECONDS:
            _once(segmenter, frames)
            count += len(frames)
    joules = meter.log().joules(elapsed)
    if joules is None:
        return Energy(joules=None, idle=idle)
    above = (joules - idle.watts * elapsed) / count if idle else None
    return Energy(joules=joules / count, above_idle=above, idle=idle)


def _once(segmenter: Segmenter, frames: Sequence[Frame]) -> tuple[list[float], list[LabelMap]]:
    """Each frame once: milliseconds and results."""
    gc.collect()  # now, and not while the clock runs
    elapsed, results = [], []
    for frame in frames:
        started = time.perf_counter()
        results.append(segmenter.segment(frame))
        elapsed.append(1e3 * (time.perf_counter() - started))
    return elapsed, results
