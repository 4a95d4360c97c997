"""Memory that host and GPU exchange a tensor through, allocated once."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.runtime.inference.backend import TensorSpec

__all__ = ["Buffer"]


class Buffer:
    """A tensor on the host, page-locked, and on the GPU.

    Where GPU and host have one memory (Jetson), both are the same pages, and copying is nothing.

    Args:
        cuda: PyCUDA's driver module, its context current.
        spec: the tensor, with its largest batch.
        shared: whether host and GPU have one memory.

    Attributes:
        host: of the tensor's shape.
        address: on the GPU.
    """

    def __init__(self, cuda: ModuleType, spec: TensorSpec, *, shared: bool) -> None:
        self._cuda = cuda
        self._device: Any = None
        if shared:
            flags = cuda.host_alloc_flags.DEVICEMAP
            self.host: NDArray[Any] = cuda.pagelocked_empty(spec.shape, spec.dtype, mem_flags=flags)
            self.address = int(self.host.base.get_device_pointer())
        else:
            self.host = cuda.pagelocked_empty(spec.shape, spec.dtype)
            self._device = cuda.mem_alloc(self.host.nbytes)
            self.address = int(self._device)

    def upload(self, array: NDArray[Any], stream: Any) -> None:
        """Bring a batch, no larger than the buffer, to the GPU."""
        part = self.host[: len(array)]
        np.copyto(part, array)
        if self._device is not None:
            self._cuda.memcpy_htod_async(self._device, part, stream)

    def download(self, batch: int, stream: Any) -> None:
        """Bring a batch to ``host``, once the stream has been synchronized."""
        if self._device is not None:
            self._cuda.memcpy_dtoh_async(self.host[:batch], self._device, stream)
