"""What a large GeoTIFF costs beside inference, and the memory it takes.

    python benchmarks/raster.py ENGINE [--size 4000] [--threads 0] [--rounds 3]
    python benchmarks/raster.py --size 20000        # no engine: NumPy for one, for the memory

The raster: an example tile repeated, three bands of 8 bits, 512² tiles, DEFLATE, half a metre. Each
round is a process of its own that labels it (reading, labels, overviews, Cloud-Optimized GeoTIFF, areas)
between two times of the bare engine, on as many windows of the same image in full batches: the batch
and the threads are the same. Throughput: windows per second of both, and their ratio; medians of
the rounds, and the machine's load, which includes this one's. Memory: the most that was resident.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image
from record import ROOT, record, record_path

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.runtime.inference.backend import TensorSpec
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.io.raster.segment import segment_raster, settings_digest
from segclip_deploy.runtime.io.raster.source import Reading, describe_raster
from segclip_deploy.runtime.open_engine import open_segmenter
from segclip_deploy.runtime.profiling.conditions import load_average

TILE = ROOT / "examples" / "dubai" / "images" / "tile8_part3.jpg"
BARE = 40  # batches of one time of the bare engine, at most as many as the raster has


class Bands:
    """The class of a pixel is a fifth of its blue: next to no time, and labels of a real image."""

    def __init__(self) -> None:
        self.name = "NumPy"
        self.inputs = (TensorSpec("image", (1, 512, 512, 3), np.dtype(np.uint8)),)
        self.outputs = (TensorSpec("labels", (1, 512, 512), np.dtype(np.uint8)),)

    def infer(self, arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Answer for the batch."""
        return {"labels": arrays["image"][..., 2] // np.uint8(52)}

    def close(self) -> None:
        """Nothing is held."""


def write_raster(path: Path, height: int, width: int) -> None:
    with Image.open(TILE) as image:
        tile = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    across = np.tile(tile, (1, 1, -(-width // tile.shape[2])))[..., :width]
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=width,
        height=height,
        count=3,
        dtype="uint8",
        crs="EPSG:32640",
        transform=rasterio.Affine(0.5, 0, 3e5, 0, -0.5, 2.8e6),
        tiled=True,
        blockxsize=512,
        blockysize=512,
        compress="deflate",
        zlevel=1,
        photometric="RGB",
        bigtiff="IF_SAFER",
    ) as dataset:
        for top in range(0, height, 512):
            rows = np.arange(top, min(top + 512, height)) % tile.shape[1]
            dataset.write(across[:, rows], window=((top, top + len(rows)), (0, width)))


def bare(segmenter: Segmenter, batches: int) -> float:
    """Windows per second of the engine alone."""
    with Image.open(TILE) as image:
        pixels = np.asarray(image.convert("RGB"))
    spec = segmenter.spec
    batch = np.stack([pixels[: spec.height, : spec.width]] * spec.batch)
    started = time.perf_counter()
    for _ in range(batches):
        segmenter.backend.infer({segmenter.backend.inputs[0].name: batch})
    return batches * spec.batch / (time.perf_counter() - started)


def one_round(engine: str, raster: Path, out: Path, threads: int) -> dict[str, Any]:
    if engine:
        segmenter = open_segmenter(engine, threads=threads)
    else:
        segmenter = Segmenter(Bands(), InputSpec(512, 512), load_vocabulary("dubai"))
    with segmenter:
        loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        source = describe_raster(raster, Reading(), None)
        bare(segmenter, 5)
        before = bare(segmenter, BARE)
        digest = settings_digest(segmenter, source, "")
        result = segment_raster(segmenter, source, out, digest=digest)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        alone = statistics.mean([before, bare(segmenter, BARE)])
        return {
            "engine": segmenter.backend.name,
            "input": segmenter.spec.sides,
            "windows": result.windows,
            "seconds": round(result.seconds, 2),
            "share_inferring": round(result.inferring / result.seconds, 4),
            "windows_per_second": round(result.windows / result.seconds, 2),
            "bare_windows_per_second": round(alone, 2),
            "of_bare": round(result.windows / result.seconds / alone, 4),
            "resident_mb_before": loaded // 1024,
            "resident_mb_peak": peak // 1024,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("engine", nargs="?", default="")
    parser.add_argument("--size", type=int, default=4000)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--raster", type=Path, help="Keep the raster here, or use the one there.")
    parser.add_argument("--round", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.round:
        print(json.dumps(one_round(arguments.engine, *arguments.round, arguments.threads)))
        return
    with tempfile.TemporaryDirectory() as folder:
        raster = arguments.raster or Path(folder) / "raster.tif"
        if not raster.exists():
            write_raster(raster, arguments.size, arguments.size)
        rounds = []
        for number in range(arguments.rounds):
            out = Path(folder) / f"{number}.tif"
            command = [sys.executable, __file__, *filter(None, [arguments.engine])]
            command += ["--threads", str(arguments.threads), "--round", str(raster), str(out)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rounds.append(json.loads(done.stdout))
            print(rounds[-1], file=sys.stderr)
            with rasterio.open(raster) as dataset:
                size = [dataset.height, dataset.width]
    row = {
        key: statistics.median(r[key] for r in rounds) if isinstance(value, int | float) else value
        for key, value in rounds[0].items()
    }
    results = record_path("raster")
    known = json.loads(results.read_text()) if results.exists() else {"rows": []}
    model = Path(arguments.engine).name or "NumPy"
    row = {
        "size": size,
        "model": model,
        "threads": arguments.threads,
        "rounds": len(rounds),
        "load": load_average(),
        **row,
    }
    same = ("size", "model", "engine", "input", "threads")
    rows = [r for r in known["rows"] if any(r[key] != row[key] for key in same)]
    record("raster", [*rows, row])
    print(json.dumps(row, indent=2))


if __name__ == "__main__":
    main()
