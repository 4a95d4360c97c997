"""TensorRT and TensorRT-RTX as targets: build a plan, prove it if the GPU is here, tell what it is."""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.artifacts.engine import Engine
from segclip_deploy.artifacts.engine_record import (
    Build,
    Built,
    GpuDevice,
)
from segclip_deploy.artifacts.golden import load_golden
from segclip_deploy.artifacts.precision_share import Layer
from segclip_deploy.artifacts.records import replace as with_fields
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.errors import BadArtifact, BadInput, StaleArtifact
from segclip_deploy.progress import Report, silent
from segclip_deploy.runtime.inference.backend import Backend
from segclip_deploy.runtime.targets.base import (
    BuildJob,
    BuildOptions,
    Need,
    Prove,
    Runs,
    Settings,
    Target,
)
from segclip_deploy.runtime.targets.device import Gpu, find_gpu
from segclip_deploy.runtime.targets.tensorrt.builder import (
    BuiltPlan,
    build_plan,
    fixed_sha256,
    refit_plan,
)
from segclip_deploy.runtime.targets.tensorrt.compatibility import (
    differences,
    gpu_device,
    slower_or_faster,
)
from segclip_deploy.runtime.targets.tensorrt.inspector import by_block, engine_layers
from segclip_deploy.runtime.targets.tensorrt.library import (
    Library,
    load_cuda,
    load_library,
)
from segclip_deploy.runtime.targets.tensorrt.tensorrt_backend import TensorRtBackend
from segclip_deploy.runtime.targets.tensorrt.timing_cache import TimingCache, default_path
from segclip_deploy.runtime.targets.tensorrt.tries import (
    Flown,
    Tried,
    dotted,
    fastest,
    label_makers,
    settings_of,
)
from segclip_deploy.runtime.targets.tuning import median_ms

__all__ = ["TensorRt", "cuda_needs"]

_ROUNDS = 50  # inferences that choose between plans


