"""All targets: the one list that command line, doctor, plans and sweeps read."""

from __future__ import annotations

from pathlib import Path

from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.errors import BadArtifact, BadInput
from segclip_deploy.runtime.targets.base import BuildOptions, Target
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntime
from segclip_deploy.runtime.targets.openvino import OpenVino
from segclip_deploy.runtime.targets.tensorrt.rtx import TensorRtRtx
from segclip_deploy.runtime.targets.tensorrt.target import TensorRt

__all__ = [
    "BUNDLES",
    "TARGETS",
    "check_build_options",
    "engine_names",
    "find_target",
    "target_of",
    "timing_target",
]

BUNDLES = OnnxRuntime()
"""What runs a bundle that is given where an engine is expected."""

TARGETS: dict[str, Target] = {
    target.name: target for target in (TensorRt(), TensorRtRtx(), OpenVino(), BUNDLES)
}
"""By name; the first that runs on a machine is the one to prefer there."""


def find_target(name: str, *, where: object, fix: str) -> Target:
    """The target of an engine's record.

    Raises:
        BadArtifact: there is none of this name.
    """
    if name not in TARGETS:
        raise BadArtifact(f"unknown target {name!r}", where=where, fix=fix)
    return TARGETS[name]


def target_of(path: Path) -> Target:
    """The target that an engine file's suffix selects.

    Raises:
        BadInput: a suffix of none.
    """
    for target in TARGETS.values():
        if path.name.endswith(target.suffix):
            return target
    raise BadInput(f"an engine is named {engine_names(' or ')}", where=path)


def engine_names(joined_by: str = ", ") -> str:
    """For people: the names that engine files have, by target."""
    return joined_by.join(f"NAME{target.suffix}" for target in TARGETS.values())


def check_build_options(target: Target, options: BuildOptions) -> None:
    """Accept options that a target acts on.

    Raises:
        BadInput: one that it would ignore, or a device that it does not know.
    """
    given = dict(options.given())
    device = given.pop("--device", None)
    if device is not None and device not in target.devices:
        known = (
            f"one of {', '.join(target.devices)}" if target.devices else "none: it has no choice"
        )
        raise BadInput(f"{device!r} is no device of {target.name} ({known})", where="--device")
    for flag in given:
        if flag not in target.options:
            takers = [other.name for other in TARGETS.values() if flag in other.options]
            raise BadInput(
                f"is an option of {' and '.join(takers)}, not of {target.name}", where=flag
            )


def timing_target(scheme: Scheme) -> Target | None:
    """The target that blocks of a bundle are timed in, here; None where none of a scheme can.

    It must run bundles as they are: engines are timed where they fly.
    """
    return next(
        (
            target
            for target in TARGETS.values()
            if target.scheme is scheme and target.takes_onnx and target.runs_here()
        ),
        None,
    )
