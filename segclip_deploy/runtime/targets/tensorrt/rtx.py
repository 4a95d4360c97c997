"""TensorRT-RTX: as TensorRT, but ahead of time, for GPUs that need not be here."""

from __future__ import annotations

from typing import Any

from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.artifacts.engine_record import GpuDevice
from segclip_deploy.errors import BadInput, MissingDependency, command
from segclip_deploy.runtime.targets.base import BuildOptions, Need
from segclip_deploy.runtime.targets.device import Gpu, find_gpu
from segclip_deploy.runtime.targets.tensorrt.library import (
    Library,
    RtxLibrary,
    library_name,
    load_library,
)
from segclip_deploy.runtime.targets.tensorrt.target import TensorRt, cuda_needs
from segclip_deploy.runtime.targets.tensorrt.timing_cache import TimingCache

__all__ = ["TensorRtRtx"]


class TensorRtRtx(TensorRt):
    """Engines ``NAME.rtx``: plans for any GPUs, which need not be here."""

    name = "tensorrt-rtx"
    title = "TensorRT-RTX"
    extra = "rtx"
    short = "rtx"
    suffix = ".rtx"
    # It times nothing while it builds, and ignores or refuses the other options [1.7.1].
    options = frozenset(
        {
            "--workspace",
            "--optimization-level",
            "--refittable",
            "--tries",
            "--labels",
            "--compute-capability",
            "--require-precision",
        }
    )

    def to_build(self) -> tuple[Need, ...]:
        """The library."""
        return (lambda: load_library(self.name),)

    def to_run(self) -> tuple[Need, ...]:
        """A GPU and PyCUDA."""
        return cuda_needs(self.extra)

    def _aim(
        self, trt: Library, options: BuildOptions, bundle: Bundle | None
    ) -> tuple[Gpu | None, tuple[str, ...], str | None]:
        rtx: Any = trt
        known = _capabilities(rtx)
        wanted = options.compute_capability
        unknown = [one for one in wanted if one not in known]
        if unknown:
            raise BadInput(
                f"{library_name(trt)} builds for {', '.join(known)}, not for {', '.join(unknown)}",
                where="--compute-capability",
            )
        try:
            gpu = find_gpu(why=f"building for {self.name}")
        except MissingDependency as error:
            if not wanted:
                raise BadInput(
                    "no NVIDIA GPU is here to build for",
                    where=self.name,
                    fix="say for which: --compute-capability 86,89,120",
                ) from error
            return None, wanted, "no NVIDIA GPU is here"
        here = gpu.compute_capability.replace(".", "")
        if not wanted and here not in known:
            raise BadInput(
                f"{library_name(trt)} builds for {', '.join(known)}, and the GPU here, {gpu.gpu}, "
                f"has {here}",
                where=self.name,
                fix="take --target tensorrt"
                if bundle is None
                else "build for TensorRT: "
                + command("segclip-deploy", "build-engine", bundle.path, "-o", "NAME.engine"),
            )
        if wanted and here not in wanted:
            return gpu, wanted, f"the GPU here has compute capability {gpu.compute_capability}"
        return gpu, wanted or (here,), None

    def _named(self, capabilities: tuple[str, ...]) -> tuple[str, ...]:
        return capabilities

    def _device(self, trt: Library, gpu: Gpu | None, capabilities: tuple[str, ...]) -> GpuDevice:
        del gpu  # the plan is for every GPU of these capabilities
        return super()._device(trt, None, capabilities)

    def _timing_cache(
        self, trt: Library, gpu: Gpu | None, options: BuildOptions
    ) -> TimingCache | None:
        del trt, gpu, options
        return None


def _capabilities(rtx: RtxLibrary) -> list[str]:
    """What TensorRT-RTX builds for, as ``"86"``."""
    return [name[2:] for name in rtx.ComputeCapability.__members__ if name.startswith("SM")]
