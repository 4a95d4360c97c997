"""What the two graphs of a bundle move through memory in FP16, counted: nodes, casts, FP32, bytes a frame.

    python benchmarks/lowerings.py [--checkpoint CKPT] [--sizes 512 1024]

A count, and no time. Of each size both graphs are written in FP16, scheme tensorrt, and every node is
taken to read its inputs and write its outputs once. That is the most: nothing fuses. The least: one
kernel for all operators between two convolutions, matrix products or resizes, and the first of them
together with the product before it. What an engine moves lies between. A Reshape moves nothing.
The third form is the graph for NVIDIA up to its logits, and the kernel that makes labels of them.
Files are kept in out/benchmarks/lowerings.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import onnx
from onnx import GraphProto, NodeProto, TensorProto
from record import ROOT, markdown, record

from segclip_deploy.artifacts.bundle import InputSpec, load_bundle
from segclip_deploy.artifacts.onnx_file import block_of
from segclip_deploy.artifacts.scheme import Lowering, Scheme
from segclip_deploy.export.export import export_bundle
from segclip_deploy.export.onnx_model import load_model
from segclip_deploy.quantization.placement import uniform_plan
from segclip_deploy.quantization.quantize import quantize

OUT = ROOT / "out" / "benchmarks" / "lowerings"
PARTS = ("encoder", "decoder", "cff", "head", "graph")
KERNEL = "Decode"
ALONE = (KERNEL, "Conv", "ConvTranspose", "MatMul", "Gemm", "Resize", "ArgMax")
"""What no engine computes in the kernel of what it reads."""
FREE = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    example = ROOT / "examples" / "dubai" / "model.safetensors"
    parser.add_argument("--checkpoint", type=Path, default=example)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024])
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for size in arguments.sizes:
        forms: dict[str, GraphProto] = {}
        for lowering in Lowering:
            forms[lowering.value] = in_fp16(arguments.checkpoint, size, lowering)
        forms[KERNEL] = up_to_logits(forms[Lowering.NVIDIA.value])
        for form, graph in forms.items():
            for part, counts in count(graph).items():
                rows.append({"size": size, "graph": form, "part": part, **counts})
    record("lowerings", rows, checkpoint=arguments.checkpoint.name)
    print(markdown(["input", "part", *_COUNTED], table(rows)))


def in_fp16(checkpoint: Path, size: int, lowering: Lowering) -> GraphProto:
    """The graph of a bundle in FP16, with the shape and type of every tensor."""
    folder = OUT / f"{checkpoint.stem}-{size}-{lowering.value}"
    if not (folder / "fp16" / "bundle.json").is_file():
        spec = InputSpec(size, size)
        bundle = export_bundle(checkpoint, folder / "fp32", spec=spec, lowerings=[lowering])
        graph = load_model(bundle.model_path).graph
        plan = uniform_plan(bundle, graph, Scheme.TENSORRT, "fp16")
        quantize(bundle, folder / "fp16", plan=plan, table=None)
    model = onnx.load(load_bundle(folder / "fp16").model_path)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph


def up_to_logits(graph: GraphProto) -> GraphProto:
    """A graph whose labels one node makes of the logits, as the kernel does."""
    cut = GraphProto()
    cut.CopyFrom(graph)
    needed, kept = {"logits"}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    del cut.node[:]
    cut.node.extend(reversed(kept))
    kernel = onnx.helper.make_node(KERNEL, ["logits"], ["labels"], name=f"graph/{KERNEL}")
    cut.node.append(kernel)
    return cut


def count(graph: GraphProto) -> dict[str, dict[str, float]]:
    """Nodes, casts, nodes that compute in FP32, and megabytes, by part of the model."""
    without_copies(graph)
    sizes, parts = dict(sizes_of(graph)), parts_of(graph)
    floats = {v.name for v in (*graph.value_info, *graph.output) if _type(v) == TensorProto.FLOAT}
    found = {part: dict.fromkeys(_COUNTED, 0.0) for part in (*PARTS, "all")}
    for node in graph.node:
        for counts in (found[parts[node.output[0]]], found["all"]):
            counts["nodes"] += 1
            counts["casts"] += node.op_type == "Cast"
            computes = node.op_type not in ("Cast", *FREE)
            counts["in FP32"] += computes and node.output[0] in floats
            counts["MB at most"] += _megabytes([node], sizes, graph)
    for nodes in kernels(graph):
        for counts in (found[parts[nodes[0].output[0]]], found["all"]):
            counts["MB at least"] += _megabytes(nodes, sizes, graph)
    return found


def without_copies(graph: GraphProto) -> None:
    """Let nodes read what a Reshape reads, in place: it moves nothing."""
    roots: dict[str, str] = {}
    for node in graph.node:
        node.input[:] = [roots.get(name, name) for name in node.input]
        if node.op_type in FREE:
            roots[node.output[0]] = node.input[0]


def kernels(graph: GraphProto) -> Iterator[list[NodeProto]]:
    """Nodes by the kernel that would compute them, if all that can be fused were."""
    kernel: dict[str, int] = {}  # by tensor
    groups: list[list[NodeProto]] = []
    for node in graph.node:
        makers = sorted({kernel[name] for name in node.input if name in kernel})
        if not makers or node.op_type in ALONE:
            own = len(groups)
            groups.append([])
        else:  # one kernel of all that it reads, of which at most the first begins with a product
            own, *others = makers
            for other in others:
                if groups[other][0].op_type not in ALONE:
                    groups[own] += groups[other]
                    kernel |= {name: own for n in groups[other] for name in n.output}
                    groups[other] = []
        groups[own].append(node)
        kernel |= dict.fromkeys(node.output, own)
    return (nodes for nodes in groups if nodes)


def _megabytes(nodes: list[NodeProto], sizes: dict[str, int], graph: GraphProto) -> float:
    """What nodes together read from outside and write for outside."""
    nodes = [node for node in nodes if node.op_type not in FREE]
    made = {name for node in nodes for name in node.output}
    inside = {id(node) for node in nodes}
    read = {name for node in nodes for name in node.input} - made
    others = (node for node in graph.node if id(node) not in inside and node.op_type not in FREE)
    outside = {name for node in others for name in node.input}
    outside |= {output.name for output in graph.output}
    return sum(sizes.get(name, 0) for name in (*read, *(made & outside))) / 1e6


def sizes_of(graph: GraphProto) -> Iterator[tuple[str, int]]:
    """Bytes of every tensor."""
    for constant in graph.initializer:
        yield constant.name, prod(constant.dims) * _bytes(constant.data_type)
    for value in (*graph.input, *graph.value_info, *graph.output):
        shape = value.type.tensor_type.shape
        yield value.name, prod(d.dim_value for d in shape.dim) * _bytes(_type(value))


def parts_of(graph: GraphProto) -> dict[str, str]:
    """The part of the model that each tensor is made in; the refiner is the head's."""
    parts: dict[str, str] = {}
    for node in graph.node:
        part = block_of(node.name).partition(".")[0]
        if part not in (*PARTS, "refiner"):  # a cast, named after what it casts
            part = parts.get(node.input[0], "graph")
        parts |= dict.fromkeys(node.output, "head" if part == "refiner" else part)
    return parts


def table(rows: Iterable[dict[str, Any]]) -> Iterator[list[str]]:
    """A line for each part: of both graphs beside each other."""
    by_key = {(row["size"], row["part"], row["graph"]): row for row in rows}
    for size, part in dict.fromkeys((size, part) for size, part, _ in by_key):
        counts = [by_key[size, part, form] for form in _FORMS]
        cells = (" → ".join(f"{one[name]:.0f}" for one in counts) for name in _COUNTED)
        yield [f"{size}²", part, *cells]


def _type(value: onnx.ValueInfoProto) -> int:
    return value.type.tensor_type.elem_type


def _bytes(kind: int) -> int:
    return onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize


_COUNTED = ("nodes", "casts", "in FP32", "MB at most", "MB at least")
_FORMS = (*(lowering.value for lowering in Lowering), KERNEL)

if __name__ == "__main__":
    main()
