"""How a TensorRT engine is built: options, which target takes which, and the words for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from segclip_deploy.errors import BadInput

__all__ = ["BuildOptions", "check_options"]


@dataclass(frozen=True)
class BuildOptions:
    """Options of ``build-engine``, each named like its flag.

    Attributes:
        compute_capability: GPUs to build for, as ``("86", "120")``; empty: the one here.
        workspace: limit of the builder's and engine's scratch memory, MiB.
        optimization_level: 0 (quick build) to 5; None: the library's own.
        timing_iterations: runs a tactic's time is averaged over.
        refittable: the weights named ``text.*`` can be replaced in the engine.
        hardware_compatibility: ``"ampere-plus"`` or ``"same-compute-capability"``.
        version_compatible: later TensorRT of the same major version can run it.
        dla: core of the Deep Learning Accelerator; what it cannot run goes to the GPU.
        timing_cache: file; None: one per GPU, driver and version in the user's cache.
        tries: builds, of which the fastest that passes the flight check is kept.
    """

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

    def given(self) -> Mapping[str, Any]:
        """What differs from the defaults, by flag."""
        return {
            "--" + field.name.replace("_", "-"): getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }

    def arguments(self) -> list[str]:
        """The command line that says the same."""
        words: list[str] = []
        for flag, value in self.given().items():
            words.append(flag)
            if value is not True:
                words.append(",".join(value) if isinstance(value, tuple) else str(value))
        return words


_COMMON = {"--workspace", "--optimization-level", "--refittable", "--tries"}
_TAKES = {
    "tensorrt": _COMMON
    | {
        "--timing-iterations",
        "--hardware-compatibility",
        "--version-compatible",
        "--dla",
        "--timing-cache",
    },
    # It times nothing while it builds, and ignores or refuses the other options [1.7.1].
    "tensorrt-rtx": _COMMON | {"--compute-capability"},
}


def check_options(target: str, options: BuildOptions) -> None:
    """Accept options that the target acts on.

    Raises:
        BadInput: one that it would ignore.
    """
    for flag in options.given():
        if flag not in _TAKES.get(target, ()):
            takers = [name for name, flags in _TAKES.items() if flag in flags]
            raise BadInput(f"is an option of {' and '.join(takers)}, not of {target}", where=flag)
