"""``run``: frames through a segmenter into a sink."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX
from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.inference.health import check_health
from segclip_deploy.runtime.inference.label_map import LabelMap
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.inference.window_fit import WindowGrid
from segclip_deploy.runtime.inference.windows import LOGIT_STRIDE, count_windows
from segclip_deploy.runtime.io.sinks.base import DeadlineResult, FrameResult, Sink, stage_ms
from segclip_deploy.runtime.io.sources.base import Shot, Source, Unreadable
from segclip_deploy.runtime.streaming.deadline import Decision, Pacer
from segclip_deploy.runtime.streaming.pipeline import Pipeline
from segclip_deploy.runtime.streaming.summary import Summary

__all__ = ["Outcome", "Run", "mask_uncertain", "require_margin", "segment_centre"]


@dataclass(frozen=True)
class Outcome:
    """What became of one frame.

    Attributes:
        source: file or camera.
        shot: the frame; None where it could not be read.
        result: its label map; None where it is bad or was skipped.
        error: why it is bad.
    """

    source: str
    shot: Shot | None = None
    result: LabelMap | None = None
    error: BadInput | None = None


class Run:
    """Frames of a source through a segmenter into a sink; iterating runs it, once.

    Reading, inference and writing overlap; inference stays in the thread that iterates. A bad
    frame is an outcome like any other, and the next goes on.

    Args:
        deadline_ms: what a label map may take, by the policy of ``streaming.deadline``; None: as
            long as it does.
        margin_below: pixels of a smaller margin, 1–255, get no label.
        healthy_only: a frame with a problem of ``inference.health`` gets no label map.
        stop: set to end early: the frame in work is finished and written.

    Attributes:
        summary: counts and times so far.

    Raises:
        BadInput: ``margin_below`` for an engine without a margin.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        source: Source,
        sink: Sink,
        *,
        deadline_ms: float | None = None,
        margin_below: int = 0,
        healthy_only: bool = False,
        stop: threading.Event | None = None,
    ) -> None:
        if margin_below:
            require_margin(segmenter, "--margin-below")
        self.summary = Summary()
        self._segmenter, self._source, self._sink = segmenter, source, sink
        self._margin_below, self._healthy_only = margin_below, healthy_only
        self._pacer = Pacer(deadline_ms, segmenter.spec.batch) if deadline_ms else None
        self._looker = ThreadPoolExecutor(1, thread_name_prefix="health")
        stop = stop or threading.Event()
        self._pipeline = Pipeline(
            source.shots(stop), self._label, self._write, stop=stop, newest=source.live
        )

    def __iter__(self) -> Iterator[Outcome]:
        """Outcomes in the order of the frames, each after its files have been written."""
        with self._looker:
            yield from self._pipeline

    @property
    def dropped(self) -> int:
        """Frames of a live source that nobody had time for."""
        return self._source.dropped + self._pipeline.dropped

    def _label(self, item: Shot | Unreadable) -> FrameResult | Outcome:
        """What the model says of a frame; the outcome of a bad one."""
        if isinstance(item, Unreadable):
            return Outcome(item.source, error=item.error)
        dropped = self.dropped if self._source.live else None
        segmenter = self._segmenter
        window = segmenter.spec.height, segmenter.spec.width
        # Beside the inference, which waits for it only where it decides.
        looking = self._looker.submit(check_health, item.frame, window, segmenter.appearance)
        vocabulary = segmenter.vocabulary
        if self._healthy_only and (health := looking.result()).problems:
            return FrameResult(item, None, vocabulary, None, dropped, health, refused=True)
        deadline = None
        try:
            if self._pacer is None:
                labelled: LabelMap | None = self._segment(item.frame, None)
            else:
                labelled, deadline = self._in_time(self._pacer, item)
        except BadInput as error:
            return Outcome(item.frame.source, error=error)
        return FrameResult(item, labelled, vocabulary, deadline, dropped, looking.result())

    def _in_time(self, pacer: Pacer, shot: Shot) -> tuple[LabelMap | None, DeadlineResult]:
        """As much of a frame as its deadline allows, and how that went."""
        started = shot.clock if self._source.live else time.perf_counter()
        spent = 1e3 * (time.perf_counter() - started)
        decision = pacer.decide(spent, *self._grids(shot.frame))
        result = None if decision.action == "skip" else self._segment(shot.frame, decision)
        if result is not None:
            pacer.learn(result.times.total, result.windows)
        took = 1e3 * (time.perf_counter() - started)
        met = result is not None and took <= pacer.limit_ms
        return result, DeadlineResult(pacer.limit_ms, decision.action, round(took, 3), met)

    def _grids(self, frame: Frame) -> tuple[tuple[int, int], tuple[int, int]]:
        """(rows, columns) of windows with overlap, and without."""
        shape = frame.pixels.shape[0], frame.pixels.shape[1]
        window = self._segmenter.spec.height, self._segmenter.spec.width
        full = count_windows(shape, window, self._segmenter.overlap)
        return full, count_windows(shape, window, 0)

    def _segment(self, frame: Frame, decision: Decision | None) -> LabelMap:
        if decision is None or decision.action == "full":
            result = self._segmenter.segment(frame)
        elif decision.action == "no overlap":
            result = self._segmenter.segment(frame, overlap=0)
        else:
            result = segment_centre(self._segmenter, frame, decision.rows, decision.columns)
        return mask_uncertain(result, self._margin_below) if self._margin_below else result

    def _write(self, result: FrameResult | Outcome) -> Outcome:
        if isinstance(result, Outcome):
            self.summary.bad += 1
            return result
        times, deadline = self._sink.write(result), result.deadline
        if deadline is not None:
            self.summary.actions[deadline.action] += 1
        if result.health is not None:
            self.summary.problems.update(result.health.problems)
            self.summary.unhealthy += bool(result.health.problems)
        if result.refused:
            self.summary.refused += 1
        elif result.labelled is None:
            self.summary.skipped += 1
        else:
            self.summary.add_done(
                stage_ms(result, times),
                result.labelled.windows,
                self._laid(result.labelled, deadline),
                late=deadline is not None and not deadline.met,
                damaged=result.shot.damaged,
            )
        return Outcome(result.source, result.shot, result.labelled)

    def _laid(self, labelled: LabelMap, deadline: DeadlineResult | None) -> WindowGrid | None:
        """The windows that a frame was covered with; None where some were left out."""
        if deadline is not None and deadline.action == "fewer windows":
            return None
        bare = deadline is not None and deadline.action == "no overlap"
        height, width = labelled.labels.shape
        return self._segmenter.grid(height, width, overlap=0 if bare else None)


