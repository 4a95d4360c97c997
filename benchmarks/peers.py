"""What a user would fly otherwise, against ours: same weights, same tiles, same threads.

    python benchmarks/peers.py [../shared/data/dubai] [--sizes 512 1024]

Needs requirements.txt. Makes both bundles of the example, sweeps them with `segclip-deploy benchmark`
(the report stays in out/benchmarks/report) and takes the engine it recommends for each size. Then, for
each size, ours and the peers in one process, in turns, in another order each round: uint8 image of
one window → label map, median of the rounds. Accuracy: `val` in windows of that size, paired with
PyTorch. Files are kept in out/benchmarks/peers, and what is there is not made again.

The peers' graph is the plain export: the same network with its text as constants, not folded, with
normalisation and arg max in the graph, which spares them the NumPy that most scripts do it with.
OpenVINO runs as it comes, with BF16 where the processor has it.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from record import ROOT, delta_miou, markdown, record
from tools import modelopt, nncf, quantize_static
from torch import Tensor

from segclip_deploy.artifacts.bundle import Bundle, InputSpec, load_bundle
from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.calibration.selection import select_tiles
from segclip_deploy.calibration.tiles import find_tiles
from segclip_deploy.evaluation.accuracy import miou_drop, score
from segclip_deploy.evaluation.dataset import Dataset, open_dataset
from segclip_deploy.export.export import export_bundle
from segclip_deploy.export.graph import ConstantText, DeployGraph
from segclip_deploy.export.onnx import write_onnx
from segclip_deploy.export.torch_backend import TorchBackend
from segclip_deploy.model.checkpoint import Checkpoint, build_model, load_checkpoint
from segclip_deploy.model.text import load_open_clip
from segclip_deploy.runtime.inference.backend import Backend
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.open_engine import open_segmenter
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from segclip_deploy.runtime.targets.openvino import OpenVinoBackend, precisions
from segclip_deploy.tradeoff.benchmark import benchmark_bundles
from segclip_deploy.tradeoff.recommend import FlightLimits, recommend
from segclip_deploy.tradeoff.row import pareto_front
from segclip_deploy.tradeoff.sweep_request import Request, prepare_sweep

OUT = ROOT / "out" / "benchmarks"
EXAMPLE = ROOT / "examples" / "dubai" / "model.safetensors"
THREADS, WARM_UP, ROUNDS, TILES, SAMPLES, MOST_LOST = 2, 3, 20, 256, 48, 0.003
EAGER, TEXT = "PyTorch eager, text cached", "PyTorch eager, text encoded each frame"
LIMITS = FlightLimits(miou_drop=MOST_LOST, percentile=90)


class TextEachFrame(torch.nn.Module):
    """A deployed graph that encodes every prompt before each image, as a research script does.

    The tower has random weights: it costs the same, and the labels are made with the real bank.
    """

    def __init__(self, graph: DeployGraph, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.graph, self.output_names = graph, graph.output_names
        self.clip, tokenizer = load_open_clip("ViT-B-16", None)
        prompts = [p for entry in vocabulary.classes for p in vocabulary.prompts(entry)]
        self.tokens = tokenizer(prompts + [t for entry in vocabulary.classes for t in entry.texts])

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Encode, then segment."""
        self.clip.encode_text(self.tokens)
        return self.graph(image)


