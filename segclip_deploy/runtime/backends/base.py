"""The contract every inference engine is run through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Backend", "TensorSpec", "checked"]


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and element type of a graph input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Backend(Protocol):
    """An engine ready to run.

    Attributes:
        name: engine and version, for reports.
        inputs: what ``infer`` takes.
        outputs: what ``infer`` gives.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def infer(self, arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Run once. The returned arrays are reused by the next call: copy what must last."""
        ...

    def close(self) -> None:
        """Release the engine; no call may follow."""
        ...


def checked(arrays: Mapping[str, NDArray[Any]], spec: TensorSpec) -> NDArray[Any]:
    """The array for an input, contiguous.

    Raises:
        ValueError: another shape or type than the engine takes.
    """
    array = np.ascontiguousarray(arrays[spec.name])
    if array.shape != spec.shape or array.dtype != spec.dtype:
        raise ValueError(
            f"{spec.name} is {array.dtype} {array.shape}, not {spec.dtype} {spec.shape}"
        )
    return array
