"""``build-engine``: make an engine of a bundle, prove it where it can run, and say what it is."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from segclip_deploy import __version__
from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.artifacts.bundle_record import BUNDLE
from segclip_deploy.artifacts.files import locked, replace_file, sha256_file, temporary_file
from segclip_deploy.artifacts.golden import load_golden
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.errors import BadArtifact
from segclip_deploy.runtime.engine import (
    ENGINE_SCHEMA,
    TARGETS,
    Engine,
    golden_path,
    load_engine,
    sidecar,
    target_of,
)
from segclip_deploy.runtime.inference.backend import Backend
from segclip_deploy.runtime.targets.device import find_cpu, has_gpu
from segclip_deploy.runtime.targets.onnxruntime import providers
from segclip_deploy.runtime.targets.openvino import precisions
from segclip_deploy.runtime.targets.tensorrt.builder import Progress
from segclip_deploy.runtime.targets.tensorrt.library import MODULES
from segclip_deploy.runtime.targets.tensorrt.make import make_plan
from segclip_deploy.runtime.targets.tensorrt.options import BuildOptions, check_options
from segclip_deploy.runtime.targets.tuning import rank_settings, thread_counts
from segclip_deploy.runtime.verify import Verification, check, verify

__all__ = ["build_engine", "check_scheme", "prove", "write_engine"]


def build_engine(
    bundle: Bundle,
    out: Path,
    *,
    options: BuildOptions | None = None,
    progress: Progress | None = None,
) -> Engine:
    """Make an engine of a bundle, in the precision that is written in the bundle.

    It is proven on the golden tiles where this machine can run it; where it cannot, the sidecar
    says so and why.

    Args:
        bundle: what to build.
        out: its name says the target: ``NAME.engine`` (TensorRT), ``NAME.rtx`` (TensorRT-RTX),
            ``NAME.ov.onnx`` (OpenVINO) or ``NAME.ort.onnx`` (ONNX Runtime).
        options: of a TensorRT build.
        progress: told of the phases of a TensorRT build.

    Raises:
        BadArtifact: the bundle is for other targets, the target refuses the model, or a timing
            cache cannot be used.
        BadInput: a name that stands for no target, or an option that has no effect there.
        GateFailed: the engine does not say what the model says; nothing is written.
        MissingDependency: the target is not installed, or needs a GPU to build.
    """
    options = options or BuildOptions()
    target = target_of(out)
    check_options(target, options)
    check_scheme(target, bundle)
    with temporary_file(out) as file:
        if target in MODULES:
            facts = make_plan(target, bundle, file, options, prove, progress)
        else:
            facts = _take_model(target, bundle, file)
        write_engine(out, file, target, bundle, {"arguments": options.arguments(), **facts})
    return load_engine(out)


def check_scheme(target: str, bundle: Bundle) -> None:
    """Accept a bundle in FP32, or one whose precision was written for such a target.

    Raises:
        BadArtifact: it was written for others.
    """
    wanted = Scheme.TENSORRT if target in MODULES else Scheme.CPU
    if bundle.scheme not in (None, wanted):
        raise BadArtifact(
            f"its {bundle.precision} was written in scheme {bundle.scheme.value}, "
            f"an engine for {target} needs {wanted.value}",
            where=bundle.path,
            fix=f"segclip-deploy quantize FP32_BUNDLE --scheme {wanted.value} --precision int8 "
            f"--table TABLE -o BUNDLE",
        )


def write_engine(
    out: Path, file: Path, target: str, bundle: Bundle, facts: Mapping[str, Any]
) -> None:
    """Put an engine in its place, with its golden tiles and its sidecar.

    Two processes may build the same engine: each puts all three there, one after the other.

    Args:
        out: the engine's place.
        file: the engine, in the same directory; it is moved.
        target: a key of ``TARGETS``.
        bundle: what it was made of.
        facts: what the sidecar holds besides hashes and the bundle's record.
    """
    record = {
        "schema": ENGINE_SCHEMA,
        "segclip_deploy": __version__,
        "target": target,
        "engine_sha256": sha256_file(file),
        "golden_sha256": bundle.files[bundle.golden_path.name],
        "bundle_sha256": bundle.sha256,
        "bundle_path": str(bundle.path),
        "bytes": file.stat().st_size,
        **facts,
        "bundle": BUNDLE.dump(bundle.record),
    }
    with (
        locked(out),
        replace_file(out) as engine,
        replace_file(sidecar(out)) as written,
        replace_file(golden_path(out)) as tiles,
    ):
        file.replace(engine)
        shutil.copyfile(bundle.golden_path, tiles)
        written.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def prove(bundle: Bundle, backend: Backend) -> Verification:
    """Hold a backend against a bundle's golden tiles."""
    return verify(backend, load_golden(bundle.golden_path), bundle.vocabulary.names)


def _take_model(target: str, bundle: Bundle, file: Path) -> dict[str, Any]:
    """OpenVINO and ONNX Runtime: the model itself, with the settings that are fastest here."""
    started = time.perf_counter()
    cpu = find_cpu()
    candidates: list[dict[str, Any]] = [{"threads": n} for n in thread_counts(cpu.cores)]
    if target == "openvino":
        # What was exported as FP32 is run as FP32: in BF16 it would be another model.
        offered = ("f32",) if bundle.precision == "fp32" else precisions()
        candidates = [{**c, "precision": p} for p in offered for c in candidates]
    else:
        candidates += [{"provider": name} for name in providers() if name != "cpu" and has_gpu()]
    open_backend = partial(TARGETS[target].open, bundle.model_path, batches=bundle.input.batches)
    tile = load_golden(bundle.golden_path).tiles[0]
    ranked, search = rank_settings(open_backend, candidates, tile)
    for settings in ranked:  # a provider that rounds otherwise may be fast and wrong
        backend = open_backend(**settings)
        try:
            verification = prove(bundle, backend)
        finally:
            backend.close()
        if verification.passed:
            break
    check(verification, where=bundle.path)
    shutil.copyfile(bundle.model_path, file)
    return {
        "device": cpu.to_json(),
        "settings": settings,
        "build": {"seconds": round(time.perf_counter() - started, 3), "search": search},
        "layers": None,
        "verified": verification.to_json(),
        "not_verified": None,
    }
