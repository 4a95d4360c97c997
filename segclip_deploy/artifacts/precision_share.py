"""What layers of an engine compute in, and the share of a plan that runs as planned."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from segclip_deploy.artifacts.bundle_record import BundleRecord, PlannedOperator
from segclip_deploy.artifacts.onnx_file import block_of
from segclip_deploy.artifacts.records import Record
from segclip_deploy.artifacts.scheme import Precision

__all__ = ["Layer", "PrecisionShare", "count_precision", "node_blocks", "precision_shares"]

_WIDTHS = ("int8", "fp8", "fp16", "bf16", "fp32")
"""What products are computed in, the narrowest first. BF16 has FP16's width and fewer bits of fraction."""
_WRITTEN = frozenset({"Q", "DQ", "Cast.fp16", "Cast.fp32"})
"""Operators that writing precision adds. Their nodes are named after a tensor, not after a block."""
_NARROWING = ("/Q", "/Cast.fp16")
"""How names of nodes end that turn what is read into a lower precision."""


class Layer(Record, frozen=True):
    """A layer of an engine, as its library tells it.

    Attributes:
        name: the library's.
        type: of layer; None where it is not told.
        blocks: of the model that it was made of.
        reads, writes: element types; None for one that is not told.
        nodes: of the ONNX file that it was made of; empty in records before schema 7.
    """

    name: str
    type: str | None
    blocks: tuple[str, ...]
    reads: tuple[str | None, ...]
    writes: tuple[str | None, ...]
    nodes: tuple[str, ...] = ()


class PrecisionShare(Record, frozen=True):
    """What became of the multiply-accumulates that were planned in one low precision, for one image.

    What is planned is the sum of what was kept, what fell back and what is unknown.

    Attributes:
        precision: INT8 or FP16.
        planned: MACs of all operators that were planned in it.
        kept: MACs of those whose layer computes in it.
        fell_back: operator to MACs, the largest first: its layer reads a wider type.
        unknown: operator to MACs, the largest first: the engine does not tell.
    """

    precision: Precision
    planned: int
    kept: int
    fell_back: Mapping[str, int]
    unknown: Mapping[str, int]

    def reaches(self, percent: int) -> bool:
        """Whether at least so many percent of the planned MACs are known to run as planned."""
        return 100 * self.kept >= percent * self.planned

    def __str__(self) -> str:
        """In words: ``INT8: 97.5% of the planned MACs run so, 2.4% fell back, 0.1% unknown``."""
        kept = math.floor(1000 * self.kept / self.planned) / 10  # 100 % is said of all alone
        return (
            f"{self.precision.upper()}: {kept:.1f}% of the planned MACs run so, "
            f"{sum(self.fell_back.values()) / self.planned:.1%} fell back, "
            f"{sum(self.unknown.values()) / self.planned:.1%} unknown"
        )


def precision_shares(
    bundle: BundleRecord, layers: Iterable[Layer] | None
) -> tuple[PrecisionShare, ...] | None:
    """What of a bundle's plan an engine keeps; see ``count_precision``.

    Returns:
        None where the bundle does not tell its operators, or nobody looked into the engine's layers.
    """
    operators = bundle.quantization.operators if bundle.quantization else None
    return None if operators is None or layers is None else count_precision(operators, layers)


def count_precision(
    operators: Mapping[str, PlannedOperator], layers: Iterable[Layer]
) -> tuple[PrecisionShare, ...]:
    """Count the MACs of operators by what was planned and what the layers of an engine read.

    A layer computes in the type that it reads first, its activation. Unknown is what it computes in

    - where no type is told, or no layer names the operator, or layers of several types do,
    - where it was fused of operators of several plans, or of several operators and reads several types,
    - where it reads a wide type, and quantizes or casts inside.

    Args:
        operators: by the name of their node in the ONNX file.
        layers: of the engine; ``nodes`` say what each was made of.

    Returns:
        one for each low precision that operators were planned in, the lowest first.

    Examples:
        >>> planned = {"stem/Conv": PlannedOperator(macs=900, precision="int8")}
        >>> layer = Layer(name="c", type=None, blocks=("stem",), reads=("fp16",), writes=("fp16",),
        ...               nodes=("stem/Conv",))
        >>> str(count_precision(planned, [layer])[0])
        'INT8: 0.0% of the planned MACs run so, 100.0% fell back, 0.0% unknown'
    """
    computed: dict[str, set[str | None]] = {name: set() for name in operators}
    for layer in layers:
        named = [name for name in dict.fromkeys(layer.nodes) if name in operators]
        kind = _computes_in(layer, [operators[name].precision for name in named])
        for name in named:
            computed[name].add(kind)
    largest_first = sorted(operators, key=lambda name: -operators[name].macs)
    shares = []
    low: tuple[Precision, ...] = ("int8", "fp16")
    for precision in low:
        macs = {n: operators[n].macs for n in largest_first if operators[n].precision == precision}
        if planned := sum(macs.values()):
            kept = {name for name in macs if computed[name] == {precision}}
            fell_back = {name for name in macs if _all_wider(computed[name], precision)}
            shares.append(
                PrecisionShare(
                    precision=precision,
                    planned=planned,
                    kept=sum(macs[name] for name in kept),
                    fell_back={n: m for n, m in macs.items() if n in fell_back},
                    unknown={n: m for n, m in macs.items() if n not in kept | fell_back},
                )
            )
    return tuple(shares)


def node_blocks(nodes: Iterable[str]) -> tuple[str, ...]:
    """Blocks of the ONNX nodes ``block/Operator`` that a layer was made of, each once."""
    own = (node for node in nodes if node.partition("/")[2] not in _WRITTEN)
    return tuple(dict.fromkeys(block for node in own if (block := block_of(node))))


def _computes_in(layer: Layer, planned: list[Precision]) -> str | None:
    """The type that a layer multiplies in; None where that cannot be told.

    Args:
        planned: precisions of the operators that it was made of.
    """
    read = {"int8" if kind == "uint8" else kind for kind in layer.reads}  # OpenVINO's activations
    if len(set(planned)) != 1 or not read or (len(planned) > 1 and len(read) > 1):
        return None
    first = layer.reads[0]
    kind = "int8" if first == "uint8" else first
    inside = any(node.endswith(_NARROWING) for node in layer.nodes)
    return None if inside and _all_wider({kind}, planned[0]) else kind


def _all_wider(kinds: set[str | None], precision: Precision) -> bool:
    """Whether there are types, and all are wider than a precision; one that is not told is not."""
    wider = _WIDTHS[_WIDTHS.index(precision) + 1 :]
    return bool(kinds) and all(kind in wider for kind in kinds)
