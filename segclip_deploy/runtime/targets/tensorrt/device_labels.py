"""Labels of every inference, made on the GPU of the logits that the plan leaves there."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.runtime.inference.backend import TensorSpec
from segclip_deploy.runtime.inference.windows import LOGIT_STRIDE
from segclip_deploy.runtime.targets.tensorrt.cuda import Buffer
from segclip_deploy.runtime.targets.tensorrt.kernels import GpuDecoder

__all__ = ["DeviceLabels"]


class DeviceLabels:
    """What the kernel makes of a plan's logits: labels, and the margin if it is asked for.

    The margin of a batch lies right behind its labels, so that one copy brings both to the host.

    Args:
        cuda: PyCUDA's driver module, its context current.
        decoder: on the stream of the inference.
        logits: the plan's output (B, K, h, w), with its largest batch.
        address: of the logits on the GPU.
        margin: whether it is asked for.
        shared: whether host and GPU have one memory.

    Attributes:
        outputs: labels (B, 4h, 4w), and margin (B, h, w), uint8.
    """

    def __init__(
        self,
        cuda: ModuleType,
        decoder: GpuDecoder,
        logits: TensorSpec,
        address: int,
        *,
        margin: bool,
        shared: bool,
    ) -> None:
        batch, _, height, width = logits.shape
        uint8 = np.dtype(np.uint8)
        sides = {"labels": (LOGIT_STRIDE * height, LOGIT_STRIDE * width), "margin": (height, width)}
        self.outputs = tuple(
            TensorSpec(name, (batch, *sides[name]), uint8, logits.min_batch)
            for name in ("labels", "margin")[: 1 + margin]
        )
        self._decoder, self._logits, self._shape = decoder, address, logits.shape[1:]
        self._pixels = LOGIT_STRIDE**2 * height * width
        size = self._pixels + margin * height * width
        self._buffer = Buffer(cuda, TensorSpec("", (batch, size), uint8), shared=shared)

    def enqueue(self, batch: int) -> None:
        """Put the kernel on the stream, behind the plan.

        Raises:
            pycuda.driver.Error: the driver refuses it.
        """
        labels = self._buffer.address
        margin = labels + batch * self._pixels if len(self.outputs) > 1 else None
        classes, height, width = self._shape
        self._decoder.launch(self._logits, labels, margin, (batch, classes, height, width))

    def download(self, batch: int, stream: Any) -> None:
        """Bring what was made of a batch to the host, once the stream has been synchronized."""
        self._buffer.download(batch, stream)

    def arrays(self, batch: int) -> dict[str, NDArray[Any]]:
        """Where ``download`` brings it, by the output's name."""
        parts = np.split(self._buffer.host[:batch].reshape(-1), [batch * self._pixels])
        return {
            spec.name: values.reshape(batch, *spec.shape[1:])
            for spec, values in zip(self.outputs, parts, strict=False)
        }
