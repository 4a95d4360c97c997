"""What labelling a raster over workers costs beside one process, and what many blocks cost the scheduler.

    python benchmarks/scale.py ENGINE [--size 12000x2000] [--rounds 5] [--blocks 100000]

Throughput: one raster (an example tile repeated, as of raster.py; height first) by ``segment_raster`` in
this process, by one worker and by two, in turns, each engine with one thread; workers are started, and have opened the engine, before. Windows
per second are those that one process infers over the seconds until the Cloud-Optimized GeoTIFF and its
areas are there; medians of the rounds, and of the ratios within a round. Scheduler: so many jobs of a
block's size without a body, through the bounded queue that ``map`` uses and, for comparison, submitted
all at once; a scheduler of its own each time, one worker. The load includes this script's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import distributed
from raster import write_raster
from record import record

from segclip_deploy.cli.options import size as parse_size
from segclip_deploy.cluster.block_store import cut_blocks
from segclip_deploy.cluster.map_rasters import Mapped, map_rasters
from segclip_deploy.cluster.pool import Job, Pool, local_pool, scheduler_pool
from segclip_deploy.cluster.work import BlockPlan, JobSpec, survey
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.inference.windows import cover
from segclip_deploy.runtime.io.raster.grid import RasterGrid
from segclip_deploy.runtime.io.raster.segment import segment_raster, settings_digest
from segclip_deploy.runtime.io.raster.source import Reading, describe_raster
from segclip_deploy.runtime.open_engine import engine_sha256, open_segmenter

MANY, SIDE = 1000, 20_000  # rasters, and pixels along each of their sides


def alone(segmenter: Segmenter, spec: JobSpec, source: Path, out: Path) -> tuple[int, float]:
    """Windows and seconds of one process."""
    started = time.perf_counter()
    raster = describe_raster(source, spec.reading, segmenter.vocabulary.ground_sample_distance_m)
    digest = settings_digest(segmenter, raster, spec.sha256)
    result = segment_raster(segmenter, raster, out, digest=digest)
    return result.windows, time.perf_counter() - started


def together(pool: Pool, spec: JobSpec, source: Path, out: Path) -> tuple[int, float]:
    """Windows and seconds of a pool."""
    started = time.perf_counter()
    (result,) = map_rasters(pool, spec, {source: out})
    assert isinstance(result, Mapped)
    return result.labelled.windows, time.perf_counter() - started


def throughput(engine: Path, size: tuple[int, int], rounds: int) -> dict[str, Any]:
    spec = JobSpec(engine, engine_sha256(engine), Reading(), threads=1)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        source, small = folder / "raster.tif", folder / "small.tif"
        write_raster(source, *size)
        write_raster(small, 1024, 1024)
        segmenter = stack.enter_context(open_segmenter(engine, threads=1))
        pools, starts = {}, {}
        for count in (1, 2):
            started = time.perf_counter()
            pools[count] = stack.enter_context(local_pool(count))
            starts[count] = round(time.perf_counter() - started, 2)
            jobs = [Job(survey, (spec, small, folder / "small.out.tif"))] * (2 * count)
            list(pools[count].do(deque(jobs)))  # opens the engine
        alone(segmenter, spec, small, folder / "warm.tif")
        taken: dict[int, list[tuple[int, float]]] = {0: [], 1: [], 2: []}
        for number in range(rounds):
            taken[0].append(alone(segmenter, spec, source, folder / f"{number}-0.tif"))
            for count, pool in pools.items():
                out = folder / f"{number}-{count}.tif"
                taken[count].append(together(pool, spec, source, out))
                assert out.read_bytes() == (folder / f"{number}-0.tif").read_bytes()
            print({count: times[-1] for count, times in taken.items()}, file=sys.stderr)
        blocks = len(cut_blocks(segmenter, RasterGrid(size, size)))
        many = len(cut_blocks(segmenter, RasterGrid((SIDE, SIDE), (SIDE, SIDE))))
        window = (segmenter.spec.height, segmenter.spec.width)
        windows = taken[0][0][0]
        return {
            "engine": segmenter.backend.name,
            "input": segmenter.spec.sides,
            "blended": segmenter.blends,
            "size": list(size),
            "rounds": rounds,
            "windows": windows,
            "blocks": blocks,
            "windows_inferred_by_workers": taken[1][0][0],
            "start_seconds": {f"{count}_workers": start for count, start in starts.items()},
            "windows_per_second": {
                name: round(windows / statistics.median(s for _, s in taken[count]), 2)
                for count, name in enumerate(("one_process", "1_worker", "2_workers"))
            },
            "1_worker_of_one_process": ratio(taken[0], taken[1]),
            "2_workers_of_1_worker": ratio(taken[1], taken[2]),
            "overhead_ms_per_window": round(
                statistics.median(
                    1e3 * (worker - process) / windows
                    for (_, process), (_, worker) in zip(taken[0], taken[1], strict=True)
                ),
                3,
            ),
            "of_20000": {
                "windows": len(cover((SIDE, SIDE), window, (segmenter.overlap,) * 2)),
                "blocks": many,
            },
        }


def ratio(before: list[tuple[int, float]], after: list[tuple[int, float]]) -> float:
    """How many times as fast, in the median of the rounds."""
    return round(statistics.median(b / a for (_, b), (_, a) in zip(before, after, strict=True)), 3)


@contextmanager
def cluster() -> Iterator[tuple[str, int]]:
    """A scheduler and one worker: its address, and its process."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scheduler.json"
        shared = ["--scheduler-file", str(file), "--host", "127.0.0.1", "--no-dashboard"]
        parts = {
            "scheduler": ["--port", "0"],
            "worker": ["--nthreads", "1", "--local-directory", folder],
        }
        started = [
            subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{part}", *shared, *options],
                stderr=subprocess.DEVNULL,
            )
            for part, options in parts.items()
        ]
        try:
            while not file.exists() or not file.read_text().endswith("}"):
                time.sleep(0.1)
            yield json.loads(file.read_text())["address"], started[0].pid
        finally:
            for process in reversed(started):
                process.terminate()
                process.wait()


