"""How much of the activations' ranges calibration tiles see: chosen ones against random ones.

    python benchmarks/tiles.py DATASET [--sizes 8 16 32 64]

Runs every training tile of a dataset (512², Dubai for the published figures) through the shipped
example, and records least and greatest value of every tensor after a Conv, Clip, Relu, Add, MatMul
or Gemm. The reach of a selection, per tensor: the width of its range over that of the whole pool.
Twice: on the pool as it is, and on a pool where one kind of ground prevails, as when a UAV hovers: the
30 tiles richest in a class 20 times more, their descriptors jittered by 0.05 standard deviations.
Random selections: the mean of 200.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from record import ROOT, record

from segclip_deploy.artifacts.bundle import InputSpec, load_bundle
from segclip_deploy.calibration.selection import choose_rows, standardised
from segclip_deploy.calibration.tiles import TilePool, find_tiles, stream_tiles
from segclip_deploy.export.export import export_bundle

SPEC = InputSpec(512, 512)
OPERATORS = {"Conv", "Clip", "Relu", "Add", "MatMul", "Gemm"}
DRAWS = 200
REPEATS, JITTER = 20, 0.05


def measure_pool(
    pool: TilePool,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64], tuple[str, ...]]:
    """Least and greatest value (N, T) of each tensor on each tile, class shares (N, K), class names."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bundle"
        export_bundle(ROOT / "examples/dubai/model.safetensors", path, spec=SPEC)
        bundle = load_bundle(path)
        model = onnx.shape_inference.infer_shapes(onnx.load(bundle.model_path))
    names = bundle.vocabulary.names
    floats = {
        value.name
        for value in model.graph.value_info
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    tensors = [
        node.output[0]
        for node in model.graph.node
        if node.op_type in OPERATORS and node.output[0] in floats
    ]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in tensors)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    low, high, shares = [], [], []
    for done, (_, pixels) in enumerate(stream_tiles(pool.tiles, SPEC.height, SPEC.width), start=1):
        labels, *values = session.run(["labels", *tensors], {"image": pixels[None]})
        low.append([value.min() for value in values])
        high.append([value.max() for value in values])
        shares.append(np.bincount(labels.ravel(), minlength=len(names)) / labels.size)
        print(f"\r{done} of {len(pool.tiles)} tiles", end="", flush=True)
    print()
    return np.array(low), np.array(high), np.array(shares), names


def reach(
    low: NDArray[np.float32], high: NDArray[np.float32], rows: NDArray[np.intp]
) -> NDArray[np.float64]:
    """(median, 5th percentile) over tensors of the range of some tiles over that of all."""
    width = high[rows].max(axis=0) - low[rows].min(axis=0)
    return np.percentile(width / (high.max(axis=0) - low.min(axis=0)), (50, 5))


def main() -> None:
    """Run it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 16, 32, 64])
    arguments = parser.parse_args()
    pool = find_tiles([arguments.dataset], SPEC)
    low, high, shares, names = measure_pool(pool)
    everything = np.arange(len(pool.tiles))
    pools = {"as it is": everything}
    for name in names:
        richest = np.argsort(-shares[:, names.index(name)])[:30]
        pools[f"mostly {name}"] = np.concatenate([everything, np.tile(richest, REPEATS)])

    results: list[dict[str, Any]] = []
    for what, members in pools.items():
        rng = np.random.default_rng(0)
        descriptors = standardised(pool.descriptors)[members]
        descriptors[len(everything) :] += rng.normal(
            0, JITTER, (len(members) - len(everything), descriptors.shape[1])
        )
        looks = standardised(descriptors)
        labelled = standardised(np.hstack([descriptors, shares[members]]))
        for n in arguments.sizes:
            draws = [members[rng.permutation(len(members))[:n]] for _ in range(DRAWS)]
            row: dict[str, Any] = {
                "pool": what,
                "n": n,
                "random": np.mean([reach(low, high, draw) for draw in draws], axis=0),
                "by looks": reach(low, high, members[choose_rows(looks, shares[members, :0], n)]),
            }
            if n >= 2 * len(names) + 1:
                chosen = choose_rows(labelled, shares[members], n)
                row["with classes"] = reach(low, high, members[chosen])
            results.append(
                {k: v.round(3).tolist() if isinstance(v, np.ndarray) else v for k, v in row.items()}
            )
            print(results[-1])
    record(
        "tiles",
        results,
        dataset=arguments.dataset.name,
        tiles=len(pool.tiles),
        tensors=low.shape[1],
        figures="median and 5th percentile over tensors",
        onnxruntime=onnxruntime.__version__,
    )


if __name__ == "__main__":
    main()
