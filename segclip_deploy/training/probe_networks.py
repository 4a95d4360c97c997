"""Probes: the layers of each place as ONNX files of their own, at several widths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from segclip_deploy._optional import require
from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.files import replace_directory
from segclip_deploy.artifacts.latency_table import PROBES, PROBES_FILE, Probe, ProbeSet
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.export.fold import fold_network
from segclip_deploy.export.graph import ExportGraph
from segclip_deploy.export.lowering import lower
from segclip_deploy.export.onnx import MAX_IR_VERSION, OPSET, write_onnx
from segclip_deploy.export.onnx_model import load_model, save_model
from segclip_deploy.export.text_weights import text_constants
from segclip_deploy.model.segclip import SegCLIP
from segclip_deploy.model.text import TextBank
from segclip_deploy.quantization.fp16 import fp32_fallback, write_fp16
from segclip_deploy.training.narrow_decoder import narrow_decoder
from segclip_deploy.training.prunable import DECODER, PrunableChannels

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

__all__ = ["write_network", "write_probes"]

_SHARES = (1.0, 0.75, 0.5, 0.25)
_NETWORK = "network.onnx"
_MOST = 10_000  # probes of a folder


def write_network(
    model: SegCLIP, bank: TextBank, spec: InputSpec, scheme: Scheme, path: Path
) -> None:
    """Write the folded graph of a model, labels only, as ``export`` does, without proof and record.

    In FP16 where the scheme has it; what needs FP32 by what it computes stays so.
    """
    folded, _, text = fold_network(model, bank, spec)
    graph = ExportGraph(folded, model.spec.mean, model.spec.std, logits=False).eval()
    lower(graph, scheme.rules.lowering)
    write_onnx(graph, spec, path, text=text_constants(text, bank) if text else ())
    if _halves(scheme):
        written = load_model(path)
        high = fp32_fallback(written.graph, lambda _: True)
        write_fp16(written.graph, lambda name: name not in high)
        save_model(written, path)


def _halves(scheme: Scheme) -> bool:
    return "fp16" in scheme.rules.precisions


def write_probes(
    model: SegCLIP,
    bank: TextBank,
    places: Sequence[PrunableChannels],
    spec: InputSpec,
    out: Path,
    *,
    checkpoint: str,
    scheme: Scheme,
) -> ProbeSet:
    """Write a folder of probes, and the whole network, for ``profile`` to time.

    Args:
        places: of the model, at the size of ``spec``.
        out: the folder; older probes there are replaced.
        checkpoint: SHA-256 of the model's.
        scheme: of the targets that are to time them.

    Raises:
        BadInput: ``out`` is a folder with other files.
        MissingDependency: onnx is not installed.
    """
    onnx = require("onnx", why="writing probes")
    probes: list[Probe] = []
    files: dict[object, str] = {(DECODER, model.spec.width): _NETWORK}
    ours = {PROBES_FILE, _NETWORK, *(f"probe{index}.onnx" for index in range(_MOST))}
    with replace_directory(out, contents=ours) as folder:
        write_network(model, bank, spec, scheme, folder / _NETWORK)
        for place in places:
            for width in _widths(place, scheme.rules.channels):
                kind = _kind(model, place, width)
                if kind not in files:
                    files[kind] = f"probe{len(files)}.onnx"
                    path = folder / files[kind]
                    if place.name == DECODER:  # all of the network beside the encoder shares it
                        narrow = narrow_decoder(model, range(width))
                        write_network(narrow, bank, spec, scheme, path)
                    else:
                        onnx.save(_network(model, place, width, half=_halves(scheme)), path)
                probes.append(Probe(layer=place.name, width=width, file=files[kind]))
        record = ProbeSet(
            checkpoint=checkpoint,
            window=(spec.height, spec.width),
            scheme=scheme,
            network=_NETWORK,
            probes=tuple(probes),
        )
        PROBES.write(folder / PROBES_FILE, record)
    return record


def _widths(place: PrunableChannels, multiple: int) -> list[int]:
    """The widths nearest to some shares of all, the most channels first."""
    allowed = place.widths(multiple)
    wanted = {min(allowed, key=lambda w: abs(w - share * place.count)) for share in _SHARES}
    return sorted(wanted | {allowed[-1]}, reverse=True)


def _kind(model: SegCLIP, place: PrunableChannels, width: int) -> object:
    """What places that take equally long have in common."""
    if place.name == DECODER:
        return DECODER, width
    layers = [model.get_submodule(path) for path in place.layers]
    shapes = [tuple(p.shape) for layer in layers for p in layer.parameters()]
    kinds = [(type(layer).__name__, getattr(layer, "stride", None)) for layer in layers]
    return tuple(kinds), tuple(shapes), place.shapes, width


def _network(model: SegCLIP, place: PrunableChannels, width: int, *, half: bool) -> Any:
    """The layers of a place one after another, with random weights and a ReLU after each but the last."""
    import onnx

    made = _Nodes(np.dtype(np.float16 if half else np.float32))
    tensor = "x"
    for index, (path, shape) in enumerate(zip(place.layers, place.shapes, strict=True)):
        layer = model.get_submodule(path)
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            if index and (factor := _shrinks(model, place, index)) > 1:
                sides = [factor] * 2
                tensor = made.add("AveragePool", [tensor], kernel_shape=sides, strides=sides)
            ends = _ends(place, index, width, layer.in_channels, layer.out_channels)
            tensor = _convolve(made, tensor, layer, *ends)
        elif isinstance(layer, nn.Linear):
            ends = _ends(place, index, width, layer.in_features, layer.out_features)
            tensor = made.matmul(tensor, *ends)
        else:
            tensor = _attend(made, tensor, shape, width, place.unit)
        if index + 1 < len(place.layers):
            tensor = made.add("Relu", [tensor])
    shape, kind = place.shapes[0], onnx.helper.np_dtype_to_tensor_dtype(made.dtype)
    graph = onnx.helper.make_graph(
        made.nodes,
        "probe",
        [onnx.helper.make_tensor_value_info("x", kind, shape)],
        [onnx.helper.make_tensor_value_info(tensor, kind, None)],
        made.constants,
    )
    opset = [onnx.helper.make_opsetid("", OPSET)]
    model_proto = onnx.helper.make_model(graph, opset_imports=opset, ir_version=MAX_IR_VERSION)
    inferred = onnx.shape_inference.infer_shapes(model_proto, strict_mode=True)
    onnx.checker.check_model(inferred, full_check=True)
    return inferred


@dataclass
class _Nodes:
    """Nodes and constants of a graph in the making, all of one type."""

    dtype: np.dtype[Any]
    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def add(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        """A node; the name of its output."""
        import onnx

        name = f"t{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, *shape: int) -> str:
        """Random weights; their name."""
        return self.array(self.rng.normal(0, 0.1, shape).astype(self.dtype))

    def array(self, values: Any) -> str:
        """A constant; its name."""
        import onnx

        name = f"c{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(np.asarray(values), name))
        return name

    def matmul(self, tensor: str, taken: int, given: int) -> str:
        """A linear layer."""
        product = self.add("MatMul", [tensor, self.constant(taken, given)])
        return self.add("Add", [product, self.constant(given)])


def _ends(
    place: PrunableChannels, index: int, width: int, taken: int, given: int
) -> tuple[int, int]:
    """Input and output channels of a layer where its place has another width."""
    first, last = index == 0, index == len(place.layers) - 1
    return (taken if first else width), (given if last else width)


def _convolve(
    made: _Nodes, tensor: str, layer: nn.Conv2d | nn.ConvTranspose2d, taken: int, given: int
) -> str:
    groups = 1 if layer.groups == 1 else given
    kernel, stride = tuple(layer.kernel_size), tuple(layer.stride)
    attributes: dict[str, Any] = {"strides": stride, "kernel_shape": kernel, "group": groups}
    if isinstance(layer, nn.ConvTranspose2d):
        weight = made.constant(taken, given // groups, *kernel)
        return made.add("ConvTranspose", [tensor, weight, made.constant(given)], **attributes)
    # A layer that pads by the image's size, as TensorFlow does, says that it pads by nothing.
    pads = [0 if isinstance(p, str) else p for p in layer.padding] * 2
    if any(pads):
        attributes |= {"pads": pads, "dilations": tuple(layer.dilation)}
    else:
        attributes["auto_pad"] = "SAME_UPPER"
    weight = made.constant(given, taken // groups, *kernel)
    return made.add("Conv", [tensor, weight, made.constant(given)], **attributes)


def _shrinks(model: SegCLIP, place: PrunableChannels, index: int) -> int:
    """By how much an image shrinks between a layer and the one before: CLIP's ResNet pools there."""
    before = model.get_submodule(place.layers[index - 1])
    if not isinstance(before, (nn.Conv2d, nn.ConvTranspose2d)):
        return 1
    side, stride = place.shapes[index - 1][-1], before.stride[0]
    made = side * stride if isinstance(before, nn.ConvTranspose2d) else -(-side // stride)
    return max(1, round(made / place.shapes[index][-1]))


def _attend(made: _Nodes, tensor: str, shape: tuple[int, ...], width: int, unit: int) -> str:
    """Self-attention of ``width / unit`` heads."""
    _, tokens, channels = shape
    heads = width // unit
    split = made.array(np.array([1, tokens, heads, unit], dtype=np.int64))
    joined = made.array(np.array([1, tokens, width], dtype=np.int64))

    def head(order: list[int]) -> str:
        projected = made.matmul(tensor, channels, width)
        return made.add("Transpose", [made.add("Reshape", [projected, split])], perm=order)

    queries, keys, values = head([0, 2, 1, 3]), head([0, 2, 3, 1]), head([0, 2, 1, 3])
    scale = made.array(made.dtype.type(1 / math.sqrt(unit)))
    scores = made.add("MatMul", [made.add("Mul", [queries, scale]), keys])
    mixed = made.add("MatMul", [made.add("Softmax", [scores], axis=-1), values])
    back = made.add("Transpose", [mixed], perm=[0, 2, 1, 3])
    return made.matmul(made.add("Reshape", [back, joined]), width, channels)
