"""Where PyTorch computes, in which precision, and what makes it compute the same once more."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from segclip_deploy.artifacts.checkpoint_record import TrainSettings
from segclip_deploy.errors import MissingDependency

__all__ = ["autocast_of", "choose_device", "repeatable"]

_ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]  # the others' gradients differ by run


def choose_device(asked: str) -> Literal["cpu", "cuda"]:
    """The device to compute on; of ``"auto"``, the GPU where PyTorch finds one.

    Raises:
        MissingDependency: ``"cuda"``, and PyTorch finds none.
    """
    found = torch.cuda.is_available()
    if asked == "cpu" or (asked == "auto" and not found):
        return "cpu"
    if not found:
        why = (
            "PyTorch finds no NVIDIA GPU"
            if torch.version.cuda
            else f"PyTorch {torch.__version__} is built without CUDA"
        )
        raise MissingDependency(
            why,
            where="--device cuda",
            fix="take --device cpu, or install the driver and a PyTorch for it: "
            "https://pytorch.org/get-started/locally",
        )
    return "cuda"


def autocast_of(settings: TrainSettings) -> torch.autocast:
    """The context that a network is trained in: half precision where it was asked for."""
    dtype = torch.float16 if settings.fp16 else torch.bfloat16
    return torch.autocast(settings.device, dtype, enabled=settings.fp16 or settings.bf16)


@contextmanager
def repeatable(device: str) -> Iterator[None]:
    """On a GPU: only algorithms whose sums do not change from run to run, and FP32 that is no TF32.

    An operator that has no such algorithm is run all the same; PyTorch warns of it by name. On a CPU
    nothing changes.
    """
    if device == "cpu":
        yield
        return
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.allow_tf32
    strict, warned = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS at its first use
    torch.use_deterministic_algorithms(True, warn_only=True)
    cudnn.benchmark, cudnn.allow_tf32 = False, False
    try:
        with sdpa_kernel(_ATTENTION):
            yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warned)
        cudnn.benchmark, cudnn.allow_tf32 = before