def megabytes(pid: int, field: str) -> int:
    """Resident memory of a process, now (VmRSS) or at most so far (VmHWM)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith(field))


def scheduling(blocks: int, *, bounded: bool) -> dict[str, Any]:
    spec = JobSpec(Path("/data/engine.ort.onnx"), "0" * 64, Reading())
    rows = tuple((top, top + 3000) for top in range(0, SIDE, 3000))
    plan = BlockPlan(
        Path("/data/a.tif"), Path("/out/a.tif"), "0" * 64, (SIDE, SIDE), rows, rows, ()
    )
    with cluster() as (address, pid), scheduler_pool(address, {}) as pool:
        before = megabytes(pid, "VmRSS")
        started = time.perf_counter()
        if bounded:
            jobs = (Job(len, ((spec, plan, (n, n + 1)),)) for n in range(blocks))
            done = sum(answer == 3 for _, answer in pool.do(deque(jobs)))
        else:
            with distributed.Client(address) as client:
                futures = [
                    client.submit(len, (spec, plan, (n, n + 1)), pure=False) for n in range(blocks)
                ]
                done = sum(future.result() == 3 for future in distributed.as_completed(futures))
        seconds = time.perf_counter() - started
        assert done == blocks
        return {
            "blocks": blocks,
            "seconds": round(seconds, 1),
            "ms_per_block": round(1e3 * seconds / blocks, 3),
            "scheduler_mb_before": before,
            "scheduler_mb_peak": megabytes(pid, "VmHWM"),
        }


def extrapolated(measured: dict[str, Any], scheduler: dict[str, Any]) -> dict[str, Any]:
    """What it says of many large rasters: arithmetic, nothing of it was run."""
    windows, blocks = (MANY * measured["of_20000"][what] for what in ("windows", "blocks"))
    jobs = blocks + 2 * MANY  # a raster is surveyed and finished, too
    return {
        "what": f"{MANY} rasters of {SIDE}×{SIDE}: extrapolated from the figures above, not run",
        "windows": windows,
        "blocks": blocks,
        "hours_of_one_worker": round(
            windows / measured["windows_per_second"]["1_worker"] / 3600, 1
        ),
        "seconds_of_scheduling": round(jobs * scheduler["ms_per_block"] / 1e3, 1),
        # Of all workers together, where their blocks end faster than the scheduler hands out new ones.
        "workers_one_scheduler_serves": round(
            windows
            / measured["windows_per_second"]["1_worker"]
            / (jobs * scheduler["ms_per_block"] / 1e3)
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("engine", type=Path)
    parser.add_argument("--size", type=parse_size, default=(12_000, 2000))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--blocks", type=int, default=100_000)
    arguments = parser.parse_args()
    measured = throughput(arguments.engine.absolute(), arguments.size, arguments.rounds)
    scheduler = {
        "bounded": scheduling(arguments.blocks, bounded=True),
        "all_at_once": scheduling(arguments.blocks, bounded=False),
    }
    result = {
        "throughput": measured,
        "scheduler": scheduler,
        "extrapolation": extrapolated(measured, scheduler["bounded"]),
    }
    record(
        "scale",
        [result],
        distributed=distributed.__version__,
        model=arguments.engine.name,
        engine_threads=1,
    )
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
