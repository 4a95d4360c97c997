"""Plain export against folded, same weights: one CFF level alone, and the whole model.

    python benchmarks/fold.py [--widths 64 128 256] [--sizes 512 1024] [--runs 40]

Both graphs run alternately in one process, after five warm-up runs. A ratio is the median of
plain / folded, pair by pair, with a 95 % bootstrap interval of that median. Weights are random:
time does not depend on them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import record
from torch import Tensor, nn

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.model_spec import ModelSpec
from segclip_deploy.export.algebra import Weights, fold_fusion
from segclip_deploy.export.fold import fold
from segclip_deploy.export.folded import FoldedFusion, arrays_of
from segclip_deploy.export.graph import ConstantText, DeployGraph
from segclip_deploy.export.onnx import OPSET, write_onnx
from segclip_deploy.model.cff import CrossModalFusion
from segclip_deploy.model.segclip import SegCLIP
from segclip_deploy.model.text import TextBank, unit_rows
from segclip_deploy.runtime.inference.backend import Backend
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from segclip_deploy.runtime.targets.openvino import OpenVinoBackend, precisions

CLASSES, TEXTS, THREADS, WARM_UP = 5, 5, 2, 5
ENGINES: dict[str, Callable[..., Backend]] = {
    "ONNX Runtime": OnnxRuntimeBackend,
    # BF16 only where the processor has it.
    **{f"OpenVINO {p}": partial(OpenVinoBackend, precision=p) for p in precisions()},
}


class Level(nn.Module):
    """A CFF level with its text as constants."""

    def __init__(self, level: nn.Module, text: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.level = level
        self.register_buffer("text", text)
        self.register_buffer("scale", scale)

    def forward(self, vision: Tensor) -> Any:
        """(B, C, h, w) → V', T_l, S."""
        return self.level(vision, self.text, self.scale)


def write_level(path: Path, width: int, side: int) -> dict[str, Path]:
    """A plain and a folded level over side × side tokens."""
    level, text = CrossModalFusion(width, 4).eval(), torch.randn(CLASSES, width)
    scale = torch.tensor(10.0)
    weights = Weights(arrays_of(level.state_dict()))
    folded = FoldedFusion(level, fold_fusion(weights, 4, text.double().numpy()))
    forms = {"plain": level, "folded": folded.float()}
    files = {}
    for name, form in forms.items():
        files[name] = path / f"level_{name}_{width}.onnx"
        torch.onnx.export(
            Level(form, text, scale).eval(),
            (torch.zeros(1, width, side, side),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["vision"],
            output_names=["fused", "answer", "score_map"],
            external_data=False,
            verbose=False,
        ).save(files[name])
    return files


def write_models(path: Path, width: int, size: int) -> dict[str, Path]:
    """The default model, plain and folded, labels out."""
    rng = np.random.default_rng(0)
    spec = ModelSpec(classes=CLASSES, text_width=512, width=width)
    bank = TextBank(
        unit_rows(rng.standard_normal((CLASSES, 512))),
        unit_rows(rng.standard_normal((CLASSES, TEXTS, 512))),
        "random",
    )
    model = SegCLIP(spec).eval()
    forms = {"plain": ConstantText(model, bank), "folded": fold(model, bank, size, size)}
    files = {}
    for name, form in forms.items():
        files[name] = path / f"model_{name}_{width}_{size}.onnx"
        graph = DeployGraph(form, spec.mean, spec.std, logits=False).eval()
        write_onnx(graph, InputSpec(height=size, width=size), files[name])
    return files


def compare(files: dict[str, Path], runs: int) -> list[dict[str, Any]]:
    """Time both files in every engine, alternating."""
    rows = []
    for engine, open_backend in ENGINES.items():
        backends = {name: open_backend(file, threads=THREADS) for name, file in files.items()}
        (spec,) = backends["plain"].inputs
        rng = np.random.default_rng(0)
        array = (
            rng.integers(0, 256, spec.shape, dtype=np.uint8)
            if spec.dtype == np.uint8
            else rng.standard_normal(spec.shape).astype(np.float32)
        )
        times: dict[str, list[float]] = {name: [] for name in files}
        for _ in range(WARM_UP + runs):
            for name, backend in backends.items():
                started = time.perf_counter()
                backend.infer({spec.name: array})
                times[name].append(1e3 * (time.perf_counter() - started))
        plain, folded = (np.array(times[name][WARM_UP:]) for name in ("plain", "folded"))
        ratios = plain / folded
        samples = rng.choice(ratios, (2000, runs))
        low, high = np.percentile(np.median(samples, axis=1), (2.5, 97.5))
        rows.append(
            {
                "engine": engine,
                "plain_ms": round(float(np.median(plain)), 2),
                "folded_ms": round(float(np.median(folded)), 2),
                "ratio": round(float(np.median(ratios)), 3),
                "ratio_95": [round(float(low), 3), round(float(high), 3)],
            }
        )
    return rows


def main() -> None:
    """Run it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--runs", type=int, default=40)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for width in arguments.widths:
            jobs = [("CFF level, 64×64", lambda w=width: write_level(Path(folder), w, 64))]
            jobs += [
                (f"model, {s}²", lambda w=width, s=s: write_models(Path(folder), w, s))
                for s in arguments.sizes
            ]
            for what, write in jobs:
                for row in compare(write(), arguments.runs):
                    results.append({"what": what, "width": width, **row})
                    low, high = row["ratio_95"]
                    print(
                        f"{what:17} C={width:<4} {row['engine']:13} plain {row['plain_ms']:8.2f} ms  "
                        f"folded {row['folded_ms']:8.2f} ms  ratio {row['ratio']:.3f} "
                        f"[{low:.3f}, {high:.3f}]",
                        flush=True,
                    )
    record(
        "fold",
        results,
        threads=THREADS,
        warm_up=WARM_UP,
        runs=arguments.runs,
        classes=CLASSES,
        torch=torch.__version__,
    )


if __name__ == "__main__":
    main()
