"""Build a plan, prove it if the GPU is here, and gather what the sidecar says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.artifacts.golden import load_golden
from segclip_deploy.errors import BadInput, MissingDependency
from segclip_deploy.runtime.targets.device import Gpu, find_gpu
from segclip_deploy.runtime.targets.tensorrt.backend import TensorRtBackend
from segclip_deploy.runtime.targets.tensorrt.builder import Plan, Progress, build_plan
from segclip_deploy.runtime.targets.tensorrt.compatibility import device_record
from segclip_deploy.runtime.targets.tensorrt.inspector import by_block, engine_layers
from segclip_deploy.runtime.targets.tensorrt.library import library_name, load_cuda, load_library
from segclip_deploy.runtime.targets.tensorrt.options import BuildOptions
from segclip_deploy.runtime.targets.tensorrt.timing_cache import TimingCache, default_path
from segclip_deploy.runtime.targets.tuning import median_ms
from segclip_deploy.runtime.verify import Verification, check

__all__ = ["Flown", "fly", "make_plan"]

_ROUNDS = 50  # inferences that choose between tries


@dataclass(frozen=True)
class Flown:
    """What a plan did on the GPU that is here."""

    verification: Verification
    layers: list[dict[str, Any]] | None
    median_ms: float


def make_plan(
    target: str,
    bundle: Bundle,
    file: Path,
    options: BuildOptions,
    prove: Callable[[Bundle, TensorRtBackend], Verification],
    progress: Progress | None,
) -> dict[str, Any]:
    """Write a plan to a file: of several tries the fastest that passes the flight check.

    Returns:
        the sidecar's facts. What only a run can tell is None where the GPU is not here, and
        ``not_verified`` is the reason.

    Raises:
        BadArtifact: the model or the timing cache is refused.
        BadInput: an option that this machine cannot follow.
        GateFailed: no try passed.
        MissingDependency: something to build or prove it with is not here.
    """
    trt = load_library(target)
    gpu, capabilities, obstacle = _aim(target, options)
    if obstacle is None:
        load_cuda()  # not after minutes of building
    for flag, given in (("--tries", options.tries > 1), ("--refittable", options.refittable)):
        if obstacle and given:
            raise BadInput(f"it needs the GPU that the engine is for: {obstacle}", where=flag)
    cache = _timing_cache(trt, gpu, options) if target == "tensorrt" and gpu else None
    aimed = replace(options, compute_capability=capabilities if target == "tensorrt-rtx" else ())
    settings = {"host_code": True} if options.version_compatible else {}
    tries: list[tuple[Plan, Flown | None]] = []
    for _ in range(options.tries):
        plan = build_plan(
            trt,
            bundle.model_path,
            aimed,
            batches=bundle.input.batches,
            timing_cache=cache,
            progress=progress,
        )
        file.write_bytes(plan.data)
        flown = None if obstacle else fly(file, target, bundle, prove, settings)
        tries.append((plan, flown))
    best, flown = _fastest(tries, where=bundle.path)
    file.write_bytes(best.data)
    return {
        "device": device_record(
            trt, gpu if target == "tensorrt" else None, [_dotted(c) for c in capabilities]
        ),
        "settings": settings,
        "build": {
            "seconds": round(best.seconds, 3),
            "timing_cache": best.timing_cache,
            "tries": [
                {"median_ms": f.median_ms, "rounds": _ROUNDS, "passed": f.verification.passed}
                for _, f in tries
                if f
            ],
        },
        "network": best.types,
        "layers": flown and flown.layers,
        "blocks": by_block(flown.layers) if flown and flown.layers else None,
        "verified": flown and flown.verification.to_json(),
        "not_verified": obstacle,
    }


def fly(
    file: Path,
    target: str,
    bundle: Bundle,
    prove: Callable[[Bundle, TensorRtBackend], Verification],
    settings: dict[str, Any],
) -> Flown:
    """Run a plan: the flight check, its layers, its time for one inference."""
    tile = load_golden(bundle.golden_path).tiles[0]
    backend = TensorRtBackend(file, target=target, batches=bundle.input.batches, **settings)
    try:
        layers = engine_layers(backend.describe())
        verification = prove(bundle, backend)
        (milliseconds,) = median_ms([backend], tile, rounds=_ROUNDS)
    finally:
        backend.close()
    return Flown(verification, layers, round(milliseconds, 3))


def _aim(target: str, options: BuildOptions) -> tuple[Gpu | None, tuple[str, ...], str | None]:
    """The GPU here, the compute capabilities to build for, and why it cannot run here if so."""
    wanted = options.compute_capability
    try:
        gpu = find_gpu(why=f"building for {target}")
    except MissingDependency as error:
        if target == "tensorrt":
            raise
        if not wanted:
            raise BadInput(
                "no NVIDIA GPU is here to build for",
                where=target,
                fix="say for which: --compute-capability 86,89,120",
            ) from error
        return None, wanted, "no NVIDIA GPU is here"
    here = gpu.compute_capability.replace(".", "")
    if wanted and here not in wanted:
        return gpu, wanted, f"the GPU here has compute capability {gpu.compute_capability}"
    return gpu, wanted or (here,), None


def _timing_cache(trt: ModuleType, gpu: Gpu, options: BuildOptions) -> TimingCache | None:
    if options.tries > 1:  # measurements of the first would make all the others the same
        if options.timing_cache:
            raise BadInput("tries do not differ with one", where="--timing-cache")
        return None
    key = {"gpu": gpu.gpu, "driver": gpu.driver, "library": library_name(trt)}
    return TimingCache(options.timing_cache or default_path(key), key)


def _fastest(tries: list[tuple[Plan, Flown | None]], *, where: Path) -> tuple[Plan, Flown | None]:
    passed = [(plan, flown) for plan, flown in tries if not flown or flown.verification.passed]
    if not passed:
        for _, flown in tries:
            assert flown is not None  # it did not pass
            check(flown.verification, where=where)
    return min(passed, key=lambda made: made[1].median_ms if made[1] else 0.0)


def _dotted(capability: str) -> str:
    return f"{capability[:-1]}.{capability[-1]}"
