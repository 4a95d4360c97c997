"""The GPU through PyCUDA: its one context, errors as ours, and memory to exchange tensors through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from traceback import clear_frames
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.errors import DeviceLost, GpuRefused
from segclip_deploy.runtime.inference.backend import TensorSpec
from segclip_deploy.runtime.targets.tensorrt.library import load_cuda

__all__ = ["Buffer", "Cuda", "open_cuda"]


class Cuda:
    """The first GPU and its primary context, which TensorRT's own CUDA calls use.

    Some errors, an illegal address for one, spoil the context until the process ends (CUDA C++
    Programming Guide, "Error Checking"). The GPU is given up then.

    Args:
        driver: PyCUDA's driver module.

    Raises:
        pycuda.driver.Error: there is no GPU, or the driver refuses it.

    Attributes:
        driver: PyCUDA's driver module.
        device: PyCUDA's device.
        name: of the GPU.
    """

    def __init__(self, driver: ModuleType) -> None:
        driver.init()
        self.driver = driver
        self.device = driver.Device(0)
        self.name = str(self.device.name())
        self._context = self.device.retain_primary_context()
        self._lost: str | None = None  # why it was given up
        self._kept: Any = None

    @contextmanager
    def current(self, where: object) -> Iterator[None]:
        """Make the context that of the calling thread; PyCUDA's errors become ours.

        Args:
            where: what is at work, for messages.

        Raises:
            GpuRefused: the GPU refuses something inside.
            DeviceLost: it refuses everything from now on.
        """
        try:
            if not self._lost:
                self._context.push()
        except self.driver.Error as error:
            self._give_up(str(error))
        if self._lost:
            raise self._gone(where)
        try:
            yield
        except Exception as error:
            # Frames of the traceback hold what was half made: it is released here, in its context.
            clear_frames(error.__traceback__)
            if not isinstance(error, self.driver.Error):
                raise
            if self._answers():
                raise GpuRefused(f"the GPU refuses it ({error})", where=where, fix=_FIX) from error
            self._lost = str(error)
            raise self._gone(where) from error
        finally:
            self._leave()

    def _answers(self) -> bool:
        """Whether only one call has failed."""
        try:
            self.driver.Context.synchronize()
        except self.driver.Error:
            return False
        return True

    def _leave(self) -> None:
        """Take the context off the thread; never raises, the error inside is the one to be told."""
        try:
            if not self._lost:
                self._context.pop()
        except self.driver.Error as error:
            self._lost = str(error)
        if self._lost:
            self._give_up(self._lost)

    def _give_up(self, reason: str) -> None:
        """Let PyCUDA leave the driver alone from now on.

        Else it calls the driver for everything it releases, and aborts the process where that
        fails, or where a context cannot be taken off a thread.
        """
        self._lost = reason
        with suppress(self.driver.Error):
            # Arrays that were given away lie in memory that ends with the context.
            self._kept = self._kept or self.device.retain_primary_context()
        with suppress(self.driver.Error):
            self._context.detach()
        self.driver.Context.get_current()  # takes what is detached off this thread

    def _gone(self, where: object) -> DeviceLost:
        return DeviceLost(f"the GPU is lost ({self._lost})", where=where, fix="restart the process")


@cache
def open_cuda() -> Cuda:
    """The GPU, once for the process: PyCUDA would retain its context once more at each opening.

    Raises:
        GpuRefused: the driver refuses it.
        MissingDependency: PyCUDA is not installed, or finds no driver.
    """
    driver = load_cuda()
    try:
        return Cuda(driver)
    except driver.Error as error:
        raise GpuRefused(f"the GPU cannot be opened ({error})", fix=_FIX) from error


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


_FIX = "see what else uses the GPU: nvidia-smi, on a Jetson tegrastats"
