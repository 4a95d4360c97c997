"""A row of the tradeoff: one engine at one setting, and all that was measured of it; or why not."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.plan import Drop
from segclip_deploy.artifacts.records import Record
from segclip_deploy.runtime.profiling.heat import HeatSpan

__all__ = ["FailedPoint", "IdlePower", "Row", "pareto_front"]


class IdlePower(Record, frozen=True):
    """What a machine takes while no engine runs.

    Attributes:
        watts: the mean.
        seconds: that it was metered for.
        sensor: name of the wattmeter.
    """

    watts: float
    seconds: float
    sensor: str


class Row(Record, frozen=True):
    """Latency and accuracy of the same file at the same input size.

    Attributes:
        name: unique in a report.
        reference: name of the FP32 row that it is compared with; its own, if it is FP32. Of a compact network
            it is a row of the network that it was compacted from.
        fp32: name of the FP32 row of the same network.
        target: library that it is built for.
        precision: ``fp32``, ``fp16``, ``int8``, or ``planned`` with its budget in points.
        window: (height, width) the engine takes, pixels.
        batch: windows an inference.
        overlap: pixels windows share.
        threads: of the engine; 0 where it has none, or chose.
        bytes: size of the engine file.
        sha256: digest of the engine file.
        bundle_sha256: digest of the record of the bundle that the engine was built from, quantized
            if it is; None in results of schema 3 and older.
        ground_truth_sha256: digest of the ground truth of the scored images; None in results of
            schema 3 and older.
        miou: mean IoU on the split, a share of 1.
        drop: of mIoU against the reference on the same images, with its 95 % bounds.
        iou: by class, shares of 1; None where a class is absent.
        areas: by class, the labelled area relative to the reference's, less 1; None where the
            reference has none.
        frame_ms: milliseconds from uint8 image to label map, one sample a frame.
        windows: in a frame, the mean of the frames.
        pixel_ratio: pixels computed over pixels needed, of all frames; None in results of an older schema.
        stages: median milliseconds by stage.
        backend: library that ran it, and its version.
        joules: energy a frame, all that the sensor sees; None where no sensor could be read.
        joules_above_idle: the same without what the idle machine takes in that time; below 0 where
            the sensor's noise is larger.
        idle: what the idle machine takes in this power mode.
        power_mode: of a Jetson, as ``nvpmodel`` calls it, that everything of this row was measured in.
        heat: of the machine while latency was sampled.

    ``fp32``, ``joules_above_idle``, ``idle``, ``power_mode`` and ``heat`` are None in results of older versions.
    """

    name: str
    reference: str
    target: str
    precision: str
    window: tuple[int, int]
    batch: int
    overlap: int
    threads: int
    bytes: int
    sha256: str
    bundle_sha256: str | None
    ground_truth_sha256: str | None
    miou: float
    drop: Drop
    iou: Mapping[str, float | None]
    areas: Mapping[str, float | None]
    frame_ms: tuple[float, ...]
    windows: float
    pixel_ratio: float | None
    stages: Mapping[str, float]
    backend: str
    joules: float | None
    joules_above_idle: float | None = None
    idle: IdlePower | None = None
    power_mode: str | None = None
    heat: HeatSpan | None = None
    fp32: str | None = None

    @property
    def own_fp32(self) -> str:
        """Name of the FP32 row of the same network; in older results all are compared with it."""
        return self.fp32 or self.reference

    @property
    def frames_per_second(self) -> float:
        """One frame after another, from uint8 image to label map, at the median."""
        return 1e3 / self.percentile(50)

    def percentile(self, rank: float) -> float:
        """Milliseconds a frame that ``rank`` percent of the frames stay below."""
        return float(np.percentile(self.frame_ms, rank))

    def interval(self, rank: float) -> tuple[float, float]:
        """95 % bounds of a percentile, by resampling the frames (Efron & Tibshirani, 1993)."""
        low, high = np.percentile(self.resampled(rank, seed=0), [2.5, 97.5])
        return float(low), float(high)

    def resampled(self, rank: float, *, seed: int) -> NDArray[np.float64]:
        """The percentile of 1000 draws of as many frames, with replacement; milliseconds, (1000,)."""
        samples = np.asarray(self.frame_ms)
        drawn = np.random.default_rng(seed).integers(0, len(samples), (1000, len(samples)))
        found: NDArray[np.float64] = np.percentile(samples[drawn], rank, axis=1)
        return found


class FailedPoint(Record, frozen=True):
    """An engine that must not fly.

    Attributes:
        name: as a row's.
        why: what it failed.
    """

    name: str
    why: str


def pareto_front(places: Mapping[str, tuple[float, float]]) -> list[str]:
    """The engines that no other beats in both mIoU and latency, the fastest first.

    Args:
        places: (milliseconds, mIoU) by name.
    """
    front: list[str] = []
    best = -np.inf
    for name, (_, miou) in sorted(places.items(), key=lambda item: (item[1][0], -item[1][1])):
        if miou > best:
            front.append(name)
            best = miou
    return front
