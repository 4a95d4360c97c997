"""The contract every inference engine is run through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.input_spec import describe_shape

__all__ = ["Backend", "Decode", "TensorSpec", "checked"]

Decode = Callable[..., tuple[NDArray[np.uint8], NDArray[np.uint8] | None]]
"""Logits (K, h, w) and ``margin=`` → labels (4h, 4w), and the margin (h, w) if asked for."""

B = TypeVar("B", bound="Backend")


@dataclass(frozen=True)
class TensorSpec:
    """A graph's input or output.

    Attributes:
        name: in the graph.
        shape: batch first; with the largest batch, where ``min_batch`` is given.
        dtype: of its elements.
        min_batch: the smallest batch; None: always that of ``shape``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    min_batch: int | None = None

    @property
    def batches(self) -> range:
        """Every batch it may have."""
        most = self.shape[0]
        return range(most if self.min_batch is None else self.min_batch, most + 1)

    @property
    def sides(self) -> str:
        """The shape, for people."""
        return describe_shape(self.batches, self.shape[1:])


class Backend(Protocol):
    """An engine ready to run; ``with`` closes it. To be subclassed: what is not abstract is optional.

    Attributes:
        name: engine and version, for reports.
        inputs: what ``infer`` takes.
        outputs: what ``infer`` gives.
        decode: labels from blended logits, where the engine's device does that; else None.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    decode: Decode | None = None

    def infer(self, arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Run once, on any of the batches that ``inputs`` allow.

        The returned arrays are reused by the next call: copy what must last.
        """
        ...

    def close(self) -> None:
        """Release the engine; no call may follow."""
        ...

    def stage_ms(self) -> Mapping[str, float]:
        """Milliseconds of the last ``infer`` by stage, ``copy_in``, ``infer`` and ``copy_out``, if told."""
        return {}

    def memory_taken(self) -> int | None:
        """Bytes taken on the device, by all processes; None where it is the host's memory."""
        return None

    def __enter__(self: B) -> B:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def checked(arrays: Mapping[str, NDArray[Any]], spec: TensorSpec) -> NDArray[Any]:
    """The array for an input, contiguous.

    Raises:
        ValueError: another shape or type than the engine takes.
    """
    array = np.ascontiguousarray(arrays[spec.name])
    fits = array.shape[1:] == spec.shape[1:] and len(array) in spec.batches
    if not fits or array.dtype != spec.dtype:
        raise ValueError(
            f"{spec.name} is {array.dtype} {array.shape}, not {spec.dtype} {spec.sides}"
        )
    return array
