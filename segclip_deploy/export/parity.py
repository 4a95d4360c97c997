"""Parity: is the exported graph still the PyTorch model? Measured on real tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.bundle_record import Parity
from segclip_deploy.artifacts.golden import Golden
from segclip_deploy.artifacts.scheme import Lowering
from segclip_deploy.errors import GateFailed
from segclip_deploy.runtime.inference.backend import Backend
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from segclip_deploy.runtime.verify import MAX_LOGIT_ERROR, MIN_AGREEMENT

__all__ = ["answers_of", "check_parity", "measure_parity", "run_reference", "sqnr"]


def answers_of(reference: Backend, tiles: NDArray[np.uint8]) -> Golden:
    """What the reference says of each tile (N, H, W, 3), in the first slot of its smallest batch."""
    labels, logits = [], []
    for tile in tiles:
        outputs = reference.infer({"image": _filled(tile, reference.inputs[0].batches.start)})
        labels.append(outputs["labels"][0].copy())
        logits.append(outputs["logits"][0].copy())
    return Golden(tiles, np.stack(labels), np.stack(logits))


def run_reference(model: Path, tiles: NDArray[np.uint8], batches: range) -> Golden:
    """The reference run of tiles (N, H, W, 3): ONNX Runtime with its optimizations off."""
    with OnnxRuntimeBackend(model, batches=batches, reference=True) as backend:
        return answers_of(backend, tiles)


def measure_parity(
    reference: str,
    answers: Golden,
    engine: Backend,
    names: tuple[str, ...],
    graph: Lowering | None = None,
) -> Parity:
    """Compare logits and labels of an engine with a reference's, in every slot of the largest batch.

    Args:
        reference: the name of what gave the answers.
        answers: from ``answers_of``.
        names: class names, by class index.
        graph: that the engine runs, to be named beside it; None where that is told already.
    """
    worst, total, count, pixels, seen = 0.0, 0.0, 0, 0, 0
    flips = np.zeros(len(names), dtype=np.int64)
    for tile, labels, logits in zip(answers.tiles, answers.labels, answers.logits, strict=True):
        got = engine.infer({"image": _filled(tile, engine.inputs[0].shape[0])})
        error = np.abs(got["logits"] - logits).astype(np.float64)
        # A NaN must fail the gate, and max() would not carry it.
        worst = max(worst, float(error.max())) if np.isfinite(error).all() else np.inf
        total += float(error.sum())
        count += error.size
        differ = got["labels"] != labels
        flips += np.bincount(np.broadcast_to(labels, differ.shape)[differ], minlength=len(names))
        pixels += differ.size
        seen += len(differ)
    return Parity(
        reference=reference,
        engine=engine.name if graph is None else f"{engine.name}, graph for {graph.value}",
        tiles=seen,
        max_logit_error=worst,
        mean_logit_error=total / count,
        label_agreement=1 - float(flips.sum()) / pixels,
        flips=dict(zip(names, flips.tolist(), strict=True)),
    )


def check_parity(parity: Parity) -> None:
    """Pass, or say by how much not.

    Raises:
        GateFailed: logits or labels differ by more than verification allows.
    """
    if not parity.max_logit_error <= MAX_LOGIT_ERROR:
        raise GateFailed(
            f"{parity.engine} differs from {parity.reference} by {parity.max_logit_error:.2g} in "
            f"logits (tolerance {MAX_LOGIT_ERROR:g}); nothing was written"
        )
    if not parity.label_agreement >= MIN_AGREEMENT["fp32"]:
        raise GateFailed(
            f"{parity.engine} agrees with {parity.reference} on {parity.label_agreement:.4%} of the "
            f"labels (at least {MIN_AGREEMENT['fp32']:.2%} was needed); nothing was written"
        )


def sqnr(reference: NDArray[np.float32], values: NDArray[np.float32]) -> float:
    """Signal to quantization noise, 10 log10(Σ r² / Σ (r − v)²), in dB; finite without noise."""
    noise = np.square(reference - values, dtype=np.float64).sum()
    signal = np.square(reference, dtype=np.float64).sum()
    powers = np.maximum([signal, noise], np.finfo(float).tiny)
    return float(10 * -np.diff(np.log10(powers))[0])


def _filled(tile: NDArray[np.uint8], batch: int) -> NDArray[np.uint8]:
    """A batch with the same tile in every slot."""
    return np.repeat(tile[None], batch, axis=0)