class TensorRt(Target):
    """Engines ``NAME.engine``: plans for the GPU of the machine that builds them.

    Attributes:
        extra: of this package, which installs what it needs.
    """

    name = "tensorrt"
    title = "TensorRT"
    extra = "tensorrt"
    short = "trt"
    suffix = ".engine"
    scheme = Scheme.TENSORRT
    takes_onnx = False
    options = frozenset(
        {
            "--workspace",
            "--optimization-level",
            "--refittable",
            "--tries",
            "--labels",
            "--timing-iterations",
            "--hardware-compatibility",
            "--version-compatible",
            "--dla",
            "--timing-cache",
            "--require-precision",
        }
    )

    def to_build(self) -> tuple[Need, ...]:
        """The library, a GPU and PyCUDA."""
        return (lambda: load_library(self.name), *cuda_needs(self.extra))

    def build(self, job: BuildJob) -> Built:
        """Of several tries the fastest that passes verification.

        What only a run can tell is None where the GPU is not here.
        """
        options = job.options
        trt = load_library(self.name)
        gpu, capabilities, obstacle = self._aim(trt, options, job.bundle)
        if obstacle is None:
            load_cuda(self.extra)  # not after minutes of building
        for flag, given in (("--tries", options.tries > 1), ("--refittable", options.refittable)):
            if obstacle and given:
                raise BadInput(f"it needs the GPU that the engine is for: {obstacle}", where=flag)
        makers = label_makers(options, capabilities, here=obstacle is None)
        tries: list[Tried] = []
        for labels, _ in product(makers, range(options.tries)):
            plan = self._plan(
                job.bundle.model_path,
                options,
                gpu,
                capabilities,
                batches=job.bundle.input.batches,
                logits_only=labels == "kernel",
                report=job.report,
            )
            job.file.write_bytes(plan.data)
            settings = settings_of(options, job.bundle, labels)
            flown = None if obstacle else self._fly(job.file, job.bundle, job.prove, settings)
            tries.append(Tried(labels, settings, plan, flown))
        best = fastest(tries, where=job.bundle.path)
        job.file.write_bytes(best.plan.data)
        layers = best.flown.layers if best.flown else None
        return Built(
            device=self._device(trt, gpu, capabilities),
            settings=best.settings,
            build=Build(
                seconds=round(best.plan.seconds, 3),
                timing_cache=best.plan.timing_cache,
                fixed_sha256=best.plan.fixed_sha256,
                tries=tuple(filter(None, (one.to_record() for one in tries))),
            ),
            network=best.plan.types,
            layers=layers,
            blocks=by_block(layers) if layers else None,
            verified=best.flown.verification if best.flown else None,
            not_verified=obstacle,
            labels=best.labels,
        )

    def refit(self, engine: Engine, bundle: Bundle, file: Path, prove: Prove) -> Built:
        """Replace the weights ``text.*`` of an engine that was built with ``--refittable``.

        Raises:
            BadArtifact: the library refuses to refit it.
            BadInput: it was not built to be refitted, or more than the text differs.
            StaleArtifact: it was built for another machine.
        """
        remedy = engine.rebuild_command(bundle.path)
        if "--refittable" not in engine.record.arguments:
            raise BadInput(
                "it was not built to be refitted",
                where=engine.path,
                fix=f"{remedy} --refittable",
            )
        self.admit(engine)
        if fixed_sha256(bundle.model_path) != engine.record.built.build.fixed_sha256:
            raise BadInput(
                "more than its text differs from what the engine was built of: other weights, or "
                "scales of activations, which are chosen anew with every INT8 bundle",
                where=bundle.path,
                fix=remedy,
            )
        try:
            plan = refit_plan(
                load_library(self.name),
                engine.path,
                bundle.model_path,
                host_code=bool(engine.record.built.settings.get("host_code")),
            )
        except BadArtifact as error:
            raise BadArtifact(error.what, where=engine.path, fix=remedy) from error
        file.write_bytes(plan)
        built = engine.record.built
        flown = self._fly(file, bundle, prove, built.settings)
        flown.verification.require(where=engine.path)
        return with_fields(
            built,
            layers=flown.layers,
            blocks=by_block(flown.layers) if flown.layers else None,
            verified=flown.verification,
            not_verified=None,
        )

    def open(
        self,
        model: Path,
        *,
        batches: range = range(1, 2),
        sha256: str | None = None,
        **settings: Any,
    ) -> Backend:
        """A ``TensorRtBackend``; settings as its arguments."""
        del sha256  # a plan is compiled already
        return TensorRtBackend(model, target=self.name, batches=batches, **settings)

    def open_unproven(self, model: Path) -> Backend:
        """It is compiled for the GPU here, each time anew."""
        options = BuildOptions()
        gpu, capabilities, _ = self._aim(load_library(self.name), options, None)
        plan = self._plan(model, options, gpu, capabilities, batches=range(1, 2))
        with TemporaryDirectory() as folder:
            file = Path(folder) / f"{model.stem}{self.suffix}"
            file.write_bytes(plan.data)
            return self.open(file)

    def device(self) -> GpuDevice:
        """The GPU here, and the library."""
        gpu = find_gpu(why=f"an engine for {self.name}")
        return gpu_device(load_library(self.name), gpu, [gpu.compute_capability])

    def admit(self, engine: Engine) -> None:
        """Accept an engine for this GPU, board, compute capability and library version.

        Another power mode of a Jetson is a warning: the results are the same.
        """
        here = self.device()
        built = engine.record.built.device
        if not isinstance(built, GpuDevice):
            found = ["it was not built for a GPU"]
        else:
            found = differences(built, here, engine.record.arguments)
        if found:
            raise StaleArtifact("; ".join(found), where=engine.path, fix=engine.rebuild_command())
        load_cuda(self.extra)
        assert isinstance(built, GpuDevice)  # else it was refused
        if reason := slower_or_faster(built, here):
            warnings.warn(f"{engine.path}: {reason}; {engine.rebuild_command()}", stacklevel=2)

    def layers(self, backend: Backend) -> tuple[Layer, ...] | None:
        """As the inspector tells them."""
        assert isinstance(backend, TensorRtBackend)
        return engine_layers(backend.describe())

    def time_layers(
        self, model: Path, backend: Backend, tile: NDArray[np.uint8], settings: Settings
    ) -> Runs | None:
        """By the library's profiler, which synchronizes after every layer."""
        del model, settings
        assert isinstance(backend, TensorRtBackend)
        return backend.layer_ms(tile)

    def _plan(
        self,
        model: Path,
        options: BuildOptions,
        gpu: Gpu | None,
        capabilities: tuple[str, ...],
        *,
        batches: range,
        logits_only: bool = False,
        report: Report = silent,
    ) -> BuiltPlan:
        """A plan of an ONNX file; GPU and capabilities as of ``_aim``, the rest as of ``build_plan``."""
        trt = load_library(self.name)
        return build_plan(
            trt,
            model,
            replace(options, compute_capability=self._named(capabilities)),
            batches=batches,
            logits_only=logits_only,
            timing_cache=self._timing_cache(trt, gpu, options),
            report=report,
        )

    def _fly(self, file: Path, bundle: Bundle, prove: Prove, settings: Settings) -> Flown:
        """Run a plan: verification, its layers, its time for one inference."""
        tile = load_golden(bundle.golden_path).tiles[0]
        with self.open(file, batches=bundle.input.batches, **settings) as backend:
            assert isinstance(backend, TensorRtBackend)
            layers = self.layers(backend)
            verification = prove(backend)
            (milliseconds,) = median_ms([backend], tile, rounds=_ROUNDS)
        return Flown(verification, layers, round(milliseconds, 3), _ROUNDS)

    def _aim(
        self, trt: Library, options: BuildOptions, bundle: Bundle | None
    ) -> tuple[Gpu | None, tuple[str, ...], str | None]:
        """The GPU here, the compute capabilities to build for, and why it cannot run here if so.

        Args:
            bundle: that is built; None: a file of no bundle.
        """
        del trt, options, bundle
        gpu = find_gpu(why=f"building for {self.name}")
        return gpu, (gpu.compute_capability.replace(".", ""),), None

    def _named(self, capabilities: tuple[str, ...]) -> tuple[str, ...]:
        """The compute capabilities to tell the builder; none: the GPU here."""
        del capabilities
        return ()

    def _device(self, trt: Library, gpu: Gpu | None, capabilities: tuple[str, ...]) -> GpuDevice:
        return gpu_device(trt, gpu, [dotted(c) for c in capabilities])

    def _timing_cache(
        self, trt: Library, gpu: Gpu | None, options: BuildOptions
    ) -> TimingCache | None:
        assert gpu is not None
        if options.tries > 1:  # measurements of the first would make all the others the same
            if options.timing_cache:
                raise BadInput("tries do not differ with one", where="--timing-cache")
            return None
        here = gpu_device(trt, gpu, ())
        key = {
            "gpu": here.gpu,
            "board": here.board,
            "multiprocessors": None if here.multiprocessors is None else str(here.multiprocessors),
            "power_mode": here.power_mode,
            "driver": here.driver,
            "library": here.library,
        }
        return TimingCache(options.timing_cache or default_path(key), key)


def cuda_needs(extra: str) -> tuple[Need, ...]:
    """A GPU, and PyCUDA from an extra of this package."""
    return (lambda: find_gpu(why="running it"), lambda: load_cuda(extra))
