"""How large the tensors of a graph get, for what would overflow FP16."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segclip_deploy._optional import require
from segclip_deploy.export.onnx_model import observer

if TYPE_CHECKING:
    from segclip_deploy.export.onnx_types import OnnxModel, OnnxValue

__all__ = ["find_absmax"]

_LOOKED_AT = 2**29  # bytes of tensors that are kept to look at in one run


def find_absmax(
    model: OnnxModel, tiles: NDArray[np.uint8], batch: int
) -> dict[str, tuple[float, str]]:
    """Largest magnitude of every float tensor of an FP32 model, and the golden tile with it.

    Args:
        model: in FP32.
        tiles: (N, H, W, 3), of its input size.
        batch: that it takes.
    """
    require("onnx_ir", why="quantization")
    import onnx_ir as ir

    values = [v for n in model.graph for v in n.outputs if v.dtype == ir.DataType.FLOAT]
    found: dict[str, tuple[float, str]] = {}
    for group in _groups(values, batch):
        names = [value.name for value in group]
        run = observer(model, names)
        for index, tile in enumerate(tiles):
            pixels = np.repeat(tile[None], batch, axis=0)
            for name, array in zip(names, run(pixels), strict=True):
                top = float(max(array.max(), -array.min()))  # of NaN these are NaN
                if not top <= found.get(name, (-1.0, ""))[0]:
                    found[name] = (top, f"golden tile {index}")
    return found


def _groups(values: Iterable[OnnxValue], batch: int) -> Iterator[list[OnnxValue]]:
    """Float tensors in groups that are small enough to be looked at together.

    All at once they are larger than what the model needs to run, as none can be freed.
    """
    group: list[OnnxValue] = []
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
