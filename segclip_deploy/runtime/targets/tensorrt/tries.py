"""Of several plans of one bundle, which is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.artifacts.engine_record import LabelMaker, Try, Verification
from segclip_deploy.artifacts.precision_share import Layer
from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.targets.base import BuildOptions, Settings
from segclip_deploy.runtime.targets.tensorrt.builder import BuiltPlan

__all__ = ["Flown", "Tried", "dotted", "fastest", "label_makers", "settings_of"]

_KERNEL_FROM = 80  # compute capability that the PTX of the kernel is for, and all newer ones


@dataclass(frozen=True)
class Flown:
    """What a plan did on the GPU that is here.

    Attributes:
        verification: all checks.
        layers: of the plan, where the library tells them.
        median_ms: milliseconds an inference.
        rounds: inferences timed.
    """

    verification: Verification
    layers: tuple[Layer, ...] | None
    median_ms: float
    rounds: int


@dataclass(frozen=True)
class Tried:
    """One of the plans that a build may keep; ``flown`` is None where the GPU is not here."""

    labels: LabelMaker
    settings: Settings
    plan: BuiltPlan
    flown: Flown | None

    def to_record(self) -> Try | None:
        """What the engine's record says of it; None where it did not fly."""
        if self.flown is None:
            return None
        return Try(
            median_ms=self.flown.median_ms,
            rounds=self.flown.rounds,
            passed=self.flown.verification.passed,
            labels=self.labels,
        )


def label_makers(
    options: BuildOptions, capabilities: Sequence[str], *, here: bool
) -> tuple[LabelMaker, ...]:
    """What is to make the labels: a plan is built for each, and the fastest stays.

    Args:
        options: of the build.
        capabilities: to build for, as ``"86"``.
        here: whether the plans can be run here, and so compared.

    Raises:
        BadInput: a kernel, for a GPU that it does not run on.
    """
    older = ", ".join(dotted(one) for one in capabilities if int(one) < _KERNEL_FROM)
    if options.labels == "kernel" and older:
        raise BadInput(
            f"the kernel is for compute capability 8.0 and newer, not for {older}",
            where="--labels kernel",
            fix="use --labels graph",
        )
    if options.labels == "auto":
        return ("graph", "kernel") if here and not older else ("graph",)
    return (options.labels or "graph",)


def settings_of(options: BuildOptions, bundle: Bundle, labels: LabelMaker) -> Settings:
    """Settings of ``open`` for a plan."""
    settings: dict[str, Any] = {"host_code": True} if options.version_compatible else {}
    if labels == "kernel":
        settings["outputs"] = " ".join(bundle.outputs)
    return settings


def fastest(tries: Sequence[Tried], *, where: Path) -> Tried:
    """Of the plans that passed verification, or could not fly, the fastest.

    Raises:
        GateFailed: none passed.
    """
    passed = [one for one in tries if not one.flown or one.flown.verification.passed]
    if not passed:
        for one in tries:
            assert one.flown is not None  # it did not pass
            one.flown.verification.require(where=where)
    return min(passed, key=lambda one: one.flown.median_ms if one.flown else 0.0)


def dotted(capability: str) -> str:
    """``"87"`` as people write it: ``"8.7"``."""
    return f"{capability[:-1]}.{capability[-1]}"
