"""The contract of a target: what makes engines of bundles, and runs them."""

from __future__ import annotations

import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.artifacts.engine import Engine
from segclip_deploy.artifacts.engine_record import (
    Build,
    Built,
    CpuDevice,
    GpuDevice,
    LabelMaker,
    Verification,
)
from segclip_deploy.artifacts.golden import load_golden
from segclip_deploy.artifacts.precision_share import Layer
from segclip_deploy.artifacts.scheme import Precision, Scheme
from segclip_deploy.errors import BadInput, SegclipError
from segclip_deploy.progress import Report, silent
from segclip_deploy.runtime.inference.backend import Backend
from segclip_deploy.runtime.targets.device import find_cpu
from segclip_deploy.runtime.targets.tuning import rank_settings

__all__ = ["BuildJob", "BuildOptions", "Need", "Prove", "Runs", "Settings", "Target"]

Settings = Mapping[str, Any]
"""Keywords of a target's ``open``, as an engine's record keeps them."""

Prove = Callable[[Backend], Verification]
"""Holds a backend against the golden tiles of the bundle that is built."""

Need = Callable[[], Any]
"""Raises ``MissingDependency`` where something that a target needs is not here."""

Runs = Sequence[Mapping[str, float]]
"""For every run of a profile by layer, milliseconds by layer."""


@dataclass(frozen=True)
class BuildOptions:
    """Options of ``build-engine``, each named like its flag.

    Attributes:
        device: that the engine is for, where a target has several.
        compute_capability: GPUs to build for, as ``("86", "120")``; empty: the one here.
        workspace: limit of the builder's and engine's scratch memory, MiB.
        optimization_level: 0 (quick build) to 5; None: the library's own.
        timing_iterations: runs a tactic's time is averaged over.
        refittable: the weights named ``text.*`` can be replaced in the engine.
        hardware_compatibility: ``"ampere-plus"`` or ``"same-compute-capability"``.
        version_compatible: later TensorRT of the same major version can run it.
        dla: core of the Deep Learning Accelerator; what it cannot run goes to the GPU.
        timing_cache: file; None: one per GPU, driver and version in the user's cache.
        tries: builds, of which the fastest that passes verification is kept.
        labels: what makes them of the logits: the graph, or a kernel behind it. ``"auto"`` builds
            both, and keeps the faster that passes verification. None: the graph.
        require_precision: percent of the planned INT8 and FP16 MACs that must be known to run so.
    """

    device: str | None = None
    compute_capability: tuple[str, ...] = ()
    workspace: int | None = None
    optimization_level: int | None = None
    timing_iterations: int = 8
    refittable: bool = False
    hardware_compatibility: str | None = None
    version_compatible: bool = False
    dla: int | None = None
    timing_cache: Path | None = None
    tries: int = 1
    labels: LabelMaker | Literal["auto"] | None = None
    require_precision: int | None = None

    def given(self) -> Mapping[str, Any]:
        """What differs from the defaults, by flag."""
        return {
            "--" + field.name.replace("_", "-"): getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }

    def arguments(self) -> tuple[str, ...]:
        """The command line that says the same."""
        words: list[str] = []
        for flag, value in self.given().items():
            words.append(flag)
            if value is not True:
                words.append(",".join(value) if isinstance(value, tuple) else str(value))
        return tuple(words)


@dataclass(frozen=True)
class BuildJob:
    """What a target is asked to build.

    Attributes:
        bundle: in FP32, or in the target's scheme.
        file: the engine to write; it exists, and is empty.
        prove: verifies the engine.
        options: all of them the target's own.
        report: told of phases of the build, steps done, steps in all.
    """

    bundle: Bundle
    file: Path
    prove: Prove
    options: BuildOptions = BuildOptions()
    report: Report = silent


