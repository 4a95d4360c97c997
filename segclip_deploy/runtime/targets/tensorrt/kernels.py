"""Labels and margin from logits on the GPU, in place of NumPy on the host."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.runtime.inference.windows import LOGIT_STRIDE
from segclip_deploy.runtime.targets.tensorrt.library import load_cuda

__all__ = ["GpuDecoder"]

_BLOCK = (32, 8, 1)


class GpuDecoder:
    """Loads the kernel of ``decode.ptx`` and runs it. The driver compiles it for the GPU.

    No compiler is needed where it flies. The driver keeps what it compiled (``~/.nv``). The CUDA
    context that is current here must be current at each call.

    Args:
        stream: the PyCUDA stream to run on.

    Raises:
        MissingDependency: PyCUDA is not installed.
        pycuda.driver.Error: the driver refuses the kernel.
    """

    def __init__(self, stream: Any) -> None:
        self._cuda, self._stream = load_cuda(), stream
        ptx = files(__package__).joinpath("decode.ptx").read_bytes()
        # The driver reads PTX as a C string: up to a zero.
        self._module = self._cuda.module_from_buffer(ptx + b"\0")
        self._kernel = self._module.get_function("decode")
        self._shape: tuple[int, ...] = ()
        self._buffers: tuple[Any, Any, Any] = (None, None, None)

    def launch(
        self, logits: int, labels: int, margin: int | None, shape: tuple[int, int, int, int]
    ) -> None:
        """Put the kernel on the stream, for a batch that lies on the GPU.

        Args:
            logits: address of (B, K, h, w) float32.
            labels: address of (B, 4h, 4w) uint8, to be written; a multiple of 4.
            margin: address of (B, h, w) uint8, to be written; None: none is asked for.
            shape: (B, K, h, w).

        Raises:
            pycuda.driver.Error: the driver refuses it.
        """
        batch, classes, height, width = shape
        self._kernel(
            *(np.uintp(address) for address in (logits, labels, margin or 0)),
            *(np.int32(n) for n in (classes, height, width)),
            block=_BLOCK,
            grid=(-(-width // _BLOCK[0]), -(-LOGIT_STRIDE * height // _BLOCK[1]), batch),
            stream=self._stream,
        )

    def decode(
        self, logits: NDArray[np.float32], *, margin: bool
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Logits (K, h, w) → labels (4h, 4w) and, if asked for, margin (h, w).

        The same functions as ``windows.labels_of`` and ``windows.margin_of``, up to ties: the
        order of a few float32 operations differs.
        """
        _, height, width = logits.shape
        labels = np.empty((height * LOGIT_STRIDE, width * LOGIT_STRIDE), np.uint8)
        clear = np.empty((height, width), np.uint8) if margin else None
        if logits.shape != self._shape:
            sizes = (logits.nbytes, labels.nbytes, height * width)
            self._buffers = tuple(self._cuda.mem_alloc(size) for size in sizes)
            self._shape = logits.shape
        read, written, measured = self._buffers
        self._cuda.memcpy_htod_async(read, np.ascontiguousarray(logits), self._stream)
        self.launch(int(read), int(written), int(measured) if margin else None, (1, *logits.shape))
        self._cuda.memcpy_dtoh_async(labels, written, self._stream)
        if clear is not None:
            self._cuda.memcpy_dtoh_async(clear, measured, self._stream)
        self._stream.synchronize()
        return labels, clear
