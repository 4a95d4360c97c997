"""SmoothQuant: outlier channels of an activation, evened out by the LayerNorm before it.

A few channels of a ViT are outliers, a hundred times larger than the rest, and one scale for all of
them leaves the rest no levels. A LayerNorm's own affine can divide each channel by a factor, and the
operators that read it multiply it back into their weights, where every output channel has a scale
of its own: the same function in float, and easier to round (Xiao et al., 2023, arXiv:2211.10438).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.bundle import (
    BUNDLE_FILES,
    TEXT_FILE,
    Bundle,
    load_bundle,
    write_bundle,
)
from segclip_deploy.artifacts.bundle_record import Smoothing
from segclip_deploy.artifacts.files import replace_directory
from segclip_deploy.artifacts.golden import load_golden
from segclip_deploy.artifacts.records import replace
from segclip_deploy.calibration.selection import TileSet
from segclip_deploy.errors import BadInput
from segclip_deploy.export.onnx_model import load_fp32, observer, save_model
from segclip_deploy.export.parity import check_parity, measure_parity
from segclip_deploy.quantization.placement import weight_axis
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend

if TYPE_CHECKING:
    from segclip_deploy.export.onnx_types import OnnxGraph, OnnxModel, OnnxNode, OnnxValue

__all__ = ["find_norms", "smooth", "smooth_graph"]

_LEAST = 1e-5  # of a peak: channels that are silent keep their weights finite


def smooth(
    bundle: Bundle,
    tiles: TileSet,
    out: Path,
    *,
    alpha: float = 0.5,
    report: Callable[[int, int], None] = lambda _done, _total: None,
) -> Bundle:
    """Write an FP32 bundle that computes the same and bears INT8 better; calibrate that one.

    Args:
        bundle: in FP32, with an encoder that has LayerNorms.
        tiles: of its input size, to find the largest magnitude of each channel.
        out: the bundle directory; an older bundle there is replaced.
        alpha: how much of the outlier channels moves into the weights, above 0 and below 1.
        report: called with (tiles done, tiles in all).

    Raises:
        BadArtifact: the bundle is not FP32.
        BadInput: α is out of bounds, no LayerNorm can be smoothed, a value is not finite, or
            ``out`` is the bundle itself.
        GateFailed: the result does not compute the same; nothing is written.
    """
    if not 0 < alpha < 1:
        raise BadInput(f"{alpha} is not between 0 and 1", where="--alpha")
    if out.resolve() == bundle.path.resolve():
        raise BadInput("this is the bundle itself", where=out, fix="choose another output")
    model = load_fp32(bundle)
    norms = find_norms(model.graph)
    if not norms:
        raise BadInput(
            "no LayerNorm of its encoder is read by trained operators alone, nothing can be smoothed",
            where=bundle.path,
            fix="this is for ViT encoders: calibrate the bundle as it is",
        )
    peaks = _peaks(model, bundle.input.batches.start, list(norms), tiles, report)
    golden = load_golden(bundle.golden_path)
    names, links = bundle.vocabulary.names, []
    with replace_directory(out, contents=BUNDLE_FILES) as temporary:
        for lowering in bundle.lowerings:
            graph = bundle.lowered(lowering)
            path = temporary / graph.model_path.name
            model = load_fp32(graph)
            # Every lowering has the same encoder, under names of its own.
            own = dict(zip(find_norms(model.graph), peaks.values(), strict=True))
            smooth_graph(model.graph, own, alpha)
            save_model(model, path)
            with OnnxRuntimeBackend(path, batches=bundle.input.batches) as engine:
                link = measure_parity("the bundle before", golden, engine, names, lowering)
            check_parity(link)
            links.append(link)
            save_model(model, path, outputs=bundle.outputs)
        if bundle.text_path:
            shutil.copyfile(bundle.text_path, temporary / TEXT_FILE)
        record = replace(
            bundle.record,
            smoothing=Smoothing(alpha, len(norms), len(tiles)),
            parity=(*bundle.record.parity, *links),
            parents=replace(bundle.record.parents, bundle=bundle.sha256),
        )
        write_bundle(temporary, record, golden)
    return load_bundle(out)


def find_norms(graph: OnnxGraph) -> dict[str, list[tuple[OnnxNode, int]]]:
    """LayerNorms of the encoder that only operators with trained weights read.

    Of CFF and refiner the affines are among what ``set-texts`` folds new texts in from, and stay.

    Returns:
        The LayerNorm's output → (operator, axis of its output channels).
    """
    found = {}
    for node in graph:
        if node.op_type == "LayerNormalization" and node.name.startswith("encoder."):
            readers = list(_readers(node.outputs[0]))
            axes = [(reader, _axis(reader)) for reader, index in readers if index == 0]
            operators = [(reader, axis) for reader, axis in axes if axis is not None]
            if readers and len(operators) == len(readers) and _fits(node):
                found[node.outputs[0].name] = operators
    return found


def smooth_graph(graph: OnnxGraph, peaks: Mapping[str, NDArray[np.float32]], alpha: float) -> None:
    """Divide the channels of LayerNorms by s and multiply the weights that read them by it, in place.

    s_j = max|X_j|^α / max|W_j|^(1−α), over all operators that read channel j (equation 4).

    Args:
        graph: in FP32.
        peaks: largest magnitude by channel of the outputs ``find_norms`` names.
        alpha: α.
    """
    norms = find_norms(graph)
    makers = {value.name: node for node in graph for value in node.outputs}
    for name, peak in peaks.items():
        weights = [
            np.abs(graph.initializers[operator.inputs[1].name].const_value.numpy()).max(axis)
            for operator, axis in norms[name]
        ]
        largest = np.maximum(np.max(weights, axis=0), _LEAST)
        factor = np.maximum(peak, _LEAST) ** alpha / largest ** (1 - alpha)
        node = makers[name]
        for index in range(1, len(node.inputs)):
            _scale(graph, node, index, 1 / factor)
        for operator, axis in norms[name]:
            _scale(graph, operator, 1, factor[:, None] if axis == 1 else factor)


def _readers(value: OnnxValue) -> Iterator[tuple[OnnxNode, int]]:
    """Who reads a tensor, by way of what only moves its rows."""
    for node, index in value.uses():
        if node.op_type in ("Reshape", "Transpose") and _keeps_channels(node):
            yield from _readers(node.outputs[0])
        else:
            yield node, index
    producer = value.producer()
    if value.is_graph_output() and producer is not None:
        yield producer, -1


def _keeps_channels(node: OnnxNode) -> bool:
    before, after = node.inputs[0].shape, node.outputs[0].shape
    if node.op_type == "Transpose":
        order = node.attributes.get_ints("perm", ())
        return bool(order) and order[-1] == len(order) - 1
    return isinstance(before[-1], int) and before[-1] == after[-1]


def _axis(reader: OnnxNode) -> int | None:
    """The output-channel axis of an operator that sums over the last axis of what it reads."""
    if reader.op_type not in ("Gemm", "MatMul") or reader.attributes.get_int("transA", 0) != 0:
        return None
    return weight_axis(reader)


def _fits(norm: OnnxNode) -> bool:
    """Whether a LayerNorm has an affine of its own for each channel of the last axis."""
    rank = len(norm.inputs[0].shape)
    constant = all(v is not None and v.const_value is not None for v in norm.inputs[1:])
    return constant and norm.attributes.get_int("axis", -1) in (-1, rank - 1)


def _scale(graph: OnnxGraph, node: OnnxNode, index: int, factor: NDArray[np.floating[Any]]) -> None:
    """Give a node a constant of its own: several may share one that is all ones."""
    import onnx_ir as ir

    old = graph.initializers[node.inputs[index].name]
    array = (old.const_value.numpy() * factor).astype(np.float32)
    node.replace_input_with(index, None)
    if not old.uses():  # first, as in a bundle that was smoothed before it has the same name
        del graph.initializers[old.name]
    name = f"{node.outputs[0].name}.smooth{index}"
    node.replace_input_with(index, ir.tape.Tape(graph).initializer(ir.tensor(array), name))


def _peaks(
    model: OnnxModel,
    batch: int,
    names: list[str],
    tiles: TileSet,
    report: Callable[[int, int], None],
) -> dict[str, NDArray[np.float32]]:
    """Largest magnitude by channel, over all tiles."""
    run = observer(model, names)
    peaks: dict[str, NDArray[np.float32]] = {}
    for done, (tile, pixels) in enumerate(tiles, start=1):
        for name, values in zip(names, run(np.repeat(pixels[None], batch, axis=0)), strict=True):
            if not np.isfinite(values).all():
                raise BadInput(f"{name} is not finite on this tile", where=tile.source)
            peak = np.abs(values).max(axis=tuple(range(values.ndim - 1)))
            peaks[name] = np.maximum(peaks.get(name, peak), peak)
        report(done, len(tiles))
    return peaks
