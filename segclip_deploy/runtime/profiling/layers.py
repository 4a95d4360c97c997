"""Where the milliseconds of an inference go, layer by layer, by the engine's own counters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median

from segclip_deploy.artifacts.onnx_file import block_of
from segclip_deploy.artifacts.records import Record
from segclip_deploy.runtime.targets.base import Runs
from segclip_deploy.runtime.targets.tuning import sum_layers

__all__ = [
    "LayerTime",
    "block_medians",
    "layer_medians",
    "sum_blocks",
]


class LayerTime(Record, frozen=True):
    """A layer of an engine.

    Attributes:
        name: the engine's; of several nodes that were fused, that of one of them.
        block: of the model; ``engine`` for what the engine adds itself.
        ms: the median.
    """

    name: str
    block: str
    ms: float


def layer_medians(
    runs: Runs, blocks: Iterable[str], told: Mapping[str, str] | None = None
) -> list[LayerTime]:
    """Median of each layer, the slowest first.

    Args:
        runs: as measured.
        blocks: of the model; a layer of none of them is of the block ``engine``.
        told: the blocks of layers whose names do not tell them.
    """
    known = set(blocks)

    def block(name: str) -> str:
        found = (told or {}).get(name) or block_of(name)
        return found if found in known else "engine"

    times = [
        LayerTime(
            name=name,
            block=block(name),
            ms=round(median(run.get(name, 0.0) for run in runs), 5),
        )
        for name in dict.fromkeys(name for run in runs for name in run)
    ]
    return sorted(times, key=lambda layer: -layer.ms)


def block_medians(runs: Runs, blocks: Iterable[str]) -> dict[str, float]:
    """Median of each block's sum; what is of none of ``blocks`` is the block ``engine``."""
    known = set(blocks)

    def block(name: str) -> str:
        return block_of(name) if block_of(name) in known else "engine"

    sums = [sum_layers((block(name), ms) for name, ms in run.items()) for run in runs]
    return {
        name: float(median(run.get(name, 0.0) for run in sums))
        for name in dict.fromkeys(name for run in sums for name in run)
    }


def sum_blocks(layers: Iterable[LayerTime]) -> dict[str, float]:
    """Milliseconds by block, the slowest first."""
    total = sum_layers((layer.block, layer.ms) for layer in layers)
    return dict(sorted(total.items(), key=lambda pair: -pair[1]))
