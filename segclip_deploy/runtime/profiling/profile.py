"""``profile``: warm up, sample, look into the layers, and write down in what conditions."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segclip_deploy.artifacts.golden import Golden, load_golden
from segclip_deploy.progress import Report, silent
from segclip_deploy.runtime.engine import open_segmenter
from segclip_deploy.runtime.inference.backend import Backend
from segclip_deploy.runtime.inference.frame import list_images, read_frame
from segclip_deploy.runtime.profiling.cold import cold_starts
from segclip_deploy.runtime.profiling.conditions import device_conditions, find_memory, load_average
from segclip_deploy.runtime.profiling.layers import LayerTime, layer_medians
from segclip_deploy.runtime.profiling.measure import Samples, sample, statistics, warm_up
from segclip_deploy.runtime.profiling.power import PowerLog, PowerMeter
from segclip_deploy.runtime.profiling.subject import Subject, read_subject

__all__ = ["PROFILE_SCHEMA", "Profile", "profile_engine"]

PROFILE_SCHEMA = 1


@dataclass(frozen=True)
class Profile:
    """What was found.

    Attributes:
        record: everything but the samples, as JSON (docs/profiling.md).
        samples: milliseconds, frame by frame.
        power: what sensors told meanwhile.
        layers: the slowest first; empty where the engine does not tell.
    """

    record: Mapping[str, Any]
    samples: Samples
    power: PowerLog
    layers: tuple[LayerTime, ...]

    @property
    def device(self) -> str:
        """What it ran on, for people."""
        conditions = self.record["conditions"]
        return str(conditions["board"] or conditions["gpu"] or conditions["cpu"])

    def to_json(self) -> dict[str, Any]:
        """The record with its samples and layers."""
        return {
            **self.record,
            "layers": [layer.to_json() for layer in self.layers],
            "samples": asdict(self.samples),
            "power": asdict(self.power),
        }


def profile_engine(
    path: Path,
    images: Sequence[Path] = (),
    *,
    samples: int = 200,
    soak_s: float = 0.0,
    overlap: int | None = None,
    threads: int = 0,
    deadline_ms: float | None = None,
    cold: bool = False,
    report: Report = silent,
) -> Profile:
    """Measure an engine or a bundle on this machine.

    Args:
        path: the engine or bundle.
        images: files and folders; none: the engine's own golden tiles.
        samples: frames, at least.
        soak_s: go on for so many seconds.
        overlap, threads: as of ``run``.
        deadline_ms: from the file to the label map; counts what misses it.
        cold: also start new processes, to time the first label map.
        report: of progress.

    Raises:
        BadArtifact: neither an engine nor a bundle, or it cannot be run.
        BadInput: images that cannot be used.
    """
    before = load_average()
    subject = read_subject(path, threads)
    golden = load_golden(subject.golden_path)
    with TemporaryDirectory() as folder:
        paths = [image for source in images for image in list_images(source)]
        paths = paths or _golden_tiles(golden, Path(folder))
        with open_segmenter(path, overlap=overlap, threads=threads) as segmenter:
            frames = [read_frame(image) for image in paths]
            shapes = sorted({frame.pixels.shape[:2] for frame in frames})
            report("warming up", 0, 0)
            warm = warm_up(segmenter, frames)
            del frames  # what flies holds one at a time

            def going(done: int, elapsed: float) -> bool:
                if soak_s:
                    report("soaking, seconds", int(min(elapsed, soak_s)), int(soak_s))
                else:
                    report("sampling", done, samples)
                return done < samples or elapsed < soak_s

            with PowerMeter() as meter:
                taken = sample(segmenter, paths, Path(folder) / "out", going)
            backend, spec, share = segmenter.backend, segmenter.spec, segmenter.overlap
            power, memory = meter.log(), find_memory(backend)
            report("looking into the layers", 0, 0)
            layers = _layers(subject, backend, golden.tiles[0])
        report("starting new processes", 0, 0)
        starts = (
            {
                name: cold_starts(path, paths[0], threads=threads, cached=cached)
                for name, cached in (("cached", True), ("compiled", False))
                if cached or subject.target.compile_cache
            }
            if cold
            else None
        )
    seconds = sum(taken.total) / 1e3
    joules = power.joules(seconds)
    record = {
        "schema": PROFILE_SCHEMA,
        "conditions": {
            **device_conditions(),
            "engine": backend.name,
            "path": str(path),
            "sha256": subject.sha256,
            "bundle_sha256": subject.bundle_sha256,
            "packages": _versions(),
            "precision": subject.precision,
            "window": [spec.height, spec.width],
            "batch": spec.sides,
            "overlap": share,
            "threads": subject.settings.get("threads", 0),
            "frames": [f"{height}x{width}" for height, width in shapes],
            "images": "golden tiles" if not images else [str(image) for image in images],
            "load": {"before": before, "after": load_average()},
            "warm_up": asdict(warm),
        },
        "stages": {name: asdict(statistics(values)) for name, values in taken.stages.items()},
        "ready": asdict(statistics(taken.ready)),
        "total": asdict(statistics(taken.total)),
        "frames_per_second": round(len(taken.total) / seconds, 3),
        "deadline_ms": deadline_ms,
        "miss_rate": deadline_ms and sum(ms > deadline_ms for ms in taken.ready) / len(taken.ready),
        "memory": asdict(memory),
        "joules_per_frame": joules and joules / len(taken.total),
        "cold_start_ms": starts,
    }
    return Profile(record, taken, power, tuple(layers))


def _layers(subject: Subject, backend: Backend, tile: NDArray[np.uint8]) -> list[LayerTime]:
    runs = subject.target.time_layers(subject.model, backend, tile, subject.settings)
    return [] if runs is None else layer_medians(runs, subject.blocks, subject.told)


def _golden_tiles(golden: Golden, folder: Path) -> list[Path]:
    """The engine's own tiles as image files: reading is a stage, too."""
    paths = []
    for index, tile in enumerate(golden.tiles):
        paths.append(folder / f"golden{index}.png")
        Image.fromarray(tile).save(paths[-1])
    return paths


def _versions() -> dict[str, str]:
    """Of the packages that this process has loaded."""
    names = ("numpy", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "pycuda")
    loaded = {name: sys.modules[name] for name in names if name in sys.modules}
    return {name: str(getattr(m, "__version__", "unknown")) for name, m in loaded.items()}
