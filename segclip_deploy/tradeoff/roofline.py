"""How fast a board that is not at hand could be at most: a lower bound on latency, no estimate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segclip_deploy.artifacts.records import Record
from segclip_deploy.errors import BadInput
from segclip_deploy.export.costs import Operator

__all__ = ["BOARDS", "Board", "LowerBound", "board_of", "find_boards", "lower_bound"]

_BYTES = {"fp16": 2, "int8": 1}


@dataclass(frozen=True)
class Board:
    """A Jetson module at its highest power mode, dense peaks of its GPU alone.

    Attributes:
        title: for people.
        fp16: TFLOP/s; a multiply-accumulate is two operations.
        int8: TOP/s.
        bandwidth: of memory, GB/s.
        cache: MB that intermediate results may stay in; chosen high, so that the bound stays one.
        watts: of that power mode.
    """

    title: str
    fp16: float
    int8: float
    bandwidth: float
    cache: float
    watts: int


BOARDS: Mapping[str, Board] = {
    "orin-nano": Board("Jetson Orin Nano 8GB Super", 17.0, 33.0, 102.0, 8.0, 25),
    "orin-nx": Board("Jetson Orin NX 16GB Super", 19.2, 38.0, 102.0, 8.0, 40),
    "agx-orin": Board("Jetson AGX Orin 64GB", 42.6, 85.0, 205.0, 8.0, 60),
    "thor": Board("Jetson AGX Thor", 258.0, 517.0, 273.0, 32.0, 130),
}
"""NVIDIA's data sheets of the modules and the AGX Orin technical brief; half of the sparse figures
they advertise. Those of Thor are derived from its sparse FP4 figure, and doubtful. Less power is
slower: AGX Orin has 26.7 TFLOP/s in FP16 at 50 W, 10.0 at 30 W and 5.0 at 15 W."""


def board_of(model: str) -> str | None:
    """The name in ``BOARDS`` of a Jetson, by its device tree; None for another board.

        >>> board_of("NVIDIA Jetson AGX Orin Developer Kit")
        'agx-orin'

    A smaller module of the same name is slower, so that the bounds hold for it, too.
    """
    words = model.lower()
    return next((name for name in BOARDS if name.replace("-", " ") in words), None)


class LowerBound(Record, frozen=True):
    """No engine of this network can be faster on this board.

    Attributes:
        bundle: the network's name.
        bundle_sha256: digest of the record of its bundle, in FP32; None in results of schema 3 and
            older.
        board: as ``--bound`` names it.
        precision: of all operators.
        ms: milliseconds a window, at least.
        by_memory: share of that time which memory, not arithmetic, sets.
    """

    bundle: str
    bundle_sha256: str | None
    board: str
    precision: str
    ms: float
    by_memory: float


def find_boards(text: str) -> list[str]:
    """Parse ``orin-nano,thor``.

    Raises:
        BadInput: a board that is not in the table.
    """
    names = text.split(",")
    for name in names:
        if name not in BOARDS:
            raise BadInput(f"{name!r} is none of {', '.join(BOARDS)}", where="--bound")
    return names


def lower_bound(
    bundle: str, sha256: str, operators: Sequence[Operator], name: str, precision: str
) -> LowerBound:
    """The roofline of each operator, summed: max(2 · MACs / peak, bytes / bandwidth).

    Roofline: Williams, Waterman & Patterson, CACM 52(4), 2009. Weights come from memory, and so
    does what does not fit the cache; everything between operators is free, as if it were fused.
    """
    board, size = BOARDS[name], _BYTES[precision]
    peak = (board.fp16 if precision == "fp16" else board.int8) * 1e12
    total = memory = 0.0
    for operator in operators:
        tensors = (n * size for n in (*operator.read, operator.written))
        moved = operator.weights * size + sum(n for n in tensors if n > board.cache * 1e6)
        arithmetic, transfer = 2 * operator.macs / peak, moved / (board.bandwidth * 1e9)
        total += max(arithmetic, transfer)
        memory += transfer if transfer > arithmetic else 0.0
    return LowerBound(
        bundle=bundle,
        bundle_sha256=sha256,
        board=name,
        precision=precision,
        ms=1e3 * total,
        by_memory=memory / total if total else 0.0,
    )