class Autocast(torch.nn.Module):
    """A deployed graph in bfloat16 and channels last, PyTorch's own way to be fast on a CPU."""

    def __init__(self, graph: DeployGraph) -> None:
        super().__init__()
        self.graph = graph.to(memory_format=torch.channels_last)
        self.output_names = graph.output_names

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Segment."""
        with torch.autocast("cpu", torch.bfloat16):
            return self.graph(image)


def in_pytorch(checkpoint: Checkpoint, spec: InputSpec) -> Mapping[str, Callable[[], Backend]]:
    """PyTorch's ways, the one that all are compared with first."""

    def graph() -> DeployGraph:
        model = build_model(checkpoint)
        network = ConstantText(model, checkpoint.bank)
        return DeployGraph(network, model.spec.mean, model.spec.std, logits=False).eval()

    def opened(wrap: Callable[[DeployGraph], Any], kind: str) -> Backend:
        return TorchBackend(wrap(graph()), spec, checkpoint.spec.classes, kind)

    text = partial(TextEachFrame, vocabulary=checkpoint.vocabulary)
    return {
        EAGER: lambda: opened(lambda g: g, "eager"),
        TEXT: lambda: opened(text, "eager, text"),
        "PyTorch eager, BF16, channels last": lambda: opened(Autocast, "eager, BF16"),
        # Of a second size it would else make kernels for any, and be slow.
        "torch.compile": lambda: opened(partial(torch.compile, dynamic=False), "compiled"),
    }


def exported(
    checkpoint: Checkpoint, bundle: Bundle, tiles: NDArray[np.uint8], out: Path
) -> Mapping[str, Callable[[], Backend]]:
    """The plain export in other engines, and other tools' INT8 of it."""
    plain = out / "plain.onnx"
    if not plain.exists():
        model = build_model(checkpoint)
        network = ConstantText(model, checkpoint.bank)
        graph = DeployGraph(network, model.spec.mean, model.spec.std, logits=False).eval()
        write_onnx(graph, bundle.input, plain)
    made = {name: out / name for name in ("static.onnx", "modelopt.onnx", "nncf.xml")}
    quantize_static(plain, tiles, made["static.onnx"], "defaults")
    modelopt(plain, tiles, made["modelopt.onnx"], "max")
    nncf(plain, tiles, made["nncf.xml"])
    onnxruntime = partial(OnnxRuntimeBackend, threads=THREADS)
    openvino = partial(OpenVinoBackend, threads=THREADS, precision=precisions()[-1])
    return {
        "ONNX Runtime, plain export": lambda: onnxruntime(plain),
        "ONNX Runtime, quantize_static defaults": lambda: onnxruntime(made["static.onnx"]),
        "OpenVINO, plain export": lambda: openvino(plain),
        # ONNX Runtime refuses to run what modelopt writes unless told not to optimise it.
        "OpenVINO, modelopt INT8 max": lambda: openvino(made["modelopt.onnx"]),
        "OpenVINO + NNCF INT8 defaults": lambda: openvino(made["nncf.xml"]),
    }


def measure(segmenters: Mapping[str, Segmenter], data: Dataset) -> list[dict[str, Any]]:
    """MIoU on val, and milliseconds of one window, all in turns."""
    first = next(iter(segmenters.values()))
    side = first.spec.height
    pixels = data.read(data.names("val")[0]).frame.pixels[:side, :side]
    frame = Frame(np.ascontiguousarray(pixels), "the first tile of val")
    found = {}
    for name, segmenter in segmenters.items():
        # Its labels are those of the row above by construction, and seven images take it minutes.
        found[name] = found[EAGER] if name == TEXT else score(segmenter, data.samples("val"))
        print(f"  scored {name}: {found[name].confusion.miou:.4f}", file=sys.stderr, flush=True)
    times: dict[str, list[float]] = {name: [] for name in segmenters}
    rng = np.random.default_rng(0)
    for turn in range(WARM_UP + ROUNDS):
        for name in rng.permutation(list(segmenters)):
            gc.collect()
            segmenters[name].segment(frame)  # threads of the one before may spin on for a while
            started = time.perf_counter()
            segmenters[name].segment(frame)
            if turn >= WARM_UP:
                times[name].append(1e3 * (time.perf_counter() - started))
    reference = np.array(times[EAGER])
    rows = []
    for name, accuracy in found.items():
        ratios = reference / np.array(times[name])
        rows.append(
            {
                "name": name,
                "backend": segmenters[name].backend.name,
                "size": side,
                "miou": accuracy.confusion.miou,
                "drop": miou_drop(found[EAGER], accuracy).to_json(),
                "ms": times[name],
                "median_ms": median(times[name]),
                "speed_up": float(np.median(ratios)),
            }
        )
    return rows


