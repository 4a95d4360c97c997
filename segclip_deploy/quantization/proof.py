"""Proof of a quantized model: what it says on the golden tiles, and how far that is from FP32."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.artifacts.bundle_record import Quality
from segclip_deploy.artifacts.golden import Golden
from segclip_deploy.errors import GateFailed
from segclip_deploy.export.onnx_model import load_model, save_model
from segclip_deploy.export.parity import run_reference, sqnr
from segclip_deploy.quantization.fp16_emulation import round_as_fp16

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["prove"]


def prove(
    model: ir.Model, bundle: Bundle, golden: Golden, *, where: Path
) -> tuple[NDArray[np.uint8], Quality]:
    """Run a quantized model in the reference run, and once more with FP16 rounded.

    Args:
        model: with its logits among the outputs; it stays as it is.
        bundle: in FP32, that it was made of.
        golden: the bundle's.
        where: the bundle it will be, for errors.

    Returns:
        Labels (N, H, W) of the reference run; and how far the rounded one is from FP32.

    Raises:
        GateFailed: a logit is not finite.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / bundle.model_path.name
        save_model(model, path)
        reference = answers = run_reference(path, golden.tiles, bundle.input.batches)
        copy = load_model(path)
        if round_as_fp16(copy.graph):
            save_model(copy, path)
            answers = run_reference(path, golden.tiles, bundle.input.batches)
    if not np.isfinite(answers.logits).all():
        tile = int(np.flatnonzero(~np.isfinite(answers.logits).all(axis=(1, 2, 3)))[0])
        raise GateFailed(f"logits are not finite on golden tile {tile}", where=where)
    differ = answers.labels != golden.labels
    flips = np.bincount(golden.labels[differ], minlength=len(bundle.vocabulary.names))
    return reference.labels, Quality(
        label_agreement=float(1 - differ.mean()),
        reference_agreement=float((answers.labels == reference.labels).mean()),
        logit_sqnr_db=sqnr(golden.logits, answers.logits),
        flips=dict(zip(bundle.vocabulary.names, flips.tolist(), strict=True)),
    )
