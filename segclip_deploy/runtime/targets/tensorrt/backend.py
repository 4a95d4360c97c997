"""TensorRT and TensorRT-RTX behind the Backend contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.errors import BadArtifact, MissingDependency
from segclip_deploy.runtime.inference.backend import Backend, Decode, TensorSpec, checked
from segclip_deploy.runtime.targets.tensorrt.cuda import Buffer
from segclip_deploy.runtime.targets.tensorrt.cuda_graph import CannotRecord, record
from segclip_deploy.runtime.targets.tensorrt.kernels import GpuDecoder
from segclip_deploy.runtime.targets.tensorrt.library import (
    complaints,
    library_name,
    load_cuda,
    load_library,
    logger_of,
)

if TYPE_CHECKING:
    import tensorrt

__all__ = ["TensorRtBackend"]


class TensorRtBackend(Backend):
    """Runs a plan on the first GPU, on a stream of its own, through pinned memory bound once.

    Where the batch is fixed, the launches are recorded as one CUDA graph; where they cannot be,
    the name says why.

    Args:
        engine: the plan.
        target: ``"tensorrt"`` or ``"tensorrt-rtx"``.
        batches: what to take where the plan leaves the batch open; within its profile.
        host_code: let the plan bring code for the host, as version-compatible plans do.

    Raises:
        BadArtifact: the library refuses the plan, its profile the batches, or the GPU the memory.
        MissingDependency: the library or PyCUDA is not installed.
    """

    def __init__(
        self,
        engine: Path,
        *,
        target: str,
        batches: range = range(1, 2),
        host_code: bool = False,
    ) -> None:
        trt = load_library(target)
        self._trt = trt
        self._cuda = load_cuda()
        self._cuda.init()
        # The primary context is the one TensorRT's own CUDA calls use.
        device = self._cuda.Device(0)
        self._primary = device.retain_primary_context()
        self.name = f"{library_name(trt)}, {device.name()}"
        with self._current():
            self._runtime = trt.Runtime(logger_of(trt))
            if host_code:
                self._runtime.engine_host_code_allowed = True
            complaints(trt)  # what an earlier call left
            self._engine = self._runtime.deserialize_cuda_engine(engine.read_bytes())
            built = self._engine is not None
            context = self._engine.create_execution_context() if built else None
            if context is None:
                raise BadArtifact(
                    f"{library_name(trt)} refuses it ({complaints(trt)})", where=engine
                )
            self._context: tensorrt.IExecutionContext = context
            self._stream = self._cuda.Stream()
            self._marks = [self._cuda.Event() for _ in range(4)]  # around each stage
            self.inputs, self.outputs = self._specs(engine, batches)
            self._batch = self.inputs[0].shape[0]  # what the context is set for
            shared = bool(device.get_attribute(self._cuda.device_attribute.INTEGRATED))
            self._buffers = {
                spec.name: Buffer(self._cuda, spec, shared=shared)
                for spec in (*self.inputs, *self.outputs)
            }
            for name, buffer in self._buffers.items():
                self._context.set_tensor_address(name, buffer.address)
            self._results = self._cut()
            self._launch, how = self._prepare_launch()
            self.decode, where = self._prepare_decode()
        self.name += f", {how}" + ", zero-copy" * shared + where

    def infer(self, arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Run once; the returned arrays are overwritten by the next call."""
        before, arrived, done, returned = self._marks
        with self._current():
            taken = [checked(arrays, spec) for spec in self.inputs]
            if len(taken[0]) != self._batch:
                self._set_batch(len(taken[0]))
            before.record(self._stream)
            for spec, array in zip(self.inputs, taken, strict=True):
                self._buffers[spec.name].upload(array, self._stream)
            arrived.record(self._stream)
            self._launch()
            done.record(self._stream)
            for name in self._results:
                self._buffers[name].download(self._batch, self._stream)
            returned.record(self._stream)
            self._stream.synchronize()
        return self._results

    def stage_ms(self) -> dict[str, float]:
        """Milliseconds of the last ``infer`` on the GPU, by CUDA events."""
        with self._current():
            stages = zip(self._marks, self._marks[1:], strict=False)
            times = [float(after.time_since(before)) for before, after in stages]
        return dict(zip(("copy_in", "infer", "copy_out"), times, strict=True))

    def layer_ms(self, tile: NDArray[np.uint8], *, runs: int = 30) -> list[dict[str, float]]:
        """Milliseconds by layer of some runs on a tile (H, W, 3), launched plainly.

        TensorRT synchronizes after every layer for this: their sum is more than an inference takes.
        """
        found: list[dict[str, float]] = []
        if TYPE_CHECKING:
            from tensorrt import IProfiler as Profiler
        else:
            Profiler = self._trt.IProfiler  # noqa: N806

        class Collector(Profiler):  # type: ignore[misc] # Any, without TensorRT
            def __init__(self) -> None:
                Profiler.__init__(self)
                self.run: dict[str, float] = {}

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                self.run[layer_name] = self.run.get(layer_name, 0.0) + ms

        with self._current():
            collector = self._collector = Collector()  # the context keeps no reference
            self._context.profiler = collector
            spec = self.inputs[0]
            pixels = np.repeat(tile[None], self._batch, axis=0)
            self._buffers[spec.name].upload(pixels, self._stream)
            for _ in range(runs):
                collector.run = {}
                self._enqueue()
                self._stream.synchronize()
                found.append(collector.run)
        return found

    def memory_taken(self) -> int | None:
        """Bytes taken on the GPU, by all processes."""
        with self._current():
            free, total = self._cuda.mem_get_info()
        return int(total - free)

    def describe(self) -> str:
        """The engine inspector's JSON."""
        inspector = self._engine.create_engine_inspector()
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def close(self) -> None:
        """Release the engine and its memory."""
        with self._current():
            self._buffers.clear()
            self._results.clear()
            del self._launch, self._marks, self.decode
            del self._context, self._engine, self._runtime, self._stream
        del self._primary

    def _set_batch(self, batch: int) -> None:
        for spec in self.inputs:
            if not self._context.set_input_shape(spec.name, (batch, *spec.shape[1:])):
                raise BadArtifact(
                    f"it refuses batch {batch} ({complaints(self._trt)})", where=self.name
                )
        self._batch = batch
        self._results = self._cut()

    def _cut(self) -> dict[str, NDArray[Any]]:
        """The outputs on the host, as long as the batch."""
        return {spec.name: self._buffers[spec.name].host[: self._batch] for spec in self.outputs}

    def _prepare_launch(self) -> tuple[Callable[[], None], str]:
        """What runs the network, and how, for people."""
        if any(spec.min_batch is not None for spec in self.inputs):
            return self._enqueue, "plain launches (a graph needs one batch)"
        for spec in self.inputs:
            self._buffers[spec.name].upload(np.zeros(spec.shape, spec.dtype), self._stream)
        self._enqueue()
        self._stream.synchronize()
        try:
            return record(self._try_enqueue, self._stream.handle), "CUDA graph"
        except CannotRecord as reason:
            return self._enqueue, f"plain launches ({reason})"

    def _prepare_decode(self) -> tuple[Decode | None, str]:
        """What decodes blended logits, None for NumPy; and which, for people."""
        if all(spec.name != "logits" for spec in self.outputs):
            return None, ""
        try:
            decoder = GpuDecoder(self._stream)
        except MissingDependency as error:
            return None, f", blended logits decoded by NumPy ({error.what})"

        def decode(
            logits: NDArray[np.float32], *, margin: bool
        ) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
            with self._current():
                return decoder.decode(logits, margin=margin)

        return decode, ""

    def _enqueue(self) -> None:
        if not self._try_enqueue():
            raise BadArtifact(f"it cannot be run ({complaints(self._trt)})", where=self.name)

    def _try_enqueue(self) -> bool:
        return bool(self._context.execute_async_v3(self._stream.handle))

    def _specs(
        self, path: Path, batches: range
    ) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs, and the context set for the largest batch where that is open."""
        engine, mode = self._engine, self._trt.TensorIOMode
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == mode.INPUT]
        for name in inputs:
            batch, *sides = engine.get_tensor_shape(name)
            if batch == -1:
                least, _, most = (shape[0] for shape in engine.get_tensor_profile_shape(name, 0))
                if batches[0] < least or batches[-1] > most:
                    raise BadArtifact(
                        f"it takes batches from {least} to {most}, "
                        f"not from {batches[0]} to {batches[-1]}",
                        where=path,
                    )
                self._context.set_input_shape(name, (batches[-1], *sides))
        specs = {
            name: TensorSpec(
                name,
                tuple(self._context.get_tensor_shape(name)),
                np.dtype(self._trt.nptype(engine.get_tensor_dtype(name))),
                batches[0] if engine.get_tensor_shape(name)[0] == -1 else None,
            )
            for name in names
        }
        outputs = [name for name in names if name not in inputs]
        return tuple(specs[name] for name in inputs), tuple(specs[name] for name in outputs)

    @contextmanager
    def _current(self) -> Iterator[None]:
        """Make the GPU's primary context that of the calling thread."""
        self._primary.push()
        try:
            yield
        except self._cuda.Error as error:
            raise BadArtifact(
                f"the GPU refuses it ({error})",
                where=self.name,
                fix="see what else uses the GPU: nvidia-smi, on a Jetson tegrastats",
            ) from error
        finally:
            self._primary.pop()
