"""Both graphs of a bundle in every precision: proven in ONNX Runtime, and built in TensorRT-RTX.

    python benchmarks/builds.py [--models example RN50 "RN50 pruned"] [--graphs cpu nvidia] [--size 256]

Needs the extra `rtx` and no GPU: an engine is built ahead of time and never run. The models: the
shipped example, and CLIP's RN50 and ViT-B/16 with random weights and the example's texts, whose
labels mean nothing; both whole, and with half of their channels, as `compact` prunes. Of each graph: FP32, FP16, INT8, and a planned mix, in which the blocks that can be
INT8 are INT8, FP16 and FP32 in turns. Every engine is built in a process of its own.

Bundles are kept in out/benchmarks/builds: delete that folder after a change of the code that makes them.
A run that was killed goes on. A row is measured again if its bundle or TensorRT-RTX is another, or if
something in it failed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from record import ROOT, markdown, record, record_path

from segclip_deploy import api
from segclip_deploy.artifacts.bundle import Bundle, load_bundle
from segclip_deploy.artifacts.files import read_json
from segclip_deploy.artifacts.model_spec import ModelSpec
from segclip_deploy.artifacts.plan import save_plan
from segclip_deploy.artifacts.records import replace
from segclip_deploy.artifacts.scheme import Precision, Scheme
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.errors import SegclipError
from segclip_deploy.export.onnx_model import load_model
from segclip_deploy.model.checkpoint import Checkpoint, build_model, save_checkpoint
from segclip_deploy.model.segclip import SegCLIP
from segclip_deploy.model.text import load_text_bank
from segclip_deploy.quantization.placement import uniform_plan
from segclip_deploy.runtime.inference.frame import read_frame
from segclip_deploy.training.prunable import find_prunable_channels
from segclip_deploy.training.prune import prune

OUT = ROOT / "out" / "benchmarks" / "builds"
EXAMPLE = ROOT / "examples" / "dubai"
ENCODERS = {"RN50": "open_clip:RN50", "ViT-B-16": "open_clip:ViT-B-16"}
PRUNED = " pruned"
MODELS = ("example", *ENCODERS, *(name + PRUNED for name in ENCODERS))
GRAPHS = ("cpu", "nvidia")
PRECISIONS = ("fp32", "fp16", "int8", "planned")
CAPABILITIES = ("86", "89", "120")
IN_TURNS: tuple[Precision, ...] = ("int8", "fp16", "fp32")
TILES = 16  # the fewest that calibration takes
LIMIT_S = 1800  # of one build


@dataclass(frozen=True)
class Subject:
    """A model in one graph.

    Attributes:
        model: of ``MODELS``.
        graph: of ``GRAPHS``.
        size: of the square input, pixels.
    """

    model: str
    graph: str
    size: int

    @property
    def folder(self) -> Path:
        """Where its bundles are kept."""
        return OUT / f"{self.model}-{self.graph}-{self.size}"

    def checkpoint(self) -> Path:
        """The model; one with random weights is made when it is first asked for."""
        encoder = ENCODERS.get(self.model.removesuffix(PRUNED))
        if encoder is None:
            return EXAMPLE / "model.safetensors"
        path = OUT / f"{self.model}-{self.size}.safetensors"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = random_model(encoder, self.size)
            save_checkpoint(path, halved(whole) if self.model.endswith(PRUNED) else whole)
        return path

    def bundle(self, precision: str) -> Bundle:
        """The bundle in a precision; it is kept once made.

        Raises:
            SegclipError: a gate of the package refuses it.
        """
        out = self.folder / precision
        if out.is_dir():
            return load_bundle(out)
        if precision == "fp32":
            side = (self.size, self.size)
            return api.export(self.checkpoint(), out=out, size=side, for_=self.graph)
        source = self.bundle("fp32")
        if precision == "fp16":
            return api.quantize(source.path, out=out, scheme="tensorrt", precision="fp16")
        table = self.folder / "table.json"
        if not table.exists():
            api.calibrate(source.path, tiles=[EXAMPLE / "images"], out=table, select=TILES)
        if precision == "int8":
            return api.quantize(
                source.path, out=out, scheme="tensorrt", precision="int8", table=table
            )
        plan = self.folder / "plan.yaml"
        write_mix(source, plan)
        return api.quantize(source.path, out=out, plan=plan, table=table)


def random_model(encoder: str, size: int) -> Checkpoint:
    """A SegCLIP with random weights, the example's texts, and four crops of its images to prove parity on."""
    import torch

    vocabulary = load_vocabulary("dubai")
    bank = load_text_bank(str(EXAMPLE / "text_bank.safetensors"), vocabulary)
    spec = ModelSpec(
        classes=len(vocabulary.classes), text_width=bank.classes.shape[1], encoder=encoder
    )
    torch.manual_seed(0)
    weights = SegCLIP(spec).state_dict()
    images = sorted((EXAMPLE / "images").iterdir())[:4]
    tiles = np.stack([read_frame(image).pixels[:size, :size] for image in images])
    return Checkpoint(spec, vocabulary, bank, weights, tiles)


def halved(whole: Checkpoint) -> Checkpoint:
    """A model with half of the channels that ``compact`` can prune, in the multiples of TensorRT."""
    model, multiple = build_model(whole), Scheme.TENSORRT.rules.channels
    kept = {}
    for place in find_prunable_channels(model, 256, 256):
        widths = place.widths(multiple)
        kept[place.name] = range(min(widths, key=lambda width: abs(width - place.count / 2)))
    small = prune(model, kept)
    return dataclasses.replace(whole, spec=small.spec, weights=small.state_dict())


