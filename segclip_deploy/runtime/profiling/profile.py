"""``profile``: warm up, sample, look into the layers, and write down in what conditions."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segclip_deploy.artifacts.golden import Golden, load_golden
from segclip_deploy.progress import Report, saying, silent
from segclip_deploy.runtime.inference.backend import Backend
from segclip_deploy.runtime.inference.frame import list_images, read_frame
from segclip_deploy.runtime.inference.window_fit import fit_hint, pixel_ratio
from segclip_deploy.runtime.open_engine import open_segmenter
from segclip_deploy.runtime.profiling.cold import cold_starts
from segclip_deploy.runtime.profiling.conditions import device_conditions, find_memory, load_average
from segclip_deploy.runtime.profiling.layers import LayerTime, layer_medians
from segclip_deploy.runtime.profiling.measure import sample, statistics, warm_up
from segclip_deploy.runtime.profiling.power import PowerMeter
from segclip_deploy.runtime.profiling.record import ColdStarts, Conditions, Load, ProfileRecord
from segclip_deploy.runtime.profiling.subject import Subject, read_subject

__all__ = ["profile_engine"]


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
) -> ProfileRecord:
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
            shapes = sorted({(f.pixels.shape[0], f.pixels.shape[1]) for f in frames})
            grids = [segmenter.grid(*frame.pixels.shape[:2]) for frame in frames]
            if hint := fit_hint(grids[0]):
                saying(report)(f"hint: {hint}")
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
        starts = _cold_starts(path, paths[0], subject, threads) if cold else None
    seconds = sum(taken.total) / 1e3
    joules = power.joules(seconds)
    return ProfileRecord(
        conditions=Conditions(
            device=device_conditions(),
            engine=backend.name,
            path=str(path),
            sha256=subject.sha256,
            bundle_sha256=subject.bundle_sha256,
            packages=_versions(),
            precision=subject.precision,
            window=(spec.height, spec.width),
            batch=spec.sides,
            overlap=share,
            threads=subject.settings.get("threads", 0),
            frames=tuple(shapes),
            images=tuple(map(str, images)) or "golden tiles",
            load=Load(before=before, after=load_average()),
            warm_up=warm,
        ),
        stages={name: statistics(values) for name, values in taken.stages.items()},
        ready=statistics(taken.ready),
        total=statistics(taken.total),
        pixel_ratio=round(pixel_ratio(grids), 4),
        frames_per_second=round(len(taken.total) / seconds, 3),
        deadline_ms=deadline_ms,
        miss_rate=None if deadline_ms is None else _missed(taken.ready, deadline_ms),
        memory=memory,
        joules_per_frame=None if joules is None else joules / len(taken.total),
        cold_start_ms=starts,
        layers=tuple(layers),
        samples=taken,
        power=power,
    )


def _missed(ready: Sequence[float], deadline_ms: float) -> float:
    """Share of the frames that took longer."""
    return sum(ms > deadline_ms for ms in ready) / len(ready)


def _cold_starts(path: Path, image: Path, subject: Subject, threads: int) -> ColdStarts:
    compiled = None
    cached = tuple(cold_starts(path, image, threads=threads))
    # Elsewhere XDG_CACHE_HOME may not move the cache, and the figure would be that of a full one.
    if subject.target.compile_cache and sys.platform == "linux":
        compiled = tuple(cold_starts(path, image, threads=threads, cached=False))
    return ColdStarts(cached=cached, compiled=compiled)


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
