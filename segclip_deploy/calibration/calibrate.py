"""Run tiles through a bundle, and keep what INT8 needs: ranges of activations, and channel means."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.artifacts.files import read_npz, replace_file
from segclip_deploy.artifacts.scheme import Lowering
from segclip_deploy.calibration.ranges import METHODS, Histogram
from segclip_deploy.calibration.selection import TileSet
from segclip_deploy.calibration.table import (
    TABLE,
    BandStatistics,
    CalibrationTable,
    GraphStatistics,
    MeasuredTile,
    save_table,
)
from segclip_deploy.calibration.tiles import Tile
from segclip_deploy.errors import BadArtifact, BadInput
from segclip_deploy.export.onnx_model import check_fp32, load_model, observer

__all__ = ["Probes", "channel_means", "measure_ranges"]

_SAVE_EVERY = 32  # tiles between two saved states


@dataclass(frozen=True)
class Probes:
    """Where a graph is measured.

    Attributes:
        tensors: whose range is wanted, in the graph's order.
        operators: node → (one of the tensors, axis of its channels), where the means of the channels
            that an operator sums over are wanted.
    """

    tensors: tuple[str, ...]
    operators: Mapping[str, tuple[str, int]]


@dataclass
class _Graph:
    """What was measured so far in one graph.

    Attributes:
        histograms: by tensor.
        sums: by operator, of its channels' means over each tile.
    """

    histograms: dict[str, Histogram]
    sums: dict[str, NDArray[np.float64]]

    def look(
        self,
        tile: Tile,
        count: int,
        values: Mapping[str, NDArray[np.float32]],
        operators: Mapping[str, tuple[str, int]],
    ) -> None:
        """Add what a batch of ``count`` tiles gave, of which this is the first."""
        for name, array in values.items():
            if not np.isfinite(array).all():
                raise BadInput(f"{name} is not finite on this tile", where=tile.source)
            self.histograms[name].add(array)
        for name, (tensor, channel) in operators.items():
            means = channel_means(values[tensor], channel)
            self.sums[name] = self.sums.get(name, 0) + count * means

    def statistics(self, method: str, tiles: int) -> GraphStatistics:
        """What a table says of it."""
        return GraphStatistics(
            ranges={name: METHODS[method](seen) for name, seen in self.histograms.items()},
            means={
                name: tuple(float(f"{mean:.6g}") for mean in total / tiles)
                for name, total in self.sums.items()
            },
        )


@dataclass
class _Seen:
    """What was measured so far.

    Attributes:
        graphs: by lowering.
        bands: mean and mean square of R, G and B of each tile.
    """

    graphs: dict[Lowering, _Graph]
    bands: list[NDArray[np.float64]]

    @property
    def tiles(self) -> int:
        """How many."""
        return len(self.bands)


def measure_ranges(
    bundle: Bundle,
    probes: Mapping[Lowering, Probes],
    tiles: TileSet,
    out: Path,
    *,
    method: str,
    report: Callable[[int, int], None] = lambda _done, _total: None,
) -> CalibrationTable:
    """Measure ranges and means on tiles and write the table.

    Holds one batch and one histogram a tensor. Killed, the same call goes on where it was.

    Args:
        bundle: in FP32.
        probes: of those of its graphs that are to be measured.
        tiles: of the bundle's input size.
        out: the table to write; ``<out>.resume.npz`` lies beside it until it is done.
        method: a key of ``METHODS``.
        report: called with (tiles done, tiles in all).

    Raises:
        BadInput: a value that is not finite, or tiles that do not fill the bundle's batches.
        BadArtifact: the bundle is not FP32.
    """
    check_fp32(bundle)
    batch = bundle.input.batches.start
    if len(tiles) % batch:
        raise BadInput(
            f"{len(tiles)} tiles do not fill batches of {batch}",
            where="--select",
            fix=f"choose a multiple of {batch}, or export with --batch 1",
        )
    identity = json.dumps(
        [
            TABLE.schema,
            bundle.sha256,
            {lowering.value: wanted.tensors for lowering, wanted in probes.items()},
            [tile.sha256 for tile in tiles.tiles],
        ]
    )
    state = out.with_name(out.name + ".resume.npz")
    seen = _resume(state, identity, probes)
    runs = {
        lowering: observer(load_model(bundle.lowered(lowering).model_path), wanted.tensors)
        for lowering, wanted in probes.items()
    }
    for group in _batches(islice(iter(tiles), seen.tiles, None), batch):
        pixels = np.stack([tile for _, tile in group])
        for lowering, wanted in probes.items():
            values = dict(zip(wanted.tensors, runs[lowering](pixels), strict=True))
            seen.graphs[lowering].look(group[0][0], len(group), values, wanted.operators)
        seen.bands += [_moments(tile) for _, tile in group]
        if seen.tiles % _SAVE_EVERY < len(group):
            _save(state, identity, seen)
        report(seen.tiles, len(tiles))
    table = CalibrationTable(
        bundle=bundle.sha256,
        method=method,
        graphs={
            lowering: graph.statistics(method, seen.tiles)
            for lowering, graph in seen.graphs.items()
        },
        tiles=tuple(
            MeasuredTile(source=t.source.name, top=t.top, left=t.left, sha256=t.sha256)
            for t in tiles.tiles
        ),
        bands=_bands(np.array(seen.bands)),
        coverage=tiles.coverage.record(bundle.vocabulary.names),
        appearance=tiles.appearance,
    )
    save_table(out, table)
    state.unlink(missing_ok=True)
    return table


def _batches(
    tiles: Iterator[tuple[Tile, NDArray[np.uint8]]], size: int
) -> Iterator[list[tuple[Tile, NDArray[np.uint8]]]]:
    while group := list(islice(tiles, size)):
        yield group


def _moments(tile: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean and mean square of each band, (2, 3)."""
    pixels = tile.reshape(-1, 3).astype(np.float64)
    return np.stack([pixels.mean(0), (pixels**2).mean(0)])


