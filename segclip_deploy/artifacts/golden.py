"""Golden tiles: what the model says of a few real images, to hold any engine against."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.files import UNREADABLE, read_npz, replace_file
from segclip_deploy.errors import BadArtifact

__all__ = ["Golden", "load_golden", "save_golden"]


@dataclass(frozen=True)
class Golden:
    """Tiles and the FP32 model's answers: PyTorch's, or after ``set-texts`` ONNX Runtime's.

    Attributes:
        tiles: (N, H, W, 3) uint8, of the graph's input size.
        labels: (N, H, W) uint8.
        logits: (N, K, H/4, W/4) float32.
        reference: (N, H, W) uint8, a quantized model's labels in the reference run: ONNX Runtime
            with its optimizations off; None in FP32.
        precision: the lowest in the model: fp32, fp16 or int8.
        agreement: share of ``reference`` that stays where all FP16 tensors are rounded, which the
            reference run leaves out; 1 without FP16, None in FP32.

    Raises:
        ValueError: arrays that do not go together.
    """

    tiles: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    logits: NDArray[np.float32]
    reference: NDArray[np.uint8] | None = None
    precision: str = "fp32"
    agreement: float | None = None

    def __post_init__(self) -> None:
        tiles, shape = self.tiles, self.tiles.shape[:3]
        expected = {
            "tiles": tiles.ndim == 4 and tiles.shape[3] == 3 and tiles.dtype == np.uint8,
            "labels": self.labels.shape == shape and self.labels.dtype == np.uint8,
            "logits": self.logits.ndim == 4 and self.logits.dtype == np.float32,
            "reference": self.reference is None
            or (self.reference.shape == shape and self.reference.dtype == np.uint8),
            "precision": self.precision in ("fp32", "fp16", "int8"),
        }
        wrong = [name for name, right in expected.items() if not right]
        if wrong or not tiles.size:
            raise ValueError(f"{wrong[0] if wrong else 'tiles'} cannot be those of golden tiles")


def save_golden(path: Path, golden: Golden) -> None:
    """Write as ``.npz``, atomically."""
    arrays = {key: value for key, value in vars(golden).items() if value is not None}
    with replace_file(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def load_golden(path: Path) -> Golden:
    """Read golden tiles.

    Raises:
        BadArtifact: missing, damaged, or arrays of other shapes or kinds.
    """
    arrays = read_npz(path)
    if "literal" in arrays:  # its name before bundles of schema 3
        arrays["reference"] = arrays.pop("literal")
    try:
        measured = arrays.get("agreement")
        scalars: dict[str, Any] = {
            "precision": str(arrays["precision"]),
            "agreement": None if measured is None else float(measured),
        }
        return Golden(**arrays | scalars)
    except UNREADABLE as error:
        raise BadArtifact(f"not golden tiles ({error})", where=path) from error
