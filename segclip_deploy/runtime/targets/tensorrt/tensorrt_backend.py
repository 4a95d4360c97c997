"""TensorRT and TensorRT-RTX behind the Backend contract."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.errors import BadArtifact, DeviceLost
from segclip_deploy.runtime.inference.backend import Backend, Decode, TensorSpec, checked
from segclip_deploy.runtime.targets.tensorrt.cuda import open_cuda
from segclip_deploy.runtime.targets.tensorrt.cuda_graph import CannotRecord, CudaGraph, record
from segclip_deploy.runtime.targets.tensorrt.library import (
    complaints,
    library_name,
    load_library,
    logger_of,
)
from segclip_deploy.runtime.targets.tensorrt.plan_memory import PlanMemory

if TYPE_CHECKING:
    import tensorrt

__all__ = ["TensorRtBackend"]


class TensorRtBackend(Backend):
    """Runs a plan on the first GPU, on a stream of its own, through pinned memory bound once.

    The launches are recorded as one CUDA graph for each batch, which takes one inference each when
    it is opened. Where they cannot be recorded, the name says why.

    Of a plan that gives logits only, a kernel in the same CUDA graph makes the labels. The logits
    then leave the GPU only if ``outputs`` names them.

    Args:
        engine: the plan.
        target: ``"tensorrt"`` or ``"tensorrt-rtx"``.
        batches: what to take where the plan leaves the batch open; within its profile.
        host_code: let the plan bring code for the host, as version-compatible plans do.
        outputs: names of what to give, separated by spaces; None: what the plan gives. Labels and
            margin that the plan does not give are made of its logits.

    Raises:
        BadArtifact: the library refuses the plan, its profile the batches, or the GPU the memory or
            a kernel that labels need.
        DeviceLost: the GPU fails, and will go on failing in this process.
        MissingDependency: the library or PyCUDA is not installed.
    """

    def __init__(
        self,
        engine: Path,
        *,
        target: str,
        batches: range = range(1, 2),
        host_code: bool = False,
        outputs: str | None = None,
    ) -> None:
        self._trt = load_library(target)
        self._cuda = open_cuda()
        self.name = f"{library_name(self._trt)}, {self._cuda.name}"
        self.decode: Decode | None = None
        self._graphs: dict[int, CudaGraph] = {}
        self._stream: Any = None
        self._marks: Any = None  # events around each stage
        self._closed = False
        try:
            with self._cuda.current(engine):
                self._open(engine, batches, outputs, host_code=host_code)
        except BaseException:
            self.close()
            raise

    def _open(self, engine: Path, batches: range, outputs: str | None, *, host_code: bool) -> None:
        trt, driver = self._trt, self._cuda.driver
        self._runtime = trt.Runtime(logger_of(trt))
        if host_code:
            self._runtime.engine_host_code_allowed = True
        complaints(trt)  # what an earlier call left
        self._engine = self._runtime.deserialize_cuda_engine(engine.read_bytes())
        built = self._engine is not None
        context = self._engine.create_execution_context() if built else None
        if context is None:
            raise BadArtifact(f"{library_name(trt)} refuses it ({complaints(trt)})", where=engine)
        self._context: tensorrt.IExecutionContext = context
        self._stream = driver.Stream()
        self._marks = [driver.Event() for _ in range(4)]
        self.inputs, planned = self._specs(engine, batches)
        self._batch = self.inputs[0].shape[0]  # what the context is set for
        attribute = driver.device_attribute.INTEGRATED
        shared = bool(self._cuda.device.get_attribute(attribute))
        given = outputs.split() if outputs else [spec.name for spec in planned]
        self._memory = PlanMemory(
            driver,
            self._stream,
            inputs=self.inputs,
            planned=planned,
            given=given,
            shared=shared,
            where=engine,
        )
        for name, address in self._memory.addresses.items():
            self._context.set_tensor_address(name, address)
        self.outputs = self._memory.outputs
        how = self._record()
        self._stream.synchronize()  # fails where more has failed than what can be done without
        self.name += f", {how}" + ", zero-copy" * shared + self._decoding()

    def infer(self, arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Run once; the returned arrays are overwritten by the next call."""
        with self._current():
            before, arrived, done, returned = self._marks
            taken = [checked(arrays, spec) for spec in self.inputs]
            batch = len(taken[0])
            graph = self._graphs.get(batch)
            if graph is None:
                self._set_batch(batch)
            before.record(self._stream)
            self._memory.upload(taken)
            arrived.record(self._stream)
            graph.launch() if graph else self._enqueue()
            done.record(self._stream)
            self._memory.download(batch)
            returned.record(self._stream)
            self._stream.synchronize()
        return self._memory.results[batch]

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
            collector = Collector()  # the context keeps no reference
            self._context.profiler = collector
            self._memory.upload([np.repeat(tile[None], self._batch, axis=0)])
            try:
                for _ in range(runs):
                    collector.run = {}
                    self._enqueue()
                    self._stream.synchronize()
                    found.append(collector.run)
            finally:
                nobody: Any = None  # which pybind11 takes for a pointer, and the stubs do not tell
                self._context.profiler = nobody
        return found

    def memory_taken(self) -> int | None:
        """Bytes taken on the GPU, by all processes."""
        with self._current():
            free, total = self._cuda.driver.mem_get_info()
        return int(total - free)

    def describe(self) -> str:
        """The engine inspector's JSON."""
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context  # else what depends on the batch is left out
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def close(self) -> None:
        """Release the engine and its memory; a second time does nothing.

        Arrays that were returned stay readable, and keep their own memory.
        """
        self._closed = True
        try:
            with self._cuda.current(self.name):
                self._release()
        except DeviceLost:
            self._release()  # no driver is called for it any more

    def _release(self) -> None:
        self.decode = None
        self._drop_graphs()
        for name in ("_memory", "_context", "_engine", "_runtime"):
            self.__dict__.pop(name, None)  # of an engine that did not open, not all are there
        self._marks = self._stream = None

    def _current(self) -> AbstractContextManager[None]:
        if self._closed:
            raise ValueError(f"{self.name} is closed")
        return self._cuda.current(self.name)

    def _set_batch(self, batch: int) -> None:
        if batch == self._batch:
            return
        for spec in self.inputs:
            if not self._context.set_input_shape(spec.name, (batch, *spec.shape[1:])):
                raise BadArtifact(
                    f"it refuses batch {batch} ({complaints(self._trt)})", where=self.name
                )
        self._batch = batch

    def _record(self) -> str:
        """Record a graph for each batch; how the engine is launched, for people.

        All at once: a flight must not stop where it first meets a batch.
        """
        batches = self.inputs[0].batches
        self._memory.upload([np.zeros(spec.shape, spec.dtype) for spec in self.inputs])
        try:
            for batch in batches:
                self._set_batch(batch)
                self._enqueue()
                self._stream.synchronize()
                self._graphs[batch] = record(self._try_enqueue, self._stream.handle)
        except CannotRecord as reason:
            self._drop_graphs()
            self._set_batch(batches[-1])
            return f"plain launches ({reason})"
        return "CUDA graph" if len(self._graphs) == 1 else f"{len(self._graphs)} CUDA graphs"

    def _drop_graphs(self) -> None:
        for graph in self._graphs.values():
            graph.close()
        self._graphs = {}

    def _decoding(self) -> str:
        """Say for people what the kernel does; let it decode blended logits where it can."""
        told = ", labels by a kernel" if self._memory.labels else ""
        if any(spec.name == "logits" for spec in self.outputs):
            if self._memory.refusal:
                return f", blended logits decoded by NumPy ({self._memory.refusal})"
            self.decode = self._decode
        return told

    def _decode(
        self, logits: NDArray[np.float32], *, margin: bool
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        with self._current():
            assert self._memory.decoder is not None  # else this is not given out
            return self._memory.decoder.decode(logits, margin=margin)

    def _enqueue(self) -> None:
        if not self._try_enqueue():
            self._stream.synchronize()  # fails where the GPU is lost, which TensorRT does not tell
            raise BadArtifact(f"it cannot be run ({complaints(self._trt)})", where=self.name)

    def _try_enqueue(self) -> bool:
        """Put an inference on the stream, and behind it the kernel, where that makes the labels."""
        if not self._context.execute_async_v3(self._stream.handle):
            return False
        if self._memory.labels is not None:
            self._memory.labels.enqueue(self._batch)
        return True

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