def require_margin(segmenter: Segmenter, option: str) -> None:
    """Accept an engine that outputs margins.

    Raises:
        BadInput: it does not, and ``option`` needs them.
    """
    if not segmenter.measures:
        raise BadInput(
            f"{segmenter.backend.name} outputs no margin",
            where=option,
            fix="segclip-deploy export CKPT -o BUNDLE --margin, and build-engine again",
        )


def mask_uncertain(result: LabelMap, below: int) -> LabelMap:
    """Take the labels of pixels whose margin is smaller; each margin stands for 4 × 4 pixels."""
    assert result.margin is not None
    started = time.perf_counter()
    height, width = result.labels.shape
    unsure = (result.margin < below).repeat(LOGIT_STRIDE, 0).repeat(LOGIT_STRIDE, 1)
    labels = np.where(unsure[:height, :width], np.uint8(IGNORE_INDEX), result.labels)
    masking = 1e3 * (time.perf_counter() - started)
    times = replace(result.times, postprocess=result.times.postprocess + masking)
    return replace(result, labels=labels, times=times)


def segment_centre(segmenter: Segmenter, frame: Frame, rows: int, columns: int) -> LabelMap:
    """Label so many windows around a frame's centre, side by side; the rest is ``IGNORE_INDEX``, of margin 0."""
    height, width = frame.pixels.shape[:2]
    tall = min(height, rows * segmenter.spec.height)
    wide = min(width, columns * segmenter.spec.width)
    top, left = (
        (side // LOGIT_STRIDE * LOGIT_STRIDE)
        for side in ((height - tall) // 2, (width - wide) // 2)
    )
    place = slice(top, top + tall), slice(left, left + wide)
    valid = None if frame.valid is None else frame.valid[place]
    centre = Frame(frame.pixels[place], frame.source, valid)
    result = segmenter.segment(centre, overlap=0)
    labels = np.full((height, width), IGNORE_INDEX, np.uint8)
    labels[top : top + tall, left : left + wide] = result.labels
    if result.margin is None:
        return replace(result, labels=labels, frame=frame)
    margin = np.zeros((-(-height // LOGIT_STRIDE), -(-width // LOGIT_STRIDE)), np.uint8)
    y, x = top // LOGIT_STRIDE, left // LOGIT_STRIDE
    rows, columns = result.margin.shape
    margin[y : y + rows, x : x + columns] = result.margin
    return replace(result, labels=labels, margin=margin, frame=frame)
