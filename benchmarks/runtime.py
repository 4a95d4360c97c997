"""The runtime's costs in one go, and GeoDeep on the same weights and raster.

    pip install geodeep
    python benchmarks/runtime.py [--images ../shared/data/uav_frames_brighton/images_1600x900]

Exports the example at 512² and 1024², builds both for OpenVINO, then runs:

1. streams.py: what everything but the bare inference costs at 1024².
2. raster.py: a large GeoTIFF against the bare windows; 20 000² for the memory.
3. cold starts: process start to first label map, with the compile cache warm and empty.
4. GeoDeep (PyPI) against `run`, both on ONNX Runtime with the same threads and overlap, on the same
   GeoTIFF, in turns. GeoDeep gets the same graph with its own ends: NCHW float in, scores out. It
   also filters its mask with a median of 5, which cannot be turned off.

Every script writes its own figures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image
from record import ROOT, record

from segclip_deploy.artifacts.bundle import InputSpec, load_bundle
from segclip_deploy.export.export import export_bundle
from segclip_deploy.runtime.build_engine import build_engine
from segclip_deploy.runtime.inference.windows import LOGIT_STRIDE
from segclip_deploy.runtime.io.raster.segment import segment_raster
from segclip_deploy.runtime.io.raster.source import Reading, describe_raster
from segclip_deploy.runtime.open_engine import open_segmenter
from segclip_deploy.runtime.profiling.cold import cold_starts

EXAMPLE = ROOT / "examples" / "dubai"
SIDE, THREADS, ROUNDS = 512, 2, 5
OVERLAP = 0.25  # of a window, in both


def for_geodeep(model: Path, out: Path) -> None:
    """The same graph between GeoDeep's ends: RGB (1, 3, H, W) in 0–1 in, scores (1, K, H, W) out."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(model)).graph
    (height, width) = (d.dim_value for d in graph.input[0].type.tensor_type.shape.dim[1:3])
    nodes = [
        helper.make_node("Mul", ["rgb", "levels"], ["scaled"]),
        helper.make_node("Round", ["scaled"], ["rounded"]),
        helper.make_node("Transpose", ["rounded"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("Cast", ["last"], [graph.input[0].name], to=TensorProto.UINT8),
        *graph.node,
        helper.make_node("Resize", ["logits", "", "by"], ["scores"], mode="linear"),
    ]
    image = helper.make_tensor_value_info("rgb", TensorProto.FLOAT, [1, 3, height, width])
    logits = next(o for o in graph.value_info if o.name == "logits").type.tensor_type
    sides = [1, logits.shape.dim[1].dim_value, height, width]
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, sides)
    by = helper.make_tensor("by", TensorProto.FLOAT, [4], [1.0, 1.0, LOGIT_STRIDE, LOGIT_STRIDE])
    levels = helper.make_tensor("levels", TensorProto.FLOAT, [], [255.0])
    made = helper.make_graph(nodes, "geodeep", [image], [scores], [*graph.initializer, levels, by])
    whole = helper.make_model(made, opset_imports=onnx.load(model).opset_import, ir_version=9)
    for key, value in {
        "model_type": json.dumps("Segmentor"),
        "class_names": json.dumps({}),
        "resolution": "1",  # below the raster's: not resampled, as here
        "tiles_overlap": str(100 * OVERLAP),
        "seg_thresh": "-1e9",
        "seg_small_segment": "0",
    }.items():
        entry = whole.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(whole)
    onnx.save(whole, out)


def against_geodeep(bundle: Path, raster: Path, folder: Path) -> dict[str, Any]:
    """Seconds of both on a raster, in turns, and how alike their labels are."""
    try:
        import geodeep
    except ImportError:
        return {"failed": "geodeep is not installed"}
    model = folder / "geodeep.onnx"
    for_geodeep(load_bundle(bundle).model_path, model)
    seconds: dict[str, list[float]] = {"segclip-deploy": [], "geodeep": []}
    with open_segmenter(bundle, threads=THREADS, overlap=int(SIDE * OVERLAP)) as segmenter:
        # Loading is GeoDeep's own in each call; here the engine is open, so its loading is added.
        started = time.perf_counter()
        open_segmenter(bundle, threads=THREADS).backend.close()
        loading = time.perf_counter() - started
        for turn in range(ROUNDS):
            described = describe_raster(raster, Reading(), None)
            out = folder / f"ours{turn}.tif"
            started = time.perf_counter()
            segment_raster(segmenter, described, out, digest="")
            seconds["segclip-deploy"].append(loading + time.perf_counter() - started)
            started = time.perf_counter()
            mask = geodeep.segment(str(raster), str(model), max_threads=THREADS)
            seconds["geodeep"].append(time.perf_counter() - started)
    import rasterio

    with rasterio.open(out) as dataset:
        labels = dataset.read(1)
    medians = {name: round(median(values), 3) for name, values in seconds.items()}
    return {
        "raster": raster.name,
        "seconds": medians,
        "rounds": ROUNDS,
        "ratio": round(medians["geodeep"] / medians["segclip-deploy"], 3),
        "labels_equal": round(float(np.mean(labels == mask)), 4),
    }


def script(name: str, *arguments: object) -> None:
    """Run a benchmark beside this one."""
    command = [sys.executable, str(ROOT / "benchmarks" / name), *map(str, arguments)]
    print(" ".join(command[1:]), flush=True)
    subprocess.run(command, check=True)


def main() -> None:
    """Run it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="Frames of at least 1024²; for streams.py.")
    parser.add_argument("--raster", type=Path, help="A GeoTIFF for GeoDeep; by default a made one.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engines = {}
        for side in (SIDE, 1024):
            bundle = folder / f"dubai-{side}"
            export_bundle(EXAMPLE / "model.safetensors", bundle, spec=InputSpec(side, side))
            engines[side] = build_engine(load_bundle(bundle), folder / f"{side}.ov.onnx").path
        if arguments.images:
            script("streams.py", engines[1024], arguments.images, "--threads", THREADS)
        script("raster.py", engines[SIDE], "--threads", THREADS)
        script("raster.py", "--size", 20000, "--rounds", 1)
        tile = folder / "tile.png"
        with Image.open(next(iter(sorted((EXAMPLE / "images").iterdir())))) as image:
            image.crop((0, 0, SIDE, SIDE)).save(tile)
        starts = {
            how: cold_starts(engines[SIDE], tile, times=7, cached=how == "cached")
            for how in ("compiled", "cached")
        }
        raster = arguments.raster
        if raster is None:
            from raster import write_raster

            raster = folder / "made.tif"
            write_raster(raster, 3000, 3000)
        result = {
            "threads": THREADS,
            "cold_start_ms": {how: {"median": median(v), "all": v} for how, v in starts.items()},
            "geodeep": against_geodeep(folder / f"dubai-{SIDE}", raster, folder),
        }
    record("runtime", [result])
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
