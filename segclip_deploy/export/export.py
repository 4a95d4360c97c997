"""``export``: a checkpoint becomes a bundle, and the bundle carries the proof that it is the same."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.bundle import (
    BUNDLE_FILES,
    GOLDEN_FILE,
    TEXT_FILE,
    Bundle,
    InputSpec,
    load_bundle,
    write_bundle,
)
from segclip_deploy.artifacts.bundle_record import MODEL_FILES, BundleRecord, Parents
from segclip_deploy.artifacts.files import replace_directory, sha256_file
from segclip_deploy.artifacts.golden import Golden, load_golden
from segclip_deploy.artifacts.scheme import Lowering
from segclip_deploy.errors import BadInput
from segclip_deploy.evaluation.dataset import Dataset
from segclip_deploy.export.costs import count_blocks
from segclip_deploy.export.fold import fold_network, fold_temperature
from segclip_deploy.export.graph import ConstantText, DeployGraph, ExportGraph
from segclip_deploy.export.lowering import lower
from segclip_deploy.export.onnx import OPSET, drop_output, write_onnx
from segclip_deploy.export.parity import answers_of, check_parity, measure_parity
from segclip_deploy.export.temperature import calibrate_confidence
from segclip_deploy.export.text_weights import save_text_weights, text_constants
from segclip_deploy.export.torch_backend import TorchBackend
from segclip_deploy.model.checkpoint import load_checkpoint, load_weights
from segclip_deploy.model.compute import repeatable
from segclip_deploy.model.failures import one_line_for
from segclip_deploy.model.network import load_factory, try_network
from segclip_deploy.progress import Report, silent
from segclip_deploy.runtime.inference.frame import Frame, list_images, prepare, read_frame
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from segclip_deploy.runtime.verify import verify

__all__ = ["export_bundle"]

_GOLDEN = 2  # tiles a bundle carries for verification
_STRIDE = 32  # of the encoder's coarsest map
_TOOLS = ("torch", "onnx", "onnxscript", "onnxslim", "onnxruntime", "numpy")


def export_bundle(
    checkpoint_path: Path,
    out: Path,
    *,
    spec: InputSpec,
    model: str | None = None,
    margin: bool = False,
    logits: bool = False,
    lowerings: Sequence[Lowering] = tuple(Lowering),
    tiles: Path | None = None,
    device: str = "cpu",
    confidence: Dataset | None = None,
    report: Report = silent,
) -> Bundle:
    """Fold the text into a checkpoint's model and export it, after proving parity on real tiles.

    Args:
        checkpoint_path: a checkpoint.
        out: the bundle directory; an older bundle there is replaced.
        spec: input size, multiples of 32, and batches.
        model: ``package.module:function`` that makes the network; None for SegCLIP.
        margin: also output how clear each decision is.
        logits: keep the logits as an output, for blending windows.
        lowerings: of the graphs that the bundle holds; at least one.
        tiles: folder of images to measure parity on; by default the checkpoint's own examples.
        device: that PyTorch computes parity, and a temperature, on, as it calls it.
        confidence: on its split ``plan`` one temperature is fitted, and all logits are divided by it; None
            leaves them as they were trained. Parity is then against PyTorch with its logits divided.
        report: told how far the fit is.

    Raises:
        BadArtifact: the checkpoint cannot be used.
        BadInput: a size that is no multiple of 32, no tile to measure on, a margin of one class,
            several batches of a network that fixes one, or a network that fails, that decides by
            the image, or that has an operator without a form in ONNX: the user's line is named.
            A dataset that no temperature can be fitted on.
        GateFailed: the exported graph is not the PyTorch model; nothing is written.
    """
    sides = (spec.height, spec.width)
    if any(side < _STRIDE or side % _STRIDE for side in sides):
        raise BadInput(
            f"{spec.height}x{spec.width} is not a size in multiples of {_STRIDE}",
            where="--size",
        )
    checkpoint = load_checkpoint(checkpoint_path)
    real = _tiles(tiles, checkpoint.examples, spec)
    if not len(real):
        raise BadInput(
            "the checkpoint carries no example tiles, and parity is measured on real ones",
            where=checkpoint_path,
            fix="give a folder of images: --tiles DIR",
        )
    network = load_weights(load_factory(model)(checkpoint.spec), checkpoint)
    where = f"--model {model}" if model else str(checkpoint_path)
    try_network(network, checkpoint.bank, spec.height, spec.width, where=where)
    mean, std = checkpoint.spec.mean, checkpoint.spec.std
    with one_line_for("its fold fails", where=where):
        folded_network, table, text = fold_network(network, checkpoint.bank, spec)
    folded = ExportGraph(folded_network, mean, std, logits=True, margin=margin).eval()
    plain = DeployGraph(
        ConstantText(network, checkpoint.bank), mean, std, logits=True, margin=margin
    )
    names = checkpoint.vocabulary.names
    with replace_directory(out, contents=BUNDLE_FILES) as temporary:
        temperature = None
        if confidence:
            with repeatable(device):
                segmenter = Segmenter(
                    TorchBackend(plain.to(device), spec, len(names)), spec, checkpoint.vocabulary
                )
                temperature = calibrate_confidence(
                    segmenter,
                    confidence,
                    stopped_on=checkpoint.training.plan.images if checkpoint.training else (),
                    report=report,
                )
            plain.to("cpu")  # it may share its network with the graph, which is traced there
            plain.temperature = temperature.value
            fold_temperature(folded, temperature.value)
        graphs = {lowering: temporary / MODEL_FILES[lowering] for lowering in lowerings}
        constants = text_constants(text, checkpoint.bank) if text else ()
        for lowering, onnx in graphs.items():
            lower(folded, lowering)
            with one_line_for("it cannot be exported to ONNX", where=where):
                write_onnx(folded, spec, onnx, text=constants)
        parity = []
        with repeatable(device):
            reference = TorchBackend(plain.to(device), spec, len(names))
            answers = answers_of(reference, real)
            for lowering in graphs:
                lower(folded, lowering)
                with one_line_for("its folded forward fails", where=where):
                    kind = f"folded for {lowering.value}"
                    own = TorchBackend(folded.to(device), spec, len(names), kind)
                    parity.append(measure_parity(reference.name, answers, own, names))
        for lowering, onnx in graphs.items():
            with OnnxRuntimeBackend(onnx, batches=spec.batches) as exported:
                parity.append(measure_parity(reference.name, answers, exported, names, lowering))
        for link in parity:
            check_parity(link)
        if text:
            save_text_weights(temporary / TEXT_FILE, text)
        if not logits:
            for onnx in graphs.values():
                drop_output(onnx, "logits")
        record = BundleRecord(
            input=spec,
            outputs=tuple(name for name in folded.output_names if logits or name != "logits"),
            precision="fp32",
            opset=OPSET,
            factory=model,
            model=checkpoint.spec,
            vocabulary=checkpoint.vocabulary,
            text_encoder=checkpoint.bank.encoder,
            trained_for_int8=checkpoint.training.int8 if checkpoint.training else (),
            files={},
            parents=Parents(
                checkpoint=sha256_file(checkpoint_path),
                whole=checkpoint.compaction.parent if checkpoint.compaction else None,
            ),
            parity=tuple(parity),
            folding=table,
            blocks=tuple(count_blocks(graphs[lowerings[0]])),
            tools={name: version(name) for name in _TOOLS},
            temperature=temperature,
        )
        kept = slice(_GOLDEN)
        golden = Golden(real[kept], answers.labels[kept], answers.logits[kept])
        write_bundle(temporary, record, golden)
        # Verification has the last word, on the very files that are handed over.
        for onnx in graphs.values():
            with OnnxRuntimeBackend(onnx, batches=spec.batches) as flown:
                verify(flown, load_golden(temporary / GOLDEN_FILE), names).require(where=out)
    return load_bundle(out)


def _tiles(folder: Path | None, examples: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.uint8]:
    """Real tiles (N, H, W, 3) of the input's size: each image's upper left window."""
    if folder is not None:
        frames = [read_frame(path) for path in list_images(folder)]
    else:
        frames = [Frame(pixels, "example") for pixels in examples]
    size = (slice(spec.height), slice(spec.width))
    windows = [prepare(frame, spec.height, spec.width)[size] for frame in frames]
    return np.stack(windows) if windows else np.zeros((0, spec.height, spec.width, 3), np.uint8)
