"""What a sweep keeps on disk as it goes, so that a killed one goes on: accuracy, latency, energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from segclip_deploy.artifacts.records import Format, Record, replace
from segclip_deploy.errors import BadArtifact, command
from segclip_deploy.evaluation.accuracy import Accuracy
from segclip_deploy.evaluation.metrics import BoundaryTally, Confusion
from segclip_deploy.runtime.inference.label_map import LabelMap
from segclip_deploy.runtime.profiling.heat import HeatSpan
from segclip_deploy.runtime.profiling.measure import rename_restore
from segclip_deploy.tradeoff.row import IdlePower

__all__ = [
    "ACCURACY",
    "ENERGY",
    "LATENCY",
    "AccuracyState",
    "Energy",
    "Latency",
    "load_accuracy",
    "load_energy",
    "load_latency",
    "save_accuracy",
]

Count = Annotated[int, Meta(ge=0, le=2**53)]
"""Pixels: what JSON numbers hold exactly, and what sums within 64 bits."""


class AccuracyState(Record, frozen=True):
    """Accuracy of a point, as it is kept.

    Attributes:
        images: names, in order.
        counts: pixels of each image by ground truth and label, class by class.
        intersection: boundary pixels of all images that ground truth and label share, by class.
        union: boundary pixels of all images that either has, by class.

    Raises:
        ValueError: another number of images or classes in one than in another.
    """

    images: tuple[str, ...]
    counts: tuple[tuple[tuple[Count, ...], ...], ...]
    intersection: tuple[Count, ...]
    union: tuple[Count, ...]

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.counts) > 0:
            raise ValueError(f"{len(self.counts)} scores of {len(self.images)} images")
        lines = (line for one in self.counts for line in one)
        sizes = {len(self.intersection), *map(len, self.counts), *map(len, lines)}
        if sizes != {len(self.union)}:
            raise ValueError(f"counts of {sorted(sizes | {len(self.union)})} classes")


class Latency(Record, frozen=True):
    """Samples of a point.

    Attributes:
        frame_ms: uint8 image to label map, one sample a frame.
        stages: milliseconds of each stage, as many samples.
        windows: in each frame.
        backend: what ran.
        heat: of the machine while they were taken; None if an older version took some of them.

    Raises:
        ValueError: a stage with more or fewer samples than frames.
    """

    frame_ms: tuple[float, ...]
    stages: Mapping[str, tuple[float, ...]]
    windows: tuple[int, ...]
    backend: str
    heat: HeatSpan | None = None

    def __post_init__(self) -> None:
        for name, values in self.stages.items():
            if len(values) != len(self.frame_ms):
                raise ValueError(f"{len(values)} samples of {name}, {len(self.frame_ms)} frames")

    @classmethod
    def empty(cls) -> Latency:
        """Nothing measured yet."""
        return cls(frame_ms=(), stages={}, windows=(), backend="")

    def then(self, elapsed: Sequence[float], results: Sequence[LabelMap], backend: str) -> Latency:
        """With the samples of one more round."""
        stages = {
            name: (*self.stages.get(name, ()), *(round(getattr(r.times, name), 4) for r in results))
            for name in ("prepare", "infer", "postprocess")
        }
        return Latency(
            frame_ms=(*self.frame_ms, *(round(ms, 4) for ms in elapsed)),
            stages=stages,
            windows=tuple(r.windows for r in results),
            backend=backend,
            heat=self.heat,
        )

    def heated(self, earlier: Latency, span: HeatSpan) -> Latency:
        """With the heat of the samples that came after ``earlier``, and of those before."""
        if earlier.frame_ms:
            return replace(self, heat=earlier.heat.then(span) if earlier.heat else None)
        return replace(self, heat=span)


class Energy(Record, frozen=True):
    """Energy of a point.

    Attributes:
        joules: a frame; None where the sensor told nothing.
        above_idle: the same without what the idle machine takes in that time.
        idle: what the idle machine takes; None where the sensor told nothing, or an older version metered.
    """

    joules: float | None
    above_idle: float | None = None
    idle: IdlePower | None = None


def _latency_of_schema_1(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "stages": rename_restore(data["stages"])}


ACCURACY = Format("a sweep's accuracy", AccuracyState, schema=1)


def _without_heat(data: dict[str, Any]) -> dict[str, Any]:
    return data  # what is new is None


LATENCY = Format(
    "a sweep's latency", Latency, schema=3, migrations={1: _latency_of_schema_1, 2: _without_heat}
)
ENERGY = Format("a sweep's energy", Energy, schema=2, migrations={1: _without_heat})


def save_accuracy(path: Path, accuracy: Accuracy) -> None:
    """Keep the scores of a point."""
    state = AccuracyState(
        images=accuracy.images,
        counts=tuple(tuple(map(tuple, one.counts.tolist())) for one in accuracy.by_image),
        intersection=tuple(accuracy.boundary.intersection.tolist()),
        union=tuple(accuracy.boundary.union.tolist()),
    )
    ACCURACY.write(path, state)


def load_accuracy(path: Path, names: tuple[str, ...]) -> Accuracy:
    """What ``save_accuracy`` kept.

    Args:
        names: of the classes, by index.

    Raises:
        BadArtifact: damaged, or of other classes.
    """
    state = ACCURACY.read(path, fix=_remedy(path))
    if len(state.union) != len(names):
        told = f"scores of {len(state.union)} classes, not {len(names)}"
        raise BadArtifact(told, where=path, fix=_remedy(path))
    by_image = tuple(Confusion(np.array(one, np.int64), names) for one in state.counts)
    boundary = BoundaryTally(
        np.array(state.intersection, np.int64), np.array(state.union, np.int64), names
    )
    return Accuracy(sum(by_image, Confusion.empty(names)), boundary, state.images, by_image)


def load_latency(path: Path) -> Latency:
    """The samples kept so far.

    Raises:
        BadArtifact: damaged.
    """
    return LATENCY.read(path, fix=_remedy(path))


def load_energy(path: Path) -> Energy:
    """What was metered.

    Raises:
        BadArtifact: damaged.
    """
    return ENERGY.read(path, fix=_remedy(path))


def _remedy(path: Path) -> str:
    """How to go on with a sweep that has left a damaged file."""
    return f"{command('rm', path)}, and the same command measures it again"
