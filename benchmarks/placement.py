"""Our placement of INT8 against modelopt's, for TensorRT: ΔmIoU on both graphs of a bundle.

    python benchmarks/placement.py ../shared/data/dubai [--checkpoints A B] [--sizes 512 1024] [--graphs cpu nvidia]

Needs the extra [quantize]. Both placements get the same tiles and the same blocks: all that can be INT8.
A seed draws two thirds of the tiles of the train split, of which `select_tiles` chooses 32 at most.
Scored in the reference run (ONNX Runtime, optimizations off, FP16 rounded), against FP32 of the same graph. Reads
`val` once for each row. Bundles are kept in out/benchmarks/placement. A run that was killed goes on: a row that is
recorded is not measured again; begin anew by removing its file.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from precision import REFERENCE, Row
from record import ROOT, delta_miou, markdown, record, record_path

from segclip_deploy.artifacts.bundle import Bundle, InputSpec, load_bundle
from segclip_deploy.artifacts.files import read_json
from segclip_deploy.artifacts.scheme import PLACERS, Lowering, Placer, Scheme
from segclip_deploy.calibration.selection import TileSet, select_tiles
from segclip_deploy.calibration.table import load_table
from segclip_deploy.calibration.tiles import TilePool, find_tiles
from segclip_deploy.evaluation.accuracy import Accuracy, miou_drop, score
from segclip_deploy.evaluation.dataset import Dataset, open_dataset
from segclip_deploy.export.export import export_bundle
from segclip_deploy.export.onnx_model import load_model
from segclip_deploy.quantization.from_tiles import calibrate
from segclip_deploy.quantization.placement import uniform_plan
from segclip_deploy.quantization.quantize import quantize
from segclip_deploy.runtime.inference.segmenter import Segmenter

OUT = ROOT / "out" / "benchmarks" / "placement"
MOST, SEEDS, THREADS = 32, (0, 1), 1


def main() -> None:
    """Run it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    example = ROOT / "examples" / "dubai" / "model.safetensors"
    parser.add_argument("data", type=Path)
    parser.add_argument("--checkpoints", type=Path, nargs="+", default=[example])
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024])
    graphs = [lowering.value for lowering in Lowering]
    parser.add_argument("--graphs", nargs="+", choices=graphs, default=graphs)
    arguments = parser.parse_args()
    found: list[dict[str, Any]] = []
    for size, graph in product(arguments.sizes, arguments.graphs):
        name = f"placement-{size}-{graph}"
        path = record_path(name)
        known = read_json(path)["rows"] if path.exists() else []
        rows = {place_of(row): row for row in known}
        for checkpoint in arguments.checkpoints:
            for row in measured(checkpoint, size, Lowering(graph), arguments.data, rows):
                rows[place_of(row)] = row
                print(row, flush=True)
                record(name, list(rows.values()), threads=THREADS, tiles_at_most=MOST)
        found += rows.values()
    print(table(found))


Place = tuple[str, int | None, str]


def place_of(row: Mapping[str, Any]) -> Place:
    """What tells a row from the others of its file: checkpoint, seed, placement."""
    return row["checkpoint"], row.get("seed"), row["placement"]


def measured(
    checkpoint: Path,
    size: int,
    lowering: Lowering,
    root: Path,
    known: Mapping[Place, dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    """All rows of a checkpoint at an input size on one graph, FP32 first; those that are known are not measured."""
    out = OUT / f"{checkpoint.stem}-{size}"
    bundle = exported(checkpoint, size, lowering, out)
    data = open_dataset(root, bundle.vocabulary)
    pool = find_tiles([root], bundle.input, exclude=root)
    parent = accuracy_of(bundle, data)
    common = {"checkpoint": checkpoint.stem, "size": size, "graph": lowering.value}
    yield {**common, "placement": "none, FP32", "miou": parent.confusion.miou}
    for seed, placer in product(SEEDS, PLACERS):
        if (checkpoint.stem, seed, placer) in known:
            yield known[checkpoint.stem, seed, placer]
            continue
        tiles = drawn(pool, seed)
        made = placed(bundle, tiles, out / f"{lowering.value}-{seed}", placer)
        accuracy = accuracy_of(made, data)
        done = made.record.quantization
        assert done is not None  # it was quantized just now
        yield {
            **common,
            "seed": seed,
            "placement": placer,
            "tiles": len(tiles),
            "int8_macs": done.int8_macs,
            "miou": accuracy.confusion.miou,
            "drop": miou_drop(parent, accuracy).to_json(),
        }


def exported(checkpoint: Path, size: int, lowering: Lowering, out: Path) -> Bundle:
    """The FP32 bundle with one graph, kept once made."""
    folder = out / f"fp32-{lowering.value}"
    if not folder.is_dir():
        export_bundle(checkpoint, folder, spec=InputSpec(size, size), lowerings=[lowering])
    return load_bundle(folder)


def drawn(pool: TilePool, seed: int) -> TileSet:
    """The product's own choice from two thirds of the tiles."""
    count = 2 * len(pool.tiles) // 3
    kept = np.sort(np.random.default_rng(seed).choice(len(pool.tiles), count, replace=False))
    part = dataclasses.replace(
        pool, tiles=tuple(pool.tiles[row] for row in kept), descriptors=pool.descriptors[kept]
    )
    return select_tiles(part, MOST)


def placed(bundle: Bundle, tiles: TileSet, out: Path, placer: Placer) -> Bundle:
    """The bundle in INT8, kept once made."""
    folder, file = out / placer, out / "table.json"
    if folder.is_dir():
        return load_bundle(folder)
    out.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        calibrate(bundle, tiles, file, method="percentile", scheme=Scheme.TENSORRT)
    plan = uniform_plan(bundle, load_model(bundle.model_path).graph, Scheme.TENSORRT, "int8")
    pixels = (tile for _, tile in tiles) if placer == "modelopt" else None
    return quantize(bundle, folder, plan=plan, table=load_table(file, bundle), tiles=pixels)


def accuracy_of(bundle: Bundle, data: Dataset) -> Accuracy:
    """On val, in the reference run."""
    backend = Row(bundle.path.name, bundle.model_path, REFERENCE, threads=THREADS).open()
    with Segmenter(backend, bundle.input, bundle.vocabulary) as segmenter:
        return score(segmenter, data.samples("val"))


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown: a line for each graph and placement, a column for each seed."""
    lines: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if "drop" in row:
            place = (f"{row['checkpoint']}, {row['size']}²", row["graph"], row["placement"])
            cells = lines.setdefault(place, ["–"] * len(SEEDS))
            cells[SEEDS.index(row["seed"])] = delta_miou(row["drop"])
    header = ["checkpoint, input", "graph for", "placement"]
    header += [f"ΔmIoU, tiles {seed} [95 %]" for seed in SEEDS]
    return markdown(header, [[*place, *cells] for place, cells in lines.items()])


if __name__ == "__main__":
    main()
