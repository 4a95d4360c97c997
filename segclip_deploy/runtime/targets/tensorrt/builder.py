"""From an ONNX file to a TensorRT plan. Precision is what the file says: strongly typed, always."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segclip_deploy.artifacts.engine_record import TimingCacheUse
from segclip_deploy.artifacts.onnx_file import digest_without, initializer_names
from segclip_deploy.artifacts.onnx_part import until
from segclip_deploy.errors import BadArtifact, BadInput
from segclip_deploy.progress import Report, silent
from segclip_deploy.runtime.targets.base import BuildOptions
from segclip_deploy.runtime.targets.tensorrt.inspector import network_types
from segclip_deploy.runtime.targets.tensorrt.library import (
    Library,
    RtxLibrary,
    complaints,
    library_name,
    logger_of,
)
from segclip_deploy.runtime.targets.tensorrt.timing_cache import TimingCache

if TYPE_CHECKING:
    import tensorrt
    import tensorrt_rtx

__all__ = ["BuiltPlan", "build_plan", "fixed_sha256", "refit_plan"]

_REFITTABLE = "text."  # prefix of the weights that hold the vocabulary
_NO_DLA = 11  # major version of TensorRT that dropped it
_ZERO = ".zero"  # suffix of zero points: always 0, and the library refuses to mark them


@dataclass(frozen=True)
class BuiltPlan:
    """What a build gives.

    Attributes:
        data: the plan, to be written to a file.
        seconds: the build took.
        types: layers of the network by block and element type, as the ONNX file asks.
        timing_cache: how it was used; None without one.
        fixed_sha256: of the model without what a refit replaces; None where nothing is refittable.
    """

    data: tensorrt.IHostMemory
    seconds: float
    types: Mapping[str, Mapping[str, int]]
    timing_cache: TimingCacheUse | None
    fixed_sha256: str | None


def build_plan(
    trt: Library,
    model: Path,
    options: BuildOptions,
    *,
    batches: range,
    logits_only: bool = False,
    timing_cache: TimingCache | None = None,
    report: Report = silent,
) -> BuiltPlan:
    """Parse an ONNX file and build a plan of it.

    The build runs in a thread of its own: Ctrl-C in the caller cancels it at its next step.

    Args:
        trt: ``tensorrt`` or ``tensorrt_rtx``.
        batches: what to take where the file leaves the batch open.
        logits_only: leave out what makes labels and margin of the logits, in FP32.
        timing_cache: None builds without; TensorRT-RTX has none.
        report: told of phases, steps done, steps in all; called from the build's thread.

    Raises:
        BadArtifact: the parser or the builder refuses the model.
        BadInput: an option this machine or library cannot follow.
    """
    complaints(trt)  # what an earlier call left
    builder = trt.Builder(logger_of(trt))
    # TensorRT 11 knows no other networks than strongly typed ones.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = _parse(trt, network, model, logits_only=logits_only)
    config = builder.create_builder_config()
    _configure(trt, builder, network, config, options, model)
    _add_profile(builder, network, config, batches)
    known = timing_cache.attach(trt, config) if timing_cache else None
    cancelled = threading.Event()
    monitor = _monitor(trt, cancelled, report)
    config.progress_monitor = monitor
    started = time.perf_counter()
    with ThreadPoolExecutor(1) as pool:  # leaving it waits for the build
        pool.submit(int).result()  # a Ctrl-C while the thread starts would leave without waiting
        try:
            build = pool.submit(_build, builder, network, config, (parser, monitor))
            while not build.done():  # wakes up: a signal may have reached another thread
                wait([build], timeout=0.1)
            data = build.result()
        except BaseException:
            cancelled.set()
            raise
    if monitor.error is not None:
        raise monitor.error
    if data is None:
        raise BadArtifact(f"{library_name(trt)} cannot build it ({complaints(trt)})", where=model)
    seconds = time.perf_counter() - started
    use = timing_cache.store(config, known) if timing_cache else None
    fixed = fixed_sha256(model) if options.refittable else None
    return BuiltPlan(data, seconds, network_types(network), use, fixed)


def fixed_sha256(model: Path) -> str:
    """SHA-256 of what a refit leaves as it is."""
    return digest_without(model, _refittable(model))


def refit_plan(
    trt: Library, plan: Path, model: Path, *, host_code: bool = False
) -> tensorrt.IHostMemory:
    """A plan with the refittable weights of another ONNX file.

    Args:
        trt: ``tensorrt`` or ``tensorrt_rtx``, with a GPU.
        plan: built with REFIT_INDIVIDUAL.
        model: the same graph with other weights of the same names.
        host_code: let the plan bring code for the host, as version-compatible plans do.

    Raises:
        BadArtifact: the library refuses, or some weights would keep their old values.
    """
    complaints(trt)  # what an earlier call left
    runtime = trt.Runtime(logger_of(trt))
    if host_code:
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        raise BadArtifact(f"{library_name(trt)} refuses it ({complaints(trt)})", where=plan)
    refitter = trt.Refitter(engine, logger_of(trt))
    parser = trt.OnnxParserRefitter(refitter, logger_of(trt))
    done = parser.refit_from_file(str(model)) and not refitter.get_missing_weights()
    if not done or not refitter.refit_cuda_engine():
        raise BadArtifact(f"{library_name(trt)} cannot refit it ({complaints(trt)})", where=plan)
    return engine.serialize()


def _build(
    builder: tensorrt.Builder,
    network: tensorrt.INetworkDefinition,
    config: tensorrt.IBuilderConfig,
    _needed: object,
) -> tensorrt.IHostMemory | None:
    """Build; until it ends, keep what it points into, whatever becomes of the caller.

    The parser owns the weights, and a second Ctrl-C ends the caller before the build.
    """
    return builder.build_serialized_network(network, config)


def _parse(
    trt: Library, network: tensorrt.INetworkDefinition, model: Path, *, logits_only: bool = False
) -> tensorrt.OnnxParser:
    parser = trt.OnnxParser(network, logger_of(trt))
    # Cut in the file: of a network the library checks layers that no output needs, too, and refuses
    # the cast to uint8 where labels are no output.
    parsed = (
        parser.parse(until(model, "logits", "float32"))
        if logits_only
        else parser.parse_from_file(str(model))
    )
    if not parsed:
        errors = [_parser_error(parser.get_error(index)) for index in range(parser.num_errors)]
        complaints(trt)  # the parser logs them as well
        raise BadArtifact(
            f"{library_name(trt)} cannot take {len(errors)} of its nodes: {'; '.join(errors)}",
            where=model,
        )
    return parser


def _refittable(model: Path) -> list[str]:
    """The weights that hold the vocabulary; in INT8 their levels and scales."""
    names = initializer_names(model)
    return [name for name in names if name.startswith(_REFITTABLE) and not name.endswith(_ZERO)]


def _parser_error(error: tensorrt.ParserError) -> str:
    name, operator = (getattr(error, field, str)() for field in ("node_name", "node_operator"))
    return f"{name or 'the file'}{f' ({operator})' if operator else ''}: {error.desc()}"


def _configure(
    trt: Library,
    builder: tensorrt.Builder,
    network: tensorrt.INetworkDefinition,
    config: tensorrt.IBuilderConfig,
    options: BuildOptions,
    model: Path,
) -> None:
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # On by default: FP32 would be computed with 10 bits of mantissa, and the engine fail its check.
    config.clear_flag(trt.BuilderFlag.TF32)
    config.avg_timing_iterations = options.timing_iterations
    if options.compute_capability:
        _aim(trt, config, options.compute_capability)
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace << 20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.refittable:
        config.set_flag(trt.BuilderFlag.REFIT_INDIVIDUAL)
        names = _refittable(model)
        unmarked = [name for name in names if not network.mark_weights_refittable(name)]
        if unmarked or not names:
            raise BadArtifact(
                f"its weights {', '.join(unmarked) or _REFITTABLE + '*'} cannot be made refittable",
                where=model,
                fix="build without --refittable",
            )
    if options.hardware_compatibility:
        config.hardware_compatibility_level = _member(
            trt, "HardwareCompatibilityLevel", options.hardware_compatibility
        )
    if options.version_compatible:
        config.set_flag(_member(trt, "BuilderFlag", "version-compatible"))
    if options.dla is not None:
        if int(trt.__version__.partition(".")[0]) >= _NO_DLA:
            raise BadInput(
                f"{library_name(trt)} supports no DLA (JetPack 7.2.2 and newer)",
                where="--dla",
                fix="leave it out, and build for the GPU",
            )
        cores = getattr(builder, "num_DLA_cores", 0)
        if options.dla >= cores:
            raise BadInput(f"core {options.dla} of {cores} that are here", where="--dla")
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = options.dla
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def _aim(trt: Any, config: Any, wanted: tuple[str, ...]) -> None:
    """Build for some compute capabilities, which TensorRT-RTX alone can be told."""
    rtx: RtxLibrary = trt
    rtx_config: tensorrt_rtx.IBuilderConfig = config
    rtx_config.num_compute_capabilities = len(wanted)
    for index, one in enumerate(wanted):
        rtx_config.set_compute_capability(getattr(rtx.ComputeCapability, f"SM{one}"), index)


def _member(trt: Library, enum: str, word: str) -> Any:
    """A member that not every version has."""
    name = word.upper().replace("-", "_")
    member = getattr(getattr(trt, enum, None), name, None)
    if member is None:
        raise BadInput(f"{library_name(trt)} does not offer it", where=f"--{word}")
    return member


def _add_profile(
    builder: tensorrt.Builder,
    network: tensorrt.INetworkDefinition,
    config: tensorrt.IBuilderConfig,
    batches: range,
) -> None:
    """Say between what sizes an input's open batch may lie; tuned for the largest."""
    (image,) = (network.get_input(index) for index in range(network.num_inputs))
    shape = tuple(image.shape)
    if -1 not in shape:
        return
    if -1 in shape[1:]:
        raise BadArtifact(f"its input {image.name} is {shape}; only the batch may be open")
    low, high = ((batch, *shape[1:]) for batch in (batches[0], batches[-1]))
    profile = builder.create_optimization_profile()
    profile.set_shape(image.name, low, high, high)
    config.add_optimization_profile(profile)


def _monitor(trt: Library, cancelled: threading.Event, report: Report) -> Any:
    """An IProgressMonitor that reports, and stops the build once ``cancelled`` is set.

    Nothing may be raised into the library: an error of ``report`` cancels, and is kept.
    """
    if TYPE_CHECKING:
        from tensorrt import IProgressMonitor as Base
    else:
        Base = trt.IProgressMonitor  # noqa: N806

    class Monitor(Base):  # type: ignore[misc] # Any, without TensorRT
        def __init__(self) -> None:
            Base.__init__(self)
            self.error: BaseException | None = None
            self.steps: dict[str, int] = {}

        def tell(self, phase: str, done: int) -> None:
            if self.error is not None:
                return
            try:
                report(phase, done, self.steps[phase])
            except BaseException as error:
                self.error = error
                cancelled.set()

        def phase_start(self, phase: str, _parent: str | None, steps: int) -> None:
            self.steps[phase] = steps
            self.tell(phase, 0)

        def step_complete(self, phase: str, step: int) -> bool:
            self.tell(phase, step + 1)
            return not cancelled.is_set()

        def phase_finish(self, phase: str) -> None:
            self.tell(phase, self.steps[phase])

    return Monitor()