def sweep(data: Path, sizes: list[int]) -> tuple[dict[int, Path], dict[int, Any]]:
    """The report, and for each size the engine that keeps the limit and the row it is on."""
    bundles = []
    for side in sizes:
        bundles.append(OUT / "peers" / f"dubai-{side}")
        if not bundles[-1].is_dir():
            export_bundle(EXAMPLE, bundles[-1], spec=InputSpec(side, side))

    def report(what: str, done: int, total: int) -> None:
        print(f"\r\033[K{what} {done}/{total}", end="", file=sys.stderr, flush=True)

    request = Request(
        bundles=bundles,
        dataset=data,
        calib=data,
        out=OUT / "report",
        targets=("openvino",),
        samples=SAMPLES,
        limits=LIMITS,
        boards="orin-nano,orin-nx,agx-orin,thor",
        altitude=100,
        speed=15,
        camera="dji-p1",
    )
    done = benchmark_bundles(prepare_sweep(request, report), report)
    found = done.results
    print(f"\r\033[K{done.page}", file=sys.stderr)
    places = {row.name: (row.percentile(LIMITS.percentile), row.miou) for row in found.rows}
    front = pareto_front(places)
    engines, best = {}, {}
    for side in sizes:
        rows = [row for row in found.rows if row.window == (side, side)]
        best[side] = recommend(rows, LIMITS).row
        if best[side] is None:
            raise SystemExit(f"no engine at {side}² keeps {100 * MOST_LOST:g} points")
        engines[side] = found.engines[best[side].name]
        print(f"{side}²: {best[side].name}{', on the front' * (best[side].name in front)}")
    return engines, best


def main() -> None:
    """Run it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=ROOT.parent / "shared/data/dubai")
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024])
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    engines, best = sweep(arguments.data, arguments.sizes)
    checkpoint = load_checkpoint(EXAMPLE)
    data = open_dataset(arguments.data, checkpoint.vocabulary)
    rows = []
    for side, engine in engines.items():
        torch.compiler.reset()
        bundle = load_bundle(OUT / "peers" / f"dubai-{side}")
        pool = find_tiles([arguments.data], bundle.input, exclude=arguments.data)
        tiles = np.stack([pixels for _, pixels in select_tiles(pool, TILES)])
        folder = OUT / "peers" / str(side)
        folder.mkdir(parents=True, exist_ok=True)
        backends = {
            **in_pytorch(checkpoint, bundle.input),
            **exported(checkpoint, bundle, tiles, folder),
        }
        segmenters = {
            name: Segmenter(opened(), bundle.input, bundle.vocabulary)
            for name, opened in backends.items()
        }
        segmenters[f"ours: {best[side].name}"] = open_segmenter(engine, threads=THREADS)
        rows += [row | {"tiles": len(tiles)} for row in measure(segmenters, data)]
        for segmenter in segmenters.values():
            segmenter.backend.close()
        record(
            "peers", rows, threads=THREADS, warm_up=WARM_UP, rounds=ROUNDS, torch=torch.__version__
        )
        print(table(rows), flush=True)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, the slowest first."""
    cells = [
        [
            f"{row['size']}²",
            row["name"],
            f"{row['median_ms']:.1f}",
            f"{row['speed_up']:.2f}×",
            f"{row['miou']:.4f}",
            delta_miou(row["drop"]),
        ]
        for row in sorted(rows, key=lambda row: (row["size"], -row["median_ms"]))
    ]
    header = ["window", "what", "ms", "PyTorch eager", "mIoU", "ΔmIoU, points [95 %]"]
    return markdown(header, cells)


if __name__ == "__main__":
    main()
