"""``map``: rasters into a folder of results."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segclip_deploy.artifacts.files import write_json
from segclip_deploy.cluster.map_rasters import FailedRaster, map_rasters
from segclip_deploy.cluster.pool import Pool
from segclip_deploy.cluster.work import JobSpec
from segclip_deploy.errors import SegclipError
from segclip_deploy.progress import Report, saying, silent
from segclip_deploy.runtime.io.sinks.base import RasterResult
from segclip_deploy.runtime.io.sinks.folder import FolderSink
from segclip_deploy.runtime.io.sinks.lines import describe_raster_result
from segclip_deploy.runtime.io.sources.listing import count_folders
from segclip_deploy.runtime.io.sources.naming import SourceFile

__all__ = ["FAILURES_FILE", "MapResult", "map_folder"]

FAILURES_FILE = "map-failures.json"


@dataclass(frozen=True)
class MapResult:
    """What mapping came to.

    Attributes:
        out: the folder of the results.
        files: that were given.
        workers: that worked.
        threads: of each worker's engine; 0: its choice.
        seconds: of the call.
        rasters: that are finished.
        failed: what failed; such a raster has no output.
    """

    out: Path
    files: int
    workers: int
    threads: int
    seconds: float
    rasters: tuple[RasterResult, ...]
    failed: tuple[FailedRaster, ...]

    @property
    def failures_path(self) -> Path:
        """Where tracebacks are, if anything failed."""
        return self.out / FAILURES_FILE

    @property
    def windows(self) -> int:
        """That were labelled."""
        return sum(result.labelled.windows for result in self.rasters)

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "out": str(self.out),
            "workers": self.workers,
            "threads": self.threads,
            "seconds": self.seconds,
            "windows": self.windows,
            "rasters": [describe_raster_result(result) for result in self.rasters],
            "failed": [{"image": str(f.source), "error": str(f.failed)} for f in self.failed],
        }


def map_folder(
    pool: Pool,
    spec: JobSpec,
    files: Sequence[SourceFile],
    sink: FolderSink,
    *,
    report: Report = silent,
) -> MapResult:
    """Map files into the folder of a sink, and write down what failed, with tracebacks.

    Raises:
        SegclipError: whatever ``map_rasters`` raises.
    """
    out, started = sink.folder, time.perf_counter()
    count, say = len(pool.workers()), saying(report)
    given = {file.path.absolute(): file for file in files}
    targets = {path: out.absolute() / f"{file.name}.tif" for path, file in given.items()}
    results: list[RasterResult] = []
    failed: list[FailedRaster] = []
    for target in targets.values():
        target.parent.mkdir(parents=True, exist_ok=True)
    folders = {path.parent for path in (*given, *targets.values())}
    pool.check_sees((spec.engine, *sorted(folders)))
    counted = count_folders(files)
    if counted is not None:
        say(counted)
    say(f"workers: {count}, engine threads of each: {spec.threads or 'its choice'}")
    try:
        for mapped in map_rasters(pool, spec, targets, report=report):
            file = given[mapped.source]
            if isinstance(mapped, FailedRaster):
                failed.append(replace(mapped, source=file.path))
                say(f"error: {mapped.failed}")
            else:
                results.append(RasterResult(str(file.path), file.name, mapped.labelled))
                sink.write(results[-1])
                for note in mapped.notes:
                    say(f"{file.path}: {note}")
                say(f"{file.path}: {file.name}.tif, {mapped.labelled.windows} windows")
    except (SegclipError, OSError, KeyboardInterrupt):
        say("what is finished is kept, the same command goes on from there")
        raise
    finally:
        _write_failures(out / FAILURES_FILE, failed)
    seconds = round(time.perf_counter() - started, 3)
    return MapResult(out, len(files), count, spec.threads, seconds, tuple(results), tuple(failed))


def _write_failures(path: Path, failed: Sequence[FailedRaster]) -> None:
    if failed:
        write_json(path, {"failed": [failure.to_json() for failure in failed]})
    else:
        path.unlink(missing_ok=True)
