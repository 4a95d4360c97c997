"""How large the tensors of a graph get, for what would overflow FP16."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy._optional import require
from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.export.onnx_model import load_model, observer

__all__ = ["find_extremes"]

_LOOKED_AT = 2**29  # bytes of tensors that are kept to look at in one run


def find_extremes(bundle: Bundle, tiles: NDArray[np.uint8]) -> dict[str, tuple[float, str]]:
    """Largest magnitude of every float tensor of the FP32 graph, and the golden tile with it."""
    model = load_model(bundle.model_path)
    ir = require("onnx_ir", why="quantization")
    batch = bundle.input.batches.start
    values = [v for n in model.graph for v in n.outputs if v.dtype == ir.DataType.FLOAT]
    found: dict[str, tuple[float, str]] = {}
    for group in _groups(values, batch):
        found |= _largest(model, [value.name for value in group], tiles, batch)
    return found


def _largest(
    model: Any, names: Sequence[str], tiles: NDArray[np.uint8], batch: int
) -> dict[str, tuple[float, str]]:
    run = observer(model, names)
    found: dict[str, tuple[float, str]] = {}
    for index, tile in enumerate(tiles):
        pixels = np.repeat(tile[None], batch, axis=0)
        for name, array in zip(names, run(pixels), strict=True):
            top = float(max(array.max(), -array.min()))  # of NaN these are NaN
            if not top <= found.get(name, (-1.0, ""))[0]:
                found[name] = (top, f"golden tile {index}")
    return found


def _groups(values: Iterable[Any], batch: int) -> Iterator[list[Any]]:
    """Float tensors in groups that are small enough to be looked at together.

    All at once they are larger than what the model needs to run, as none can be freed.
    """
    group: list[Any] = []
    size = 0
    for value in values:
        own = 4 * prod(side if isinstance(side, int) else batch for side in value.shape)
        if group and size + own > _LOOKED_AT:
            yield group
            group, size = [], 0
        group.append(value)
        size += own
    if group:
        yield group
