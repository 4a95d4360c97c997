"""``map``: rasters over the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from segclip_deploy.api._arguments import AnyPath, AnyPaths, check_range, paths_of
from segclip_deploy.errors import UsageError
from segclip_deploy.progress import Report, silent

if TYPE_CHECKING:
    from segclip_deploy.cluster.map_folder import MapResult
    from segclip_deploy.cluster.pool import Pool

__all__ = ["map"]


def map(
    sources: AnyPaths,
    *,
    engine: AnyPath,
    out: AnyPath,
    workers: int | None = None,
    scheduler: str | None = None,
    require: Mapping[str, float] | None = None,
    threads: int | None = None,
    overlap: int | None = None,
    bands: tuple[int, int, int] | None = None,
    scale: tuple[float, float] | None = None,
    keep_scale: bool = False,
    ignore_alpha: bool = False,
    allow_remote: bool = False,
    report: Report = silent,
) -> MapResult:
    """Segment rasters that have a place on the workers of a Dask cluster.

    Writes what ``run`` writes of them, the same bytes. The same call goes on where an interrupted
    one stopped. What failed is listed, with tracebacks in map-failures.json, and the rest is done.

        result = api.map("survey", engine="dubai.ov.onnx", out="labels", workers=4)
        assert not result.failed

    Args:
        sources: rasters, and folders of them with their sub-folders.
        engine: an engine or a bundle, where all workers see it.
        out: the folder to write.
        workers: processes to start on this machine; by default 1.
        scheduler: of Dask, in their place: ``"tcp://host:port"``.
        require: resources that a worker must have, as ``{"gpu": 1}``; each block takes so much.
        threads: of each worker's engine; by default the cores over ``workers``.
        overlap: pixels that windows share; by default what ``export --frame`` chose, or a quarter.
        bands, scale, keep_scale, ignore_alpha, allow_remote: as of ``run``.
        report: told how far it is.

    Raises:
        UsageError: arguments that do not go together.
        BadArtifact: the engine cannot run on a worker.
        BadInput: sources or an output that cannot be used.
        MissingDependency: no Dask or rasterio.
        ConnectionError: the scheduler is gone; what is finished is kept.
    """
    check_range("--workers", workers, 1)
    check_range("--threads", threads, 0)
    from segclip_deploy.cluster.map_folder import map_folder
    from segclip_deploy.cluster.work import JobSpec
    from segclip_deploy.runtime.formats.georeference import find_georeference
    from segclip_deploy.runtime.io.idle_options import refuse_idle_options
    from segclip_deploy.runtime.io.raster.source import Reading
    from segclip_deploy.runtime.io.sinks.folder import FolderSink
    from segclip_deploy.runtime.io.sources.listing import find_files
    from segclip_deploy.runtime.open_engine import engine_sha256, is_threaded
    from segclip_deploy.runtime.targets.device import usable_cores

    if scheduler and workers:
        raise UsageError("--workers are started here, those of --scheduler are there already")
    if require and not scheduler:
        raise UsageError("--require is for --scheduler: workers of this machine are all alike")
    engine, out = Path(engine), Path(out)
    threaded = is_threaded(engine)
    if threads is None:
        threads = max(1, usable_cores() // (workers or 1)) if threaded and not scheduler else 0
    reading = Reading(bands, scale, keep_scale, ignore_alpha, allow_remote)
    spec = JobSpec(engine.absolute(), engine_sha256(engine), reading, overlap, threads)
    files = find_files(paths_of(sources), out, videos=False)
    refuse_idle_options((file.path for file in files if find_georeference(file.path)), reading)
    sink = FolderSink(out)
    with _pool(scheduler, workers or 1, require or {}) as pool, sink:
        return map_folder(pool, spec, files, sink, report=report)


def _pool(
    scheduler: str | None, workers: int, resources: Mapping[str, float]
) -> AbstractContextManager[Pool]:
    from segclip_deploy.cluster.pool import local_pool, scheduler_pool

    return scheduler_pool(scheduler, resources) if scheduler else local_pool(workers)
