"""Time an engine on the path that flies: read, prepare, infer, postprocess, write."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, cycle
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from segclip_deploy.artifacts.records import Record
from segclip_deploy.runtime.inference.frame import Frame, read_frame
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.io.sinks.base import FrameResult, stage_ms
from segclip_deploy.runtime.io.sinks.folder import FolderSink
from segclip_deploy.runtime.io.sources.base import Shot
from segclip_deploy.runtime.io.telemetry.capture import Capture

__all__ = [
    "STAGES",
    "Samples",
    "Statistics",
    "WarmUp",
    "rename_restore",
    "sample",
    "statistics",
    "warm_up",
]

STAGES = ("read", "prepare", "copy_in", "infer", "copy_out", "postprocess", "write")

_WINDOW = 10  # frames that a median is taken over
_STABLE = 0.02  # two medians in a row that differ by less are one
_MOST = 200  # frames of warm-up


class WarmUp(Record, frozen=True):
    """Frames that did not count.

    Attributes:
        frames: how many.
        stable: whether the medians of the last two tens were within 2 %; if not, the clocks or
            a neighbour were still moving after 200 frames.
    """

    frames: int
    stable: bool


class Samples(Record, frozen=True):
    """What was measured, one value a frame.

    Attributes:
        stages: milliseconds by stage; copies only where the engine tells them.
        ready: milliseconds from the file to the label map.
        total: milliseconds from the file to the written label map, one stage after another.
        at: seconds since the first sample, when each was ready.
    """

    stages: Mapping[str, tuple[float, ...]]
    ready: tuple[float, ...]
    total: tuple[float, ...]
    at: tuple[float, ...]


class Statistics(Record, frozen=True):
    """Percentiles and jitter of some milliseconds.

    Attributes:
        p50, p90, p95, p99, max: milliseconds.
        jitter: mean absolute difference of one frame and the next (as in RFC 3550, unsmoothed).
        samples: how many values these are of.
    """

    p50: float
    p90: float
    p95: float
    p99: float
    max: float
    jitter: float
    samples: int


def statistics(values: Sequence[float]) -> Statistics:
    """Percentiles and jitter of one value or more."""
    p50, p90, p95, p99, top = np.percentile(values, [50, 90, 95, 99, 100]).round(4).tolist()
    jitter = float(np.abs(np.diff(values)).mean()) if len(values) > 1 else 0.0
    return Statistics(
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        max=top,
        jitter=round(jitter, 4),
        samples=len(values),
    )


def rename_restore(stages: Mapping[str, Any]) -> dict[str, Any]:
    """Stages of an older file, in which ``postprocess`` is called ``restore``; in their order."""
    return {"postprocess" if name == "restore" else name: ms for name, ms in stages.items()}


def warm_up(segmenter: Segmenter, frames: Sequence[Frame]) -> WarmUp:
    """Segment frames until two medians in a row agree."""
    before = None
    turn = cycle(frames)
    for done in count(_WINDOW, _WINDOW):
        now = median(segmenter.segment(next(turn)).times.total for _ in range(_WINDOW))
        stable = before is not None and abs(now - before) <= _STABLE * before
        if stable or done >= _MOST:
            return WarmUp(frames=done, stable=stable)
        before = now
    raise AssertionError  # count() does not end


def sample(
    segmenter: Segmenter,
    paths: Sequence[Path],
    out: Path,
    going: Callable[[int, float], bool],
) -> Samples:
    """Run frames one after another as ``run`` does, but without overlap of the stages.

    Args:
        segmenter: warm.
        paths: images, again and again.
        out: an empty folder that label maps are written to.
        going: (frames done, seconds since the first) → whether to go on.
    """
    rows: list[dict[str, float]] = []
    at: list[float] = []
    shots = _shots(paths)
    with FolderSink(out, overlays=False) as sink:
        started = time.perf_counter()
        while going(len(rows), time.perf_counter() - started):
            shot = next(shots)
            labelled = segmenter.segment(shot.frame)
            at.append(time.perf_counter() - started)
            result = FrameResult(shot, labelled, segmenter.vocabulary)
            times = stage_ms(result, sink.write(result))
            rows.append({**times, **_on_gpu(segmenter, labelled.windows, times["infer"])})
    ready = [sum(v for stage, v in row.items() if stage != "write") for row in rows]
    return Samples(
        stages={s: tuple(row[s] for row in rows) for s in STAGES if rows and s in rows[0]},
        ready=tuple(ready),
        total=tuple(sum(row.values()) for row in rows),
        at=tuple(at),
    )


def _on_gpu(segmenter: Segmenter, windows: int, infer_ms: float) -> dict[str, float]:
    """Copies and inference apart, where the engine tells; of one inference, so of one batch."""
    backend = segmenter.backend
    stages = backend.stage_ms()
    if not stages or windows > segmenter.spec.batch:
        return {}
    # What the host did around the GPU's work stays with the inference.
    return {**stages, "infer": infer_ms - stages["copy_in"] - stages["copy_out"]}


def _shots(paths: Sequence[Path]) -> Iterator[Shot]:
    for index, path in enumerate(cycle(paths)):
        started = time.perf_counter()
        frame = read_frame(path)
        now = time.perf_counter()
        # One name for all: the disk holds one label map, however long the profile takes.
        yield Shot(frame, "frame", index, Capture(), None, 1e3 * (now - started), now)
