"""``export``: a checkpoint becomes a bundle, and the bundle carries the proof that it is the same."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts import (
    BUNDLE_SCHEMA,
    MODEL_FILE,
    RECORD_FILE,
    Bundle,
    InputSpec,
    load_bundle,
    replace_directory,
    sha256_file,
    write_json,
)
from segclip_deploy.errors import BadInput
from segclip_deploy.export.fold import fold
from segclip_deploy.export.graph import ConstantText, DeployGraph
from segclip_deploy.export.onnx import OPSET, drop_output, write_onnx
from segclip_deploy.export.parity import check_parity, measure_parity
from segclip_deploy.export.torch_backend import TorchBackend
from segclip_deploy.model.checkpoint import build_model, load_checkpoint
from segclip_deploy.runtime.backends.base import Backend
from segclip_deploy.runtime.backends.onnxruntime import OnnxRuntimeBackend
from segclip_deploy.runtime.frame import Frame, list_images, prepare, read_frame

__all__ = ["export_bundle"]

_STRIDE = 32  # of the encoder's coarsest map
_TOOLS = ("torch", "onnx", "onnxscript", "onnxslim", "onnxruntime", "numpy")


def export_bundle(
    checkpoint_path: Path,
    out: Path,
    *,
    spec: InputSpec,
    logits: bool = False,
    tiles: Path | None = None,
) -> Bundle:
    """Fold the text into a checkpoint's model and export it, after proving parity on real tiles.

    Args:
        checkpoint_path: a checkpoint.
        out: the bundle directory; an older bundle there is replaced.
        spec: input size, multiples of 32.
        logits: keep the logits as a second output, for blending windows.
        tiles: folder of images to measure parity on; by default the checkpoint's own examples.

    Raises:
        BadArtifact: the checkpoint cannot be used.
        BadInput: a size that is no multiple of 32, or no tile to measure on.
        GateFailed: the exported graph is not the PyTorch model; nothing is written.
    """
    if (
        spec.height % _STRIDE
        or spec.width % _STRIDE
        or min(spec.height, spec.width, spec.batch) < 1
    ):
        raise BadInput(
            f"{spec.height}x{spec.width} is not a size in multiples of {_STRIDE}",
            where="--size",
        )
    checkpoint = load_checkpoint(checkpoint_path)
    names = checkpoint.vocabulary.names
    batches = list(_batches(tiles, checkpoint.examples, spec))
    if not batches:
        raise BadInput(
            "the checkpoint carries no example tiles, and parity is measured on real ones",
            where=checkpoint_path,
            fix="give a folder of images: --tiles DIR",
        )
    model = build_model(checkpoint)
    mean, std = checkpoint.spec.mean, checkpoint.spec.std
    plain = DeployGraph(ConstantText(model, checkpoint.bank), mean, std, logits=True)
    network = fold(model, checkpoint.bank, spec.height, spec.width)
    folded = DeployGraph(network, mean, std, logits=True).eval()
    with replace_directory(out, contents=(MODEL_FILE, RECORD_FILE)) as temporary:
        onnx = temporary / MODEL_FILE
        write_onnx(folded, spec, onnx)
        reference = TorchBackend(plain, spec, len(names))
        chain: list[Backend] = [
            TorchBackend(folded, spec, len(names), "folded"),
            OnnxRuntimeBackend(onnx),
        ]
        parity = [measure_parity(reference, engine, batches, names) for engine in chain]
        for link in parity:
            check_parity(link)
        if not logits:
            drop_output(onnx, "logits")
        write_json(
            temporary / RECORD_FILE,
            {
                "schema": BUNDLE_SCHEMA,
                "input": {"height": spec.height, "width": spec.width, "batch": spec.batch},
                "outputs": ["labels", "logits"] if logits else ["labels"],
                "precision": "fp32",
                "opset": OPSET,
                "model": checkpoint.spec.to_json(),
                "vocabulary": checkpoint.vocabulary.to_json(),
                "text_encoder": checkpoint.bank.encoder,
                "model_sha256": sha256_file(onnx),
                "parents": {"checkpoint": sha256_file(checkpoint_path)},
                "parity": [link.to_json() for link in parity],
                "folding": [block.to_json() for block in network.table],
                "tools": {name: version(name) for name in _TOOLS},
            },
        )
    return load_bundle(out)


def _batches(
    tiles: Path | None, examples: NDArray[np.uint8], spec: InputSpec
) -> Iterator[NDArray[np.uint8]]:
    """Real tiles at the input's size: each image's upper left window, repeated to fill a batch."""
    if tiles is not None:
        frames = [read_frame(path) for path in list_images(tiles)]
    else:
        frames = [Frame(pixels, "example") for pixels in examples]
    for frame in frames:
        window = prepare(frame, spec.height, spec.width)[: spec.height, : spec.width]
        yield np.repeat(window[None], spec.batch, axis=0)
