"""``calibrate``: run tiles through a bundle, and keep the range of every tensor INT8 may need."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts import RECORD_FILE, Bundle
from segclip_deploy.calibration.graph import check_fp32, load_model, observer
from segclip_deploy.calibration.placement import DIALECTS, place
from segclip_deploy.calibration.ranges import METHODS, Histogram
from segclip_deploy.calibration.selection import TileSet
from segclip_deploy.calibration.table import CalibrationTable, save_table
from segclip_deploy.calibration.tiles import Tile
from segclip_deploy.errors import BadArtifact, BadInput
from segclip_deploy.files import read_npz, replace_file, sha256_file

__all__ = ["calibrate", "read_tensors"]

_SAVE_EVERY = 32  # tiles between two saved states


def calibrate(
    bundle: Bundle,
    tiles: TileSet,
    out: Path,
    *,
    method: str,
    report: Callable[[int, int], None] = lambda _done, _total: None,
) -> CalibrationTable:
    """Measure ranges on tiles and write the table.

    Holds one batch and one histogram a tensor. Killed, the same call goes on where it was.

    Args:
        bundle: in FP32.
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
    model = load_model(bundle.model_path)
    names = read_tensors(model.graph)
    digest = sha256_file(bundle.path / RECORD_FILE)
    identity = json.dumps([digest, names, [tile.sha256 for tile in tiles.tiles]])
    state = out.with_name(out.name + ".resume.npz")
    done, seen, bands = _resume(state, identity, names)
    run = observer(model, names)
    for group in _batches(islice(iter(tiles), done, None), batch):
        pixels = np.stack([tile for _, tile in group])
        for name, values in zip(names, run(pixels), strict=True):
            if not np.isfinite(values).all():
                raise BadInput(f"{name} is not finite on this tile", where=group[0][0].source)
            seen[name].add(values)
        bands += [_moments(tile) for _, tile in group]
        done += len(group)
        if done % _SAVE_EVERY < len(group):
            _save(state, identity, names, seen, bands)
        report(done, len(tiles))
    table = CalibrationTable(
        bundle=digest,
        method=method,
        ranges={name: METHODS[method](seen[name]) for name in names},
        tiles=tuple(
            {"source": t.source.name, "top": t.top, "left": t.left, "sha256": t.sha256}
            for t in tiles.tiles
        ),
        bands=_bands(np.array(bands)),
        coverage=tiles.coverage.to_json(bundle.vocabulary.names),
    )
    save_table(out, table)
    state.unlink(missing_ok=True)
    return table


def read_tensors(graph: Any) -> list[str]:
    """Every activation that a plan of any dialect may round, in the graph's order."""
    nodes = {node.name: node for node in graph}
    reads = [read for dialect in DIALECTS for read in place(graph, dialect, lambda _: True).reads]
    return list(dict.fromkeys(nodes[name].inputs[index].name for name, index in reads))


def _batches(
    tiles: Iterator[tuple[Tile, NDArray[np.uint8]]], size: int
) -> Iterator[list[tuple[Tile, NDArray[np.uint8]]]]:
    while group := list(islice(tiles, size)):
        yield group


def _moments(tile: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean and mean square of each band, (2, 3)."""
    pixels = tile.reshape(-1, 3).astype(np.float64)
    return np.stack([pixels.mean(0), (pixels**2).mean(0)])


def _bands(moments: NDArray[np.float64]) -> Mapping[str, Any]:
    mean, square = moments.mean(0)
    std = np.sqrt(square - mean**2)
    return {"mean": mean.round(3).tolist(), "std": std.round(3).tolist()}


def _save(
    state: Path,
    identity: str,
    names: Sequence[str],
    seen: Mapping[str, Histogram],
    bands: Sequence[NDArray[np.float64]],
) -> None:
    with replace_file(state) as temporary:
        np.savez(
            temporary,
            identity=identity,
            counts=np.stack([seen[name].counts for name in names]),
            extents=np.array([[seen[n].top, seen[n].low, seen[n].high] for n in names]),
            bands=np.array(bands),
        )


def _resume(
    state: Path, identity: str, names: Sequence[str]
) -> tuple[int, dict[str, Histogram], list[NDArray[np.float64]]]:
    """Tiles done, histograms and band moments; from the start where there is no state of this run."""
    try:
        arrays = read_npz(state)
    except BadArtifact:  # absent or damaged
        arrays = {"identity": np.array("")}
    if str(arrays["identity"]) != identity:
        return 0, {name: Histogram() for name in names}, []
    states = zip(names, arrays["counts"], arrays["extents"].tolist(), strict=True)
    seen = {name: Histogram(counts, *extent) for name, counts, extent in states}
    return len(arrays["bands"]), seen, list(arrays["bands"])