def write_mix(bundle: Bundle, path: Path) -> None:
    """A plan in which the blocks that can be INT8 are INT8, FP16 and FP32 in turns."""
    plan = uniform_plan(bundle, load_model(bundle.model_path).graph, Scheme.TENSORRT, "int8")
    turns = {block: IN_TURNS[index % len(IN_TURNS)] for index, block in enumerate(plan.int8_blocks)}
    save_plan(path, replace(plan, blocks={**plan.blocks, **turns}))


def prove(bundle: Bundle) -> dict[str, Any]:
    """What is known of a bundle without a GPU: parity with PyTorch, labels of FP32, verification."""
    done, parity = bundle.record.quantization, bundle.record.parity
    checks = api.verify(bundle.path).checks
    return {
        "max_logit_error": max(link.max_logit_error for link in parity),
        "parity_labels": min(link.label_agreement for link in parity),
        "fp32_labels": done.quality.label_agreement if done else None,
        "sqnr_db": done.quality.logit_sqnr_db if done else None,
        "plan": dict(done.plan) if done else None,
        "int8_macs": done.int8_macs if done else 0.0,
        "verified": all(check.passed for check in checks),
        "checks": {check.name: check.detail for check in checks},
    }


def build(bundle: Bundle, capability: str) -> dict[str, Any]:
    """Build for a GPU that is not here, by the command: seconds and bytes, or why it failed."""
    with TemporaryDirectory(dir=OUT) as folder:
        words = ["build-engine", str(bundle.path), "-o", str(Path(folder) / "e.rtx")]
        start = "from segclip_deploy.cli import main; main()"
        try:
            done = subprocess.run(
                [
                    *(sys.executable, "-c", start, *words),
                    *("--compute-capability", capability, "--json"),
                ],
                capture_output=True,
                text=True,
                check=False,
                timeout=LIMIT_S,
                cwd=folder,
            )
        except subprocess.TimeoutExpired:
            return {"failed": f"it took longer than {LIMIT_S} s"}
    if done.returncode:
        told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        return {"failed": told[-1] if told else f"ended with {done.returncode}"}
    engine = json.loads(done.stdout)
    return {"seconds": engine["built"]["build"]["seconds"], "bytes": engine["bytes"]}


def measure(subject: Subject, precision: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a subject in a precision; ``known`` if that is of the same bundle and library."""
    row: dict[str, Any] = {"model": subject.model, "graph": subject.graph, "size": subject.size}
    row |= {"precision": precision, "library": f"TensorRT-RTX {version('tensorrt-rtx')}"}
    try:
        bundle = subject.bundle(precision)
        row["bundle"] = bundle.sha256
        if all(known.get(name) == value for name, value in row.items()) and not failures(known):
            return dict(known)
        row |= prove(bundle)
    except SegclipError as error:
        return {**row, "failed": str(error)}
    return {**row, "builds": {one: build(bundle, one) for one in CAPABILITIES}}


def failures(row: Mapping[str, Any]) -> list[str]:
    """What went wrong in a row, or is missing."""
    if "builds" not in row:
        return [row.get("failed", "it was not measured")]
    return [
        f"SM {one}: {made['failed']}" for one, made in row["builds"].items() if "failed" in made
    ]


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row of the table."""
    name = [f"{row['model']}, {row['size']}²", row["graph"], row["precision"]]
    if "failed" in row:
        return [*name, "FAILED", *["–"] * (2 + len(CAPABILITIES))]
    labels = row["fp32_labels"]
    return [
        *name,
        f"{row['max_logit_error']:.1e}, {row['parity_labels']:.3%}",
        "–" if labels is None else f"{labels:.2%}, {row['sqnr_db']:.1f} dB",
        f"{'passed' if row['verified'] else 'FAILED'}, {row['checks']['labels'].split()[0]}",
        *(
            "FAILED"
            if "failed" in made
            else f"{made['seconds']:.1f} s, {made['bytes'] / 1e6:.1f} MB"
            for made in row["builds"].values()
        ),
    ]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    header = [
        *("model", "graph", "precision", "parity: max logit error, labels"),
        *("labels as FP32, logits over noise", "verification, labels as the file's"),
        *(f"SM {one[:-1]}.{one[-1]}" for one in CAPABILITIES),
    ]
    return markdown(header, map(cells, rows))


def main() -> None:
    """Run it all, a row after the other; each is written as soon as it is done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--graphs", nargs="+", choices=GRAPHS, default=GRAPHS)
    parser.add_argument("--size", type=int, default=256, help="Of the square input, pixels.")
    arguments = parser.parse_args()
    path = record_path("builds")
    before = read_json(path)["rows"] if path.exists() else []
    key = ("model", "graph", "size", "precision")
    rows = {tuple(row[name] for name in key): row for row in before}
    OUT.mkdir(parents=True, exist_ok=True)
    for model in arguments.models:
        for graph in arguments.graphs:
            subject = Subject(model, graph, arguments.size)
            for precision in PRECISIONS:
                at = (model, graph, arguments.size, precision)
                rows[at] = measure(subject, precision, rows.get(at, {}))
                record("builds", list(rows.values()), capabilities=CAPABILITIES)
                print(" | ".join(cells(rows[at])), *failures(rows[at]), sep="\n", flush=True)
    print(table(list(rows.values())))


if __name__ == "__main__":
    main()
