"""What a build asks of the library, on TensorRT-RTX's own builder; what a refit does, on a stand-in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.artifacts.golden import load_golden
from segclip_deploy.runtime.targets.base import BuildOptions
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from segclip_deploy.runtime.targets.tensorrt import builder
from segclip_deploy.runtime.targets.tensorrt.builder import build_plan
from segclip_deploy.runtime.verify import verify

AMPERE = BuildOptions(compute_capability=("86",))


@pytest.mark.faults
def test_no_build_computes_fp32_in_tf32(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    seen, build = [], builder._build

    def observed(made: Any, network: Any, config: Any, needed: object) -> Any:
        seen.append(config.get_flag(trt.BuilderFlag.TF32))
        return build(made, network, config, needed)

    monkeypatch.setattr(builder, "_build", observed)
    assert trt.Builder(trt.Logger()).create_builder_config().get_flag(trt.BuilderFlag.TF32)
    build_plan(trt, tiny_bundle / "model.onnx", AMPERE, batches=range(1, 2))
    assert seen == [False]


def in_tf32(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model whose products read what TF32 keeps of their inputs: 10 bits of mantissa.

    For x, c = x · (2¹³ + 1) and c − (c − x) leave the upper bits, rounded (Dekker's splitting).
    """
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.float32(2**13 + 1), "tf32.factor"))
    nodes, rounded = [], dict[str, str]()
    for node in graph.node:
        if node.op_type in ("Conv", "MatMul", "Gemm"):
            for place, name in enumerate(node.input[:2]):
                if name not in rounded:
                    a, b, rounded[name] = (f"{name}.tf32.{step}" for step in "abc")
                    nodes += [
                        helper.make_node("Mul", [name, "tf32.factor"], [a]),
                        helper.make_node("Sub", [a, name], [b]),
                        helper.make_node("Sub", [a, b], [rounded[name]]),
                    ]
                node.input[place] = rounded[name]
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def test_tf32_would_fail_the_flight_check_of_fp32(example_bundle: Path, tmp_path: Path) -> None:
    bundle = load_bundle(example_bundle)
    golden = load_golden(bundle.golden_path)
    onnx.save(in_tf32(onnx.load(bundle.model_path)), tmp_path / "tf32.onnx")
    passed = {}
    for path in (bundle.model_path, tmp_path / "tf32.onnx"):
        with OnnxRuntimeBackend(path, literal=True) as backend:
            checks = verify(backend, golden, bundle.vocabulary.names).checks
        passed[path.stem] = next(one.passed for one in checks if one.name == "labels")
    assert passed == {"model": True, "tf32": False}
