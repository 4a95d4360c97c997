"""``build-engine``: make an engine of a bundle, prove it where it can run, and say what it is."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.artifacts.engine import Engine, load_engine, write_engine
from segclip_deploy.artifacts.engine_record import Built, Verification
from segclip_deploy.artifacts.files import temporary_file
from segclip_deploy.artifacts.golden import load_golden
from segclip_deploy.artifacts.precision_share import PrecisionShare, precision_shares
from segclip_deploy.artifacts.scheme import Precision, Scheme
from segclip_deploy.errors import BadArtifact, BadInput, GateFailed, command
from segclip_deploy.progress import Report, silent
from segclip_deploy.runtime.inference.backend import Backend
from segclip_deploy.runtime.registry import check_build_options, find_target, target_of
from segclip_deploy.runtime.targets.base import BuildJob, BuildOptions, Target
from segclip_deploy.runtime.trial import try_apart
from segclip_deploy.runtime.verify import verify

__all__ = ["build_engine", "refit_engine", "with_both_labels"]

_SAME = ("input", "outputs", "precision", "plan", "model")  # what a refit does not change


def build_engine(
    bundle: Bundle,
    out: str | Path,
    *,
    options: BuildOptions | None = None,
    report: Report = silent,
) -> Engine:
    """Make an engine of a bundle, in the precision that is written in the bundle.

    It is proven on the golden tiles where this machine can run it; where it cannot, the record
    says so and why. A target that compiles in this process does so in another one before: a
    library that crashes on a model costs an error, which names the operator.

    Args:
        bundle: what to build.
        out: its suffix selects the target: ``NAME.engine`` (TensorRT), ``NAME.rtx`` (TensorRT-RTX),
            ``NAME.ov.onnx`` (OpenVINO) or ``NAME.ort.onnx`` (ONNX Runtime).
        options: that the target acts on.
        report: told of the phases of a build.

    Raises:
        BadArtifact: the bundle is for other targets, the target refuses the model or crashes on
            it, or a timing cache cannot be used.
        BadInput: a name that stands for no target, or an option that has no effect there.
        GateFailed: the engine does not say what the model says, or too little of it is known to run
            as planned; nothing is written.
        MissingDependency: the target is not installed, or needs a GPU to build.
    """
    out, options = Path(out), options or BuildOptions()
    target = target_of(out)
    check_build_options(target, options)
    _check_scheme(target, bundle)
    bundle = bundle.for_scheme(target.scheme)
    if reason := _other_graph(target, bundle):
        warnings.warn(reason, stacklevel=2)
    _check_operators(bundle, options)
    if target.tried_apart:
        try_apart(target, bundle, options, report)
    with temporary_file(out) as file:
        built = target.build(BuildJob(bundle, file, partial(_prove, bundle), options, report))
        _require_precision(bundle, out, options, built)
        write_engine(
            out, file, bundle, target=target.name, arguments=options.arguments(), built=built
        )
    return load_engine(out)


def with_both_labels(target: Target, options: BuildOptions | None = None) -> BuildOptions:
    """Options that let a target try every way of making labels, where it has several and none is chosen."""
    options = options or BuildOptions()
    if "--labels" not in target.options or options.labels:
        return options
    return replace(options, labels="auto")


def refit_engine(engine: Engine, bundle: Bundle) -> Engine:
    """Let an engine take over the vocabulary of another bundle, without a build.

    Its weights ``text.*`` are replaced by the bundle's, and it is proven on the bundle's tiles.

    Args:
        engine: TensorRT or TensorRT-RTX, built with ``--refittable``, on this machine.
        bundle: of the same model and input, with another vocabulary of as many classes.

    Raises:
        BadArtifact: TensorRT refuses to refit it.
        BadInput: an engine that cannot be refitted, or a bundle of another model.
        GateFailed: the refitted engine does not say what the bundle says; the old one stays.
        MissingDependency: no GPU, or no TensorRT.
        StaleArtifact: the engine was built for another machine.
    """
    path, record = engine.path, engine.record
    target = find_target(record.target, where=path, fix=engine.rebuild_command())
    differing = [
        name for name in _SAME if getattr(record.bundle, name) != getattr(bundle.record, name)
    ]
    if differing:
        raise BadInput(
            f"another model than the engine's: {', '.join(differing)} differs", where=bundle.path
        )
    bundle = bundle.for_scheme(target.scheme)
    with temporary_file(path) as file:
        built = target.refit(engine, bundle, file, partial(_prove, bundle))
        write_engine(
            path, file, bundle, target=target.name, arguments=record.arguments, built=built
        )
    return load_engine(path)


def _other_graph(target: Target, bundle: Bundle) -> str | None:
    """What may make an engine slower than need be: it is built of the graph for others."""
    wanted = target.scheme.rules.lowering
    if bundle.lowering == wanted:
        return None
    quantized = "" if bundle.scheme is None else ", and quantize that"
    again = command("segclip-deploy", "export", "CKPT", "-o", "FP32_BUNDLE", "--for", wanted.value)
    return (
        f"{bundle.path}: its graph is written for {bundle.lowering.value} engines, and {target.title} "
        f"may be slower on it; {again}{quantized}"
    )


def _check_scheme(target: Target, bundle: Bundle) -> None:
    """Accept a bundle in FP32, or one whose precision was written for such a target.

    Raises:
        BadArtifact: it was written for others.
    """
    if bundle.scheme not in (None, target.scheme):
        raise BadArtifact(
            f"its {bundle.precision} was written in scheme {bundle.scheme.value}, "
            f"an engine for {target.name} needs {target.scheme.value}",
            where=bundle.path,
            fix=_requantize(bundle.precision, target.scheme),
        )


def _check_operators(bundle: Bundle, options: BuildOptions) -> None:
    """Accept a bundle that says what each operator was planned in, where that is to be held to.

    Raises:
        GateFailed: it was written before bundles did.
    """
    done = bundle.record.quantization
    if options.require_precision is not None and done and done.operators is None:
        raise GateFailed(
            "it does not say what each operator was planned in, so nothing proves what runs so",
            where=bundle.path,
            fix=_requantize(bundle.precision, done.scheme),
        )


def _require_precision(bundle: Bundle, out: Path, options: BuildOptions, built: Built) -> None:
    """Accept an engine of which as much is known to run as planned as was asked for.

    Raises:
        GateFailed: less is known to, or its layers cannot be looked into here.
    """
    percent = options.require_precision
    if percent is None or bundle.record.plan is None:  # nothing in it is planned below FP32
        return
    where, build = f"--require-precision {percent}", ("segclip-deploy", "build-engine")
    without = command(
        *(*build, bundle.path, "-o", out), *replace(options, require_precision=None).arguments()
    )
    shares = precision_shares(bundle.record, built.layers)
    if shares is None and built.not_verified:
        again = command(*build, bundle.path, "-o", out, *options.arguments())
        raise GateFailed(
            f"nothing proves what the engine computes in: {built.not_verified}",
            where=where,
            fix=f"on the machine that flies: {again}",
        )
    if shares is None:
        raise GateFailed(
            "nothing proves what the engine computes in: its library tells nothing of its layers",
            where=where,
            fix=without,
        )
    for share in shares:
        if not share.reaches(percent):
            raise GateFailed(
                f"{share} ({_largest(share)})",
                where=where,
                fix=f"to see all of them: {without}; {command('segclip-deploy', 'inspect', out)}",
            )


def _largest(share: PrecisionShare) -> str:
    """Which operators do not run as planned, or may not; the largest three of each."""
    parts = []
    for verb, operators in (("fell back", share.fell_back), ("unknown", share.unknown)):
        named = [f"{n} {m / share.planned:.1%}" for n, m in list(operators.items())[:3]]
        more = [f"{len(operators) - 3} more"] if len(operators) > 3 else []
        if named:
            parts.append(f"{verb}: {', '.join(named + more)}")
    return "; ".join(parts)


def _requantize(precision: Precision, scheme: Scheme) -> str:
    """The command that writes a precision in a scheme; that for FP32 where it has none such."""
    if precision not in scheme.rules.precisions:
        return command("segclip-deploy", "build-engine", "FP32_BUNDLE", "-o", "ENGINE")
    table = ("--table", "TABLE") if precision == "int8" else ()
    return command(*("segclip-deploy", "quantize", "FP32_BUNDLE", "--scheme", scheme.value),
                   *("--precision", precision, *table, "-o", "BUNDLE"))  # fmt: skip


def _prove(bundle: Bundle, backend: Backend) -> Verification:
    """Hold a backend against a bundle's golden tiles."""
    return verify(backend, load_golden(bundle.golden_path), bundle.vocabulary.names)
