"""Memory of a plan's inputs and outputs, and the kernel that makes labels where the plan makes none."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.errors import BadArtifact
from segclip_deploy.runtime.inference.backend import TensorSpec
from segclip_deploy.runtime.targets.tensorrt.cuda import Buffer
from segclip_deploy.runtime.targets.tensorrt.device_labels import DeviceLabels
from segclip_deploy.runtime.targets.tensorrt.kernels import GpuDecoder

__all__ = ["PlanMemory"]


class PlanMemory:
    """What a plan reads and writes, allocated once for the largest batch.

    An output of the plan that nobody asked for stays on the GPU. Labels and margin that the plan
    does not write are made of its logits by a kernel.

    Args:
        cuda: PyCUDA's driver module, its context current.
        stream: PyCUDA's, that all work is put on.
        inputs: of the plan.
        planned: outputs of the plan.
        given: names of the outputs to give.
        shared: whether host and GPU have one memory.
        where: the engine, for messages.

    Raises:
        BadArtifact: labels are to be made, and there are no logits, or the GPU refuses the kernel.
        KeyError: there is no such output.
        pycuda.driver.Error: the GPU refuses the memory.

    Attributes:
        outputs: what is given.
        addresses: of the plan's tensors on the GPU, by name.
        decoder: the kernel; None where there are no logits, or the GPU refuses it.
        refusal: why it does; None where it does not.
        results: by batch, the outputs on the host, overwritten by each ``download``.
    """

    def __init__(
        self,
        cuda: ModuleType,
        stream: Any,
        *,
        inputs: Sequence[TensorSpec],
        planned: Sequence[TensorSpec],
        given: Sequence[str],
        shared: bool,
        where: object,
    ) -> None:
        self._stream, self._inputs = stream, tuple(inputs)
        shown = [*inputs, *(spec for spec in planned if spec.name in given)]
        self._buffers = {spec.name: Buffer(cuda, spec, shared=shared) for spec in shown}
        self._kept = {
            spec.name: cuda.mem_alloc(int(np.prod(spec.shape)) * spec.dtype.itemsize)
            for spec in planned
            if spec.name not in given
        }
        self.addresses = {name: buffer.address for name, buffer in self._buffers.items()}
        self.addresses |= {name: int(memory) for name, memory in self._kept.items()}
        specs = {spec.name: spec for spec in planned}
        self.decoder: GpuDecoder | None = None
        self.refusal: str | None = None
        if "logits" in specs:
            self._load_decoder(cuda)
        made = [name for name in given if name not in specs]
        self.labels: DeviceLabels | None = None
        if made:
            self.labels = self._make_labels(cuda, specs.get("logits"), made, shared, where)
            specs |= {spec.name: spec for spec in self.labels.outputs}
        self.outputs = tuple(specs[name] for name in given)
        self.results = {batch: self._arrays(batch) for batch in inputs[0].batches}

    def upload(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Bring a batch of the inputs to the GPU."""
        for spec, array in zip(self._inputs, arrays, strict=True):
            self._buffers[spec.name].upload(array, self._stream)

    def download(self, batch: int) -> None:
        """Bring the outputs of a batch to ``results``, once the stream has been synchronized."""
        for spec in self.outputs:
            if spec.name in self._buffers:
                self._buffers[spec.name].download(batch, self._stream)
        if self.labels is not None:
            self.labels.download(batch, self._stream)

    def _load_decoder(self, cuda: ModuleType) -> None:
        try:
            self.decoder = GpuDecoder(self._stream)
        except cuda.Error as error:
            self._stream.synchronize()  # fails where more has failed than the kernel
            self.refusal = str(error)

    def _make_labels(
        self,
        cuda: ModuleType,
        logits: TensorSpec | None,
        made: Sequence[str],
        shared: bool,
        where: object,
    ) -> DeviceLabels:
        what, fix = " and ".join(made), "build it with --labels graph"
        if logits is None or logits.dtype != np.float32:
            told = f"the plan gives no float32 logits to make {what} of"
            raise BadArtifact(told, where=where, fix=fix)
        if self.decoder is None:
            told = f"the GPU refuses the kernel that makes its {what} ({self.refusal})"
            raise BadArtifact(told, where=where, fix=fix)
        return DeviceLabels(
            cuda,
            self.decoder,
            logits,
            self.addresses["logits"],
            margin="margin" in made,
            shared=shared,
        )

    def _arrays(self, batch: int) -> dict[str, NDArray[Any]]:
        found = {name: buffer.host[:batch] for name, buffer in self._buffers.items()}
        found |= self.labels.arrays(batch) if self.labels else {}
        return {spec.name: found[spec.name] for spec in self.outputs}