def _bands(moments: NDArray[np.float64]) -> BandStatistics:
    mean, square = moments.mean(0)
    std = np.sqrt(square - mean**2)
    return BandStatistics(mean=tuple(mean.round(3).tolist()), std=tuple(std.round(3).tolist()))


def channel_means(values: NDArray[np.float32], channel: int) -> NDArray[np.float64]:
    """Means of a tensor over all its axes but that of its channels, (C,)."""
    others = tuple(axis for axis in range(values.ndim) if axis != channel % values.ndim)
    return values.mean(axis=others, dtype=np.float64)


def _save(state: Path, identity: str, seen: _Seen) -> None:
    arrays: dict[str, NDArray[Any]] = {
        "identity": np.array(identity),
        "bands": np.array(seen.bands),
    }
    for lowering, graph in seen.graphs.items():
        histograms, sums = graph.histograms.values(), graph.sums.values()
        arrays |= {
            f"{lowering.value}.counts": np.stack([one.counts for one in histograms]),
            f"{lowering.value}.extents": np.array([[h.top, h.low, h.high] for h in histograms]),
            f"{lowering.value}.sums": np.concatenate([*sums, np.zeros(0)]),
            f"{lowering.value}.widths": np.array([len(total) for total in sums], int),
        }
    with replace_file(state) as temporary:
        np.savez(temporary, allow_pickle=False, **arrays)


def _resume(state: Path, identity: str, probes: Mapping[Lowering, Probes]) -> _Seen:
    """What was seen before; nothing where there is no state of this run."""
    try:
        arrays = read_npz(state)
    except BadArtifact:  # absent or damaged
        arrays = {"identity": np.array("")}
    graphs = {}
    if str(arrays["identity"]) != identity:
        for lowering, wanted in probes.items():
            graphs[lowering] = _Graph({name: Histogram() for name in wanted.tensors}, {})
        return _Seen(graphs, [])
    for lowering, wanted in probes.items():
        counts, extents, sums, widths = (
            arrays[f"{lowering.value}.{name}"] for name in ("counts", "extents", "sums", "widths")
        )
        states = zip(wanted.tensors, counts, extents.tolist(), strict=True)
        totals = np.split(sums, np.cumsum(widths))[:-1]
        graphs[lowering] = _Graph(
            {name: Histogram(counts, *extent) for name, counts, extent in states},
            dict(zip(wanted.operators, totals, strict=True)),
        )
    return _Seen(graphs, list(arrays["bands"]))
