"""``map``: many rasters, or huge ones, on several workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segclip_deploy.cli.options import PATH, json_option, overlap_option
from segclip_deploy.cli.output import print_json
from segclip_deploy.cli.progress import progress_bar
from segclip_deploy.cli.rasters import reading_of, reading_options
from segclip_deploy.errors import SegclipError

if TYPE_CHECKING:
    from segclip_deploy.cluster.map_rasters import FailedRaster
    from segclip_deploy.cluster.pool import Pool
    from segclip_deploy.cluster.work import JobSpec
    from segclip_deploy.runtime.io.sinks.base import RasterResult, Sink
    from segclip_deploy.runtime.io.sources.naming import SourceFile

__all__ = ["map_"]

FAILURES_FILE = "map-failures.json"


def _resources(_context: object, _option: object, texts: tuple[str, ...]) -> dict[str, float]:
    found = {}
    for text in texts:
        name, _equals, amount = text.partition("=")
        try:
            found[name] = float(amount)
        except ValueError:
            raise click.BadParameter(f"{text!r} is no resource like gpu=1") from None
    return found


@click.command("map")
@click.argument("sources", nargs=-1, required=True)
@click.option("--engine", type=PATH, required=True, help="An engine or a bundle.")
@click.option("-o", "--out", type=PATH, required=True, help="Folder to write.")
@click.option("--workers", type=click.IntRange(1), help="Processes on this machine; 1 by default.")
@click.option("--scheduler", metavar="ADDRESS", help="Of Dask, in their place: tcp://host:port.")
@click.option(
    "--require",
    "resources",
    metavar="NAME=AMOUNT",
    multiple=True,
    callback=_resources,
    help="Only workers that have it, e.g. gpu=1; each block takes so much while it runs.",
)
@click.option(
    "--threads",
    type=click.IntRange(0),
    help="Of each worker's engine; by default the cores over --workers, with --scheduler 0: its choice.",
)
@overlap_option
@reading_options
@json_option
def map_(
    sources: tuple[str, ...],
    engine: Path,
    out: Path,
    workers: int | None,
    scheduler: str | None,
    resources: dict[str, float],
    threads: int | None,
    overlap: int | None,
    as_json: bool,
    **reading: Any,
) -> None:
    """Segment rasters that have a place on the workers of a Dask cluster.

    SOURCES are files, and folders with their sub-folders. Writes what ``run`` writes of them, the same bytes: NAME.tif, a Cloud-Optimized GeoTIFF, and
    areas.jsonl. Interrupted or in part failed, the same command goes on from there. What failed is
    listed, with tracebacks in map-failures.json, the rest is done, and the exit code is 1.
    """
    from segclip_deploy.cluster.work import JobSpec
    from segclip_deploy.runtime.formats.georeference import find_georeference
    from segclip_deploy.runtime.io.idle_options import refuse_idle_options
    from segclip_deploy.runtime.io.sinks.folder import FolderSink
    from segclip_deploy.runtime.io.sinks.lines import describe_raster_result
    from segclip_deploy.runtime.io.sources.listing import find_files
    from segclip_deploy.runtime.open_engine import engine_sha256
    from segclip_deploy.runtime.targets.device import usable_cores

    if scheduler and workers:
        raise click.UsageError("--workers are started here, those of --scheduler are there already")
    if resources and not scheduler:
        raise click.UsageError(
            "--require is for --scheduler: workers of this machine are all alike"
        )
    on_gpu = _runs_on_gpu(engine)
    if threads is None:
        threads = 0 if scheduler or on_gpu else max(1, usable_cores() // (workers or 1))
    how = reading_of(reading)
    spec = JobSpec(engine.absolute(), engine_sha256(engine), how, overlap, threads)
    files = find_files(map(Path, sources), out, videos=False)
    refuse_idle_options((file.path for file in files if find_georeference(file.path)), how)
    started = time.perf_counter()
    sink = FolderSink(out)
    with _pool(scheduler, workers or 1, resources) as pool, sink:
        count = len(pool.workers())
        results, failed = _map(pool, spec, files, out, sink)
    report = {
        "out": str(out),
        "workers": count,
        "threads": threads,
        "seconds": round(time.perf_counter() - started, 3),
        "windows": sum(result.labelled.windows for result in results),
        "rasters": [describe_raster_result(result) for result in results],
        "failed": [{"image": str(f.source), "error": str(f.failed)} for f in failed],
    }
    if as_json:
        print_json(report)
    else:
        told = f"; {len(failed)} failures, see {out / FAILURES_FILE}" if failed else ""
        click.echo(
            f"{out}: {len(results)} of {len(files)} rasters in {report['windows']} windows, "
            f"{report['seconds']:.1f} s by {count} worker{'s' * (count != 1)}{told}"
        )
    if failed:
        click.get_current_context().exit(1)


def _runs_on_gpu(engine: Path) -> bool:
    """Whether an engine runs on a GPU; without opening it, which may not work here."""
    from segclip_deploy.artifacts.bundle import load_bundle
    from segclip_deploy.artifacts.engine import load_engine
    from segclip_deploy.runtime.registry import find_target

    if engine.is_dir():
        load_bundle(engine)  # or it is refused here, before a worker starts
        return False
    loaded = load_engine(engine)
    target = find_target(loaded.record.target, where=engine, fix=loaded.rebuild_command())
    return not target.takes_threads


def _pool(
    scheduler: str | None, workers: int, resources: dict[str, float]
) -> AbstractContextManager[Pool]:
    from segclip_deploy.cluster.pool import local_pool, scheduler_pool

    return scheduler_pool(scheduler, resources) if scheduler else local_pool(workers)


def _map(
    pool: Pool, spec: JobSpec, files: Sequence[SourceFile], out: Path, sink: Sink
) -> tuple[list[RasterResult], list[FailedRaster]]:
    """The rasters that are finished, and what failed."""
    from segclip_deploy.cluster.map_rasters import FailedRaster, map_rasters
    from segclip_deploy.runtime.io.sinks.base import RasterResult
    from segclip_deploy.runtime.io.sources.listing import count_folders

    results: list[RasterResult] = []
    failed: list[FailedRaster] = []
    given = {file.path.absolute(): file for file in files}
    targets = {path: out.absolute() / f"{file.name}.tif" for path, file in given.items()}
    for target in targets.values():
        target.parent.mkdir(parents=True, exist_ok=True)
    folders = {path.parent for path in (*given, *targets.values())}
    pool.check_sees((spec.engine, *sorted(folders)))
    counted = count_folders(files)
    with _progress() as (tell, report):
        if counted is not None:
            tell(counted)
        tell(
            f"workers: {len(pool.workers())}, engine threads of each: {spec.threads or 'its choice'}"
        )
        try:
            for mapped in map_rasters(pool, spec, targets, report=report):
                file = given[mapped.source]
                if isinstance(mapped, FailedRaster):
                    failed.append(replace(mapped, source=file.path))
                    tell(f"error: {mapped.failed}")
                    continue
                results.append(RasterResult(str(file.path), file.name, mapped.labelled))
                sink.write(results[-1])
                for note in mapped.notes:
                    tell(f"{file.path}: {note}")
                tell(f"{file.path}: {file.name}.tif, {mapped.labelled.windows} windows")
        except (SegclipError, OSError, KeyboardInterrupt):
            tell("what is finished is kept, the same command goes on from there")
            raise
        finally:
            _write_failures(out / FAILURES_FILE, failed)
    return results, failed


@contextmanager
def _progress() -> Iterator[tuple[Callable[[str], None], Callable[[str, int, int], None]]]:
    """A function that tells a line, and one that moves a bar with a rate."""
    began: dict[str, float] = {}
    with progress_bar("") as bar:
        task = bar.add_task("surveying", total=None)

        def report(what: str, done: int, total: int) -> None:
            if what not in began:
                began[what] = time.perf_counter()
                bar.reset(task)
            passed = time.perf_counter() - began[what]
            rate = f", {(done - 1) / passed:.3g} per second" if done > 1 else ""
            bar.update(task, description=what + rate, completed=done, total=total)

        yield partial(bar.console.print, markup=False, soft_wrap=True), report


def _write_failures(path: Path, failed: Sequence[FailedRaster]) -> None:
    from segclip_deploy.artifacts.files import write_json

    if failed:
        write_json(path, {"failed": [failure.to_json() for failure in failed]})
    else:
        path.unlink(missing_ok=True)