class Target(ABC):
    """Something that makes engines of bundles, and runs them.

    As it stands here it takes the bundle's ONNX file as its engine, and finds the fastest of its
    settings; a target that compiles overrides ``build``.

    Attributes:
        name: on the command line and in records.
        title: for people.
        short: in the names of a report's rows.
        suffix: of its engine files.
        scheme: how precision is written for it.
        devices: that ``--device`` may name; empty where there is no choice.
        options: flags of ``build-engine`` that it acts on, beside ``--device``.
        takes_threads: whether its engines run on so many threads of the processor as they are told.
        takes_onnx: whether ``open`` takes a bundle's ONNX file as it is.
        compile_cache: whether it finds what it compiled before in the user's cache.
        tried_apart: whether a build first opens the model in a process of its own, because the
            library compiles it in ours, and a crash there would end us without a word.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    short: ClassVar[str]
    suffix: ClassVar[str]
    scheme: ClassVar[Scheme]
    devices: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[frozenset[str]] = frozenset()
    takes_threads: ClassVar[bool] = False
    takes_onnx: ClassVar[bool] = True
    compile_cache: ClassVar[bool] = False
    tried_apart: ClassVar[bool] = False

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """What a bundle for it may be written in, the lowest first."""
        return self.scheme.rules.precisions

    # ---- what it takes

    def to_build(self) -> tuple[Need, ...]:
        """What must be here to build for it."""
        return ()

    def to_run(self) -> tuple[Need, ...]:
        """What must be here, beside that, to run its engines."""
        return ()

    def obstacles(self, needs: Sequence[Need]) -> list[SegclipError]:
        """Which of some needs are not met here, and how each can be."""
        found = []
        for need in needs:
            try:
                need()
            except SegclipError as error:
                found.append(error)
        return found

    def runs_here(self) -> bool:
        """Whether its engines can be built and run on this machine."""
        return not self.obstacles((*self.to_build(), *self.to_run()))

    def require_here(self) -> None:
        """Accept a machine that its engines can be built and run on.

        Raises:
            MissingDependency: something that this takes is not here.
        """
        for need in (*self.to_build(), *self.to_run()):
            need()

    # ---- building

    def candidates(self, bundle: Bundle, options: BuildOptions) -> list[Settings]:
        """Settings of ``open`` worth trying for a bundle."""
        del bundle, options
        return [{}]

    def build(self, job: BuildJob) -> Built:
        """Write the engine file and prove it, where it can run here.

        Raises:
            BadArtifact: the target refuses the model.
            BadInput: an option that this machine cannot follow.
            GateFailed: the engine does not say what the model says.
            MissingDependency: what it takes to build is not here.
        """
        started = time.perf_counter()
        bundle = job.bundle
        open_backend = partial(self.open, bundle.model_path, batches=bundle.input.batches)
        tile = load_golden(bundle.golden_path).tiles[0]
        candidates = self.candidates(bundle, job.options)
        ranked, search = rank_settings(open_backend, candidates, tile)
        for settings in ranked:  # one that rounds otherwise may be fast and wrong
            with open_backend(**settings) as backend:
                verification, layers = job.prove(backend), self.layers(backend)
            if verification.passed:
                break
        verification.require(where=bundle.path)
        shutil.copyfile(bundle.model_path, job.file)
        return Built(
            device=find_cpu(),
            settings=settings,
            build=Build(seconds=round(time.perf_counter() - started, 3), search=search),
            layers=layers,
            verified=verification,
        )

    def refit(self, engine: Engine, bundle: Bundle, file: Path, prove: Prove) -> Built:
        """Write an engine with the texts of another bundle, without a build, and prove it.

        Raises:
            BadInput: a target that cannot do that, or an engine that was not built for it.
        """
        del file, prove
        raise BadInput(
            f"an engine for {self.name} cannot be refitted",
            where=engine.path,
            fix=engine.rebuild_command(bundle.path),
        )

    # ---- running

    @abstractmethod
    def open(
        self,
        model: Path,
        *,
        batches: range = range(1, 2),
        sha256: str | None = None,
        **settings: Any,
    ) -> Backend:
        """Load an engine file; where ``takes_onnx``, or a bundle's model.

        Args:
            model: the file.
            batches: what to take where the file leaves the batch open.
            sha256: of the file, checked by whoever gives it; a compile cache is used by it alone.
            settings: from ``candidates``, or of the engine's record.

        Raises:
            BadArtifact: the file is refused.
            MissingDependency: what it takes to run is not here.
        """

    def open_unproven(self, model: Path) -> Backend:
        """An ONNX file as it is, to be timed: no bundle, no golden tiles, no search of settings.

        Raises:
            BadArtifact: the file is refused.
            MissingDependency: what it takes to build or to run is not here.
        """
        return self.open(model)

    def device(self) -> CpuDevice | GpuDevice:
        """What its engines run on, here.

        Raises:
            MissingDependency: it is not here.
        """
        return find_cpu()

    def admit(self, engine: Engine) -> None:
        """Accept an engine that was built for this machine.

        Raises:
            MissingDependency: what it takes to run is not here.
            StaleArtifact: it was built for another machine, or library version.
        """
        del engine

    def beside_int8(self) -> str:
        """What this target computes in, here, where a quantized model is not INT8."""
        return "f32"

    def float_settings(self, precision: str) -> Settings:
        """Settings of ``open`` for computing in ``precision`` what is not INT8."""
        del precision
        return {}

    def layers(self, backend: Backend) -> tuple[Layer, ...] | None:
        """Layers of an opened engine, with the types they read; None where its library tells none."""
        del backend
        return None

    def time_layers(
        self, model: Path, backend: Backend, tile: NDArray[np.uint8], settings: Settings
    ) -> Runs | None:
        """Milliseconds by layer, by the library's own counters; None where it has none.

        Args:
            model: the file that runs.
            backend: it, opened.
            tile: (H, W, 3), in every slot of the batch.
            settings: that it was opened with.
        """
        del model, backend, tile, settings
        return None
