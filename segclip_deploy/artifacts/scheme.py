"""Quantization schemes: how INT8 and FP16 are written into an ONNX file, by whose kernels execute it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal, get_args

from segclip_deploy.errors import UsageError

__all__ = [
    "PLACERS",
    "PRECISIONS",
    "Lowering",
    "Placer",
    "Precision",
    "Rules",
    "Scheme",
    "parse_scheme",
]

Precision = Literal["int8", "fp16", "fp32"]

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
"""The lowest first."""

Placer = Literal["own", "modelopt"]
"""Who decides where Q/DQ goes, and with which ranges: this package, or nvidia-modelopt."""

PLACERS: tuple[Placer, ...] = get_args(Placer)


class Lowering(Enum):
    """In whose operators a graph is written; its value is its name on the command line.

    The same function, to rounding. What one kind of engine computes in place, the other moves through
    memory (``export.lowering``).
    """

    CPU = "cpu"
    NVIDIA = "nvidia"


@dataclass(frozen=True)
class Rules:
    """What an engine needs of the Q/DQ pairs and casts in its model.

    Attributes:
        engines: what executes it, for people.
        lowering: the graph that these engines run fastest.
        levels: least and greatest level of an activation. A negative least one makes them symmetric.
        weight_limit: greatest level of a weight, to each side of zero.
        precisions: that a block may have, the lowest first.
        high: what runs beside INT8.
        both_addends: whether an Add reads both of its inputs in INT8. Otherwise the operator before it
            fuses with the Add, and only the skip input is rounded.
        resizes: whether a Resize between two rounded tensors runs in INT8, if what it reads is rounded, too.
        reference: whether engines execute Q/DQ as ONNX defines it, and so as the reference run does.
            Otherwise they are compared with ONNX Runtime's fused kernels.
        channels: what channel counts are a multiple of when ``compact`` prunes, so that kernels are filled.
    """

    engines: str
    lowering: Lowering
    levels: tuple[int, int]
    weight_limit: int
    precisions: tuple[Precision, ...]
    high: Precision
    both_addends: bool
    resizes: bool
    reference: bool
    channels: int

    @property
    def symmetric(self) -> bool:
        """Whether zero is the middle level of an activation."""
        return self.levels[0] < 0


class Scheme(Enum):
    """A quantization scheme; its value is its name in records and on the command line."""

    TENSORRT = "tensorrt"
    CPU = "cpu"

    @property
    def rules(self) -> Rules:
        """What it asks for."""
        return _RULES[self]


def parse_scheme(name: Scheme | str) -> Scheme:
    """A scheme by its name.

    Raises:
        UsageError: there is none of this name.
    """
    try:
        return Scheme(name)
    except ValueError:
        names = ", ".join(scheme.value for scheme in Scheme)
        raise UsageError(f"no scheme {name!r} (there are {names})", where="--scheme") from None


_RULES = {
    Scheme.TENSORRT: Rules(
        engines="TensorRT, TensorRT-RTX",
        lowering=Lowering.NVIDIA,
        levels=(-127, 127),
        weight_limit=127,
        precisions=("int8", "fp16", "fp32"),
        high="fp16",
        both_addends=False,
        resizes=True,
        reference=True,
        channels=16,  # INT8 and FP16 kernels of tensor cores take 16 at a time
    ),
    Scheme.CPU: Rules(
        engines="OpenVINO, ONNX Runtime",
        lowering=Lowering.CPU,
        levels=(0, 255),
        # A CPU without VNNI adds two products U8·S8 in 16 bits, which overflow silently above
        # 2·255·64; seven bits compute the same on every processor.
        weight_limit=63,
        # It has no FP16. Where it has BF16, OpenVINO takes that at load.
        precisions=("int8", "fp32"),
        high="fp32",
        both_addends=True,
        resizes=False,
        reference=False,
        channels=8,  # OpenVINO and ONNX Runtime block channels by the floats of AVX2
    ),
}
