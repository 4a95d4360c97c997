"""Quantized bundles become engines: what is built is the plan, and only where it was meant for."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from segclip_deploy.artifacts.bundle import Bundle, load_bundle
from segclip_deploy.artifacts.golden import load_golden
from segclip_deploy.artifacts.onnx_file import block_of
from segclip_deploy.artifacts.plan import PrecisionPlan
from segclip_deploy.artifacts.records import replace
from segclip_deploy.artifacts.scheme import Lowering, Scheme
from segclip_deploy.calibration.ranges import METHODS, Histogram
from segclip_deploy.calibration.table import CalibrationTable, GraphStatistics, Range
from segclip_deploy.export.onnx_model import load_model, observer
from segclip_deploy.quantization.placement import Placement, find_probes, place, uniform_plan
from segclip_deploy.quantization.quantize import quantize
from segclip_deploy.runtime.build_engine import build_engine
from segclip_deploy.runtime.targets.base import BuildOptions
from segclip_deploy.runtime.targets.tensorrt import builder
from segclip_deploy.runtime.targets.tensorrt.builder import fixed_sha256
from segclip_deploy.runtime.targets.tensorrt.library import logger_of
from tests.support.helpers import call, edited
from tests.support.records import small_table

SPARED = ("encoder.stage3", "decoder.8")


def table_of(bundle: Bundle) -> CalibrationTable:
    """Extremes of the golden tiles, in every graph."""
    graphs = {one: GraphStatistics(extremes(bundle.lowered(one))) for one in bundle.lowerings}
    return small_table(bundle=bundle.sha256, graphs=graphs)


def extremes(bundle: Bundle) -> dict[str, Range]:
    model = load_model(bundle.model_path)
    names = find_probes(model.graph).tensors
    run = observer(model, names)
    seen = {name: Histogram() for name in names}
    for tile in load_golden(bundle.golden_path).tiles:
        for name, values in zip(names, run(tile[None]), strict=True):
            seen[name].add(values)
    return {name: METHODS["minmax"](histogram) for name, histogram in seen.items()}


@pytest.fixture(scope="session")
def rtx_table(tiny_bundle: Path) -> CalibrationTable:
    return table_of(load_bundle(tiny_bundle))


@pytest.fixture(scope="session")
def plans(tiny_bundle: Path) -> dict[str, PrecisionPlan]:
    """FP16, INT8, and INT8 with two blocks back in FP16; and INT8 for a CPU."""
    bundle = load_bundle(tiny_bundle)
    graph = load_model(bundle.model_path).graph
    int8 = uniform_plan(bundle, graph, Scheme.TENSORRT, "int8")
    assert all(int8.blocks[block] == "int8" for block in SPARED)
    return {
        "fp16": uniform_plan(bundle, graph, Scheme.TENSORRT, "fp16"),
        "int8": int8,
        "mix": replace(int8, blocks={**int8.blocks, **dict.fromkeys(SPARED, "fp16")}),
        "cpu": uniform_plan(bundle, graph, Scheme.CPU, "int8"),
    }


@pytest.fixture(scope="session")
def bundles(
    tiny_bundle: Path,
    rtx_table: CalibrationTable,
    plans: dict[str, PrecisionPlan],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """A bundle of each plan, and the one they were made from."""
    folder, source = tmp_path_factory.mktemp("precision"), load_bundle(tiny_bundle)
    for name, plan in plans.items():
        quantize(source, folder / name, plan=plan, table=rtx_table)
    return {"fp32": tiny_bundle, **{name: folder / name for name in plans}}


def parsed(model: Path) -> list[tuple[str, str, str, list[str], list[str]]]:
    """Layers as TensorRT-RTX parses them: type, block, type and name of what is written, read."""
    trt = pytest.importorskip("tensorrt_rtx")
    network = trt.Builder(logger_of(trt)).create_network(0)
    parser = builder._parse(trt, network, model)
    found = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        node = re.fullmatch(r"\[ONNX Layer: (.*)\]", layer.metadata)
        reads = [layer.get_input(i) for i in range(layer.num_inputs)]
        writes = [layer.get_output(i) for i in range(layer.num_outputs)]
        found.append(
            (
                layer.type.name,
                block_of(node[1]) if node else "",
                writes[0].dtype.name if writes else "",
                [tensor.name for tensor in reads if tensor],
                [tensor.name for tensor in writes],
            )
        )
    del parser
    return found


@pytest.mark.parametrize("precision", ["fp16", "int8", "mix"])
def test_what_tensorrt_parses_is_the_plan_block_by_block(
    precision: str, bundles: dict[str, Path]
) -> None:
    bundle = load_bundle(bundles[precision])
    plan = bundle.record.plan
    fallback = {block_of(name) for name in bundle.record.quantization.fp32_fallback}
    layers = parsed(bundle.model_path)
    rounded = {name for kind, *_, writes in layers if kind == "DEQUANTIZE" for name in writes}
    fused: Counter[str] = Counter()
    for kind, block, written, reads, _ in layers:
        dequantized = [name in rounded for name in reads]
        if kind in ("CONVOLUTION", "MATRIX_MULTIPLY") and any(dequantized):
            assert all(dequantized)
            fused[block] += 1
        if any(dequantized) and block:
            assert plan[block] == "int8"
        if kind in ("QUANTIZE", "DEQUANTIZE"):
            assert written == ("INT8" if kind == "QUANTIZE" else "HALF")
        elif kind in ("CONVOLUTION", "MATRIX_MULTIPLY"):
            assert written == "HALF" or plan[block] == "fp32" or block in fallback
    assert set(fused) == {block for block, kind in plan.items() if kind == "int8"}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "mix"])
def test_an_engine_records_what_its_plan_became(
    precision: str,
    bundles: dict[str, Path],
    plans: dict[str, PrecisionPlan],
    tiny_bundle: Path,
    tmp_path: Path,
) -> None:
    pytest.importorskip("tensorrt_rtx")
    bundle, path = load_bundle(bundles[precision]), tmp_path / "e.rtx"
    engine = build_engine(bundle, path, options=BuildOptions(compute_capability=("86",)))
    network = engine.record.built.network
    source = load_bundle(tiny_bundle).for_scheme(Scheme.TENSORRT)
    graph = load_model(source.model_path).graph
    plan = plans.get(precision)
    blocks = plan.blocks if plan else dict.fromkeys((block_of(n.name) for n in graph), "fp32")
    placement = place(graph, Scheme.TENSORRT, plan.int8) if plan else Placement((), ())
    resized = {name for name, _ in placement.reads if "/Resize" in name}
    done = bundle.record.quantization
    fallback = {block_of(name) for name in done.fp32_fallback} if done else set()
    assert engine.record.bundle.plan == (plan and plan.blocks)
    assert network.keys() == blocks.keys()
    computed = Counter(block_of(name) for name in placement.nodes | resized)
    assert {b: kinds["int8"] for b, kinds in network.items() if "int8" in kinds} == computed
    for block, kinds in network.items():
        assert ("int8" in kinds) == (blocks[block] == "int8")
        assert ("fp32" in kinds) == (blocks[block] == "fp32" or block in fallback)
    told = call("inspect", path).stdout.partition("layers by block and type")[2]
    for block, kind in blocks.items():
        (line,) = [line for line in told.splitlines() if line.split()[:1] == [block]]
        assert line.split()[1] == kind


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_of_an_engine_whose_labels_a_kernel_makes_nothing_but_logits_is_built(
    precision: str, bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx")
    seen: list[Any] = []
    build = builder._build

    def observed(made: Any, network: Any, config: Any, needed: object) -> Any:
        outputs = [network.get_output(index) for index in range(network.num_outputs)]
        seen.extend((tensor.name, tensor.dtype.name) for tensor in outputs)
        layers = (network.get_layer(index) for index in range(network.num_layers))
        seen.extend(layer.type.name for layer in layers if layer.type.name == "TOPK")  # the ArgMax
        return build(made, network, config, needed)

    monkeypatch.setattr(builder, "_build", observed)
    bundle, path = load_bundle(bundles[precision]), tmp_path / "e.rtx"
    options = BuildOptions(compute_capability=("86",), labels="kernel")
    built = build_engine(bundle, path, options=options).record.built
    assert seen == [("logits", "FLOAT")]
    assert built.settings == {"outputs": "labels logits"}
    plan = path.read_bytes()
    assert b"logits" in plan
    assert b"labels" not in plan


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.faults
def test_the_text_is_refittable_in_every_precision(
    precision: str, bundles: dict[str, Path]
) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    model = load_bundle(bundles[precision]).for_scheme(Scheme.TENSORRT).model_path
    made = trt.Builder(logger_of(trt))
    network, config = made.create_network(0), made.create_builder_config()
    parser = builder._parse(trt, network, model)
    builder._configure(trt, made, network, config, BuildOptions(refittable=True), model)
    graph = onnx.load(model).graph
    text = {w.name: numpy_helper.to_array(w) for w in graph.initializer if "text." in w.name}
    left = [name for name in text if not network.are_weights_marked_refittable(name)]
    # What is left is the same for every text: zero points of weights, which are symmetric.
    assert all(name.endswith(".zero") and not text[name].any() for name in left)
    marked = text.keys() - set(left)
    assert bool(left) == any(name.endswith(".int8") for name in marked) == (precision == "int8")
    assert {f"{name.removesuffix('.int8')}.scale" for name in marked if ".int8" in name} <= marked
    del parser


def test_new_texts_leave_the_rest_of_an_fp16_bundle_as_it_was(
    bundles: dict[str, Path], tiny_bundle: Path, plans: dict[str, PrecisionPlan], tmp_path: Path
) -> None:
    model = onnx.load(tiny_bundle / "model.nvidia.onnx")
    for weight in model.graph.initializer:
        if weight.name.startswith("text."):
            values = numpy_helper.to_array(weight)
            weight.CopyFrom(numpy_helper.from_array(values * np.float32(1.01), weight.name))
    other = edited(tiny_bundle, tmp_path / "texts", model, Lowering.NVIDIA)
    plan = replace(plans["fp16"], bundle=other.sha256)
    quantized = quantize(other, tmp_path / "fp16", plan=plan, table=None)
    assert quantized.model_path.read_bytes() != load_bundle(bundles["fp16"]).model_path.read_bytes()
    assert fixed_sha256(quantized.model_path) == fixed_sha256(
        load_bundle(bundles["fp16"]).model_path
    )


@pytest.mark.parametrize(
    ("precision", "name", "said"),
    [
        ("int8", "e.ov.onnx", "quantize FP32_BUNDLE --scheme cpu --precision int8"),
        ("fp16", "e.ort.onnx", "build-engine FP32_BUNDLE -o ENGINE"),  # a CPU has no FP16
        ("cpu", "e.engine", "quantize FP32_BUNDLE --scheme tensorrt --precision int8"),
        ("cpu", "e.rtx", "quantize FP32_BUNDLE --scheme tensorrt --precision int8"),
    ],
)
def test_a_bundle_of_the_other_dialect_is_refused_with_the_command(
    precision: str, name: str, said: str, bundles: dict[str, Path], tmp_path: Path
) -> None:
    result = call("build-engine", bundles[precision], "-o", tmp_path / name)
    assert result.exit_code == 1
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_cpu_engines_in_int8_are_held_to_their_own_labels_and_to_fp32(
    example_bundle: Path, tmp_path: Path
) -> None:
    source = load_bundle(example_bundle)
    graph = load_model(source.model_path).graph
    plan = uniform_plan(source, graph, Scheme.CPU, "int8")
    bundle = quantize(source, tmp_path / "int8", plan=plan, table=table_of(source))
    for name in ("e.ov.onnx", "e.ort.onnx"):
        verified = build_engine(bundle, tmp_path / name).record.built.verified
        assert verified.passed
        assert [one.name for one in verified.checks][:3] == ["labels", "classes", "fp32"]
