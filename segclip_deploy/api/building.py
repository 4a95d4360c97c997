"""Build: ``build-engine`` and ``verify``, which end in an engine that may fly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from segclip_deploy.api._arguments import AnyPath, check_choice, check_range, optional_path
from segclip_deploy.errors import UsageError
from segclip_deploy.evaluation.choices import LAYOUT_NAMES
from segclip_deploy.progress import Report, silent

if TYPE_CHECKING:
    from segclip_deploy.artifacts.engine import Engine
    from segclip_deploy.artifacts.engine_record import LabelMaker, Verification
    from segclip_deploy.planning.build_at_precision import BuildPrecision

__all__ = ["build_engine", "verify"]


def build_engine(
    bundle: AnyPath,
    *,
    out: AnyPath,
    device: str | None = None,
    compute_capability: Sequence[str] = (),
    workspace: int | None = None,
    optimization_level: int | None = None,
    timing_iterations: int = 8,
    refittable: bool = False,
    hardware_compatibility: str | None = None,
    version_compatible: bool = False,
    dla: int | None = None,
    timing_cache: AnyPath | None = None,
    tries: int = 1,
    labels: LabelMaker | Literal["auto"] | None = None,
    require_precision: int | None = None,
    precision: BuildPrecision | None = None,
    calib: AnyPath | None = None,
    eval: AnyPath | None = None,
    layout: str | None = None,
    mask_suffix: str = "",
    bands: tuple[int, int, int] | None = None,
    scale: tuple[float, float] | None = None,
    keep_scale: bool = False,
    ignore_alpha: bool = False,
    allow_remote: bool = False,
    max_miou_drop: float = 0.3,
    report: Report = silent,
) -> Engine:
    """Make an engine of a bundle for the machine that will run it, and prove it on golden tiles.

    Its precision is what is written in the bundle, unless ``precision`` is given.

        engine = api.build_engine("int8", out="dubai.ov.onnx")
        engine.record.built.verified.passed

    Args:
        bundle: what to build.
        out: the engine file; its suffix selects the target: ``NAME.engine`` (TensorRT),
            ``NAME.rtx`` (TensorRT-RTX), ``NAME.ov.onnx`` (OpenVINO), ``NAME.ort.onnx`` (ONNX
            Runtime).
        device: of the target's devices, which ``doctor`` lists; by default its first.
        compute_capability: TensorRT-RTX: build for these GPUs, as ``("86", "89")``.
        workspace: TensorRT: scratch memory at most, MiB.
        optimization_level: TensorRT: 0 builds quickly, 5 searches longest.
        timing_iterations: TensorRT: runs that a kernel's time is averaged over.
        refittable: TensorRT: let ``set_texts`` replace the texts in the engine.
        hardware_compatibility: TensorRT: ``"ampere-plus"`` or ``"same-compute-capability"``.
        version_compatible: TensorRT: run with later versions, too.
        dla: TensorRT: the number of a DLA core; the rest runs on the GPU.
        timing_cache: TensorRT: a file; by default in the user's cache directory.
        tries: TensorRT: build so often, keep the fastest that passes its verification.
        labels: TensorRT: what makes them of the logits. ``"graph"``, the default, is the engine's own
            graph; ``"kernel"`` is a CUDA kernel behind it; ``"auto"`` builds both and keeps the
            faster that passes, as precision ``"auto"`` does by default.
        require_precision: TensorRT, OpenVINO: fail where fewer percent of the planned INT8 or FP16 MACs
            are known to run so.
        precision: on a workstation: ``"fp16"`` or ``"int8"``, written into the bundle before;
            ``"auto"`` builds two engines and keeps the faster.
        calib: real tiles, for ``"int8"`` and ``"auto"``.
        eval: a dataset whose split ``plan``, or only split, evaluates plans; for ``"auto"``.
        layout, mask_suffix: of that dataset.
        bands, scale, keep_scale, ignore_alpha, allow_remote: of ``calib``, as of ``calibrate``.
        max_miou_drop: percentage points of mIoU that ``"auto"`` may lose.
        report: told of the phases.

    Raises:
        UsageError: arguments that do not go together.
        BadArtifact: the bundle is for other targets, or the target refuses the model.
        BadInput: a suffix that stands for no target, or an option without effect there.
        GateFailed: the engine does not say what the bundle says, or too little is known to run as
            planned; nothing is written.
        MissingDependency: the target is not installed, or needs a GPU to build.
    """
    check_choice("--layout", layout, LAYOUT_NAMES)
    check_range("--workspace", workspace, 1)
    check_range("--optimization-level", optimization_level, 0, 5)
    check_range("--timing-iterations", timing_iterations, 1)
    levels = ("ampere-plus", "same-compute-capability")
    check_choice("--hardware-compatibility", hardware_compatibility, levels)
    check_range("--dla", dla, 0)
    check_range("--tries", tries, 1)
    check_choice("--labels", labels, ("graph", "kernel", "auto"))
    check_range("--require-precision", require_precision, 1, 100)
    check_choice("--precision", precision, ("fp16", "int8", "auto"))
    from segclip_deploy.artifacts.bundle import load_bundle
    from segclip_deploy.runtime.build_engine import build_engine as build
    from segclip_deploy.runtime.io.raster.source import Reading
    from segclip_deploy.runtime.targets.base import BuildOptions

    reading = Reading(bands, scale, keep_scale, ignore_alpha, allow_remote)
    if precision is None and (calib is not None or eval is not None):
        raise UsageError("--calib and --eval go with --precision")
    if calib is None and reading.given:
        raise UsageError(f"{reading.given[0]} goes with --calib")
    if (layout or mask_suffix) and eval is None:
        raise UsageError("--layout and --mask-suffix go with --eval")
    options = BuildOptions(
        device=device,
        compute_capability=tuple(compute_capability),
        workspace=workspace,
        optimization_level=optimization_level,
        timing_iterations=timing_iterations,
        refittable=refittable,
        hardware_compatibility=hardware_compatibility,
        version_compatible=version_compatible,
        dla=dla,
        timing_cache=optional_path(timing_cache),
        tries=tries,
        labels=labels,
        require_precision=require_precision,
    )
    loaded = load_bundle(bundle)
    if precision is None:
        if require_precision is not None and loaded.record.plan is None:
            raise UsageError(f"--require-precision: all of {loaded.path} is FP32; leave it out")
        return build(loaded, Path(out), options=options, report=report)
    from segclip_deploy.planning.build_at_precision import build_at_precision

    return build_at_precision(
        loaded,
        Path(out),
        precision,
        calib=optional_path(calib),
        dataset=optional_path(eval),
        layout=layout,
        mask_suffix=mask_suffix,
        reading=reading,
        max_miou_drop=max_miou_drop / 100,
        options=options,
        report=report,
    )


def verify(engine: AnyPath) -> Verification:
    """Hold an engine or a bundle against its golden tiles.

    Args:
        engine: an engine; or a bundle, which runs in ONNX Runtime.

    Returns:
        every check, whether it passed, and what was found; ``require`` raises if one failed.

    Raises:
        BadArtifact: neither an engine nor a bundle, or it cannot run here.
        GateFailed: a file was changed since it was made.

    Examples:
        >>> from segclip_deploy import api
        >>> api.verify("dubai.ort.onnx").passed
        True
    """
    from segclip_deploy.artifacts.golden import load_golden
    from segclip_deploy.errors import GateFailed, StaleArtifact
    from segclip_deploy.runtime.open_engine import open_engine
    from segclip_deploy.runtime.verify import verify as check

    try:
        opened = open_engine(engine)
    except StaleArtifact as error:  # edited since it was made: here, that is the check failing
        raise GateFailed(error.what, where=error.where, fix=error.fix) from error
    with opened.backend as backend:
        return check(backend, load_golden(opened.golden_path), opened.vocabulary.names)
