"""What a build asks of the library, on TensorRT-RTX's own builder; what a refit does, on a stand-in."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.artifacts.engine import load_engine, record_path
from segclip_deploy.artifacts.files import read_json, write_json
from segclip_deploy.artifacts.golden import load_golden
from segclip_deploy.artifacts.records import replace
from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.build_engine import build_engine, refit_engine
from segclip_deploy.runtime.targets.base import BuildOptions
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from segclip_deploy.runtime.targets.tensorrt import builder
from segclip_deploy.runtime.targets.tensorrt.builder import build_plan
from segclip_deploy.runtime.targets.tensorrt.library import complaints, logger_of
from segclip_deploy.runtime.verify import verify
from tests.support.fake_tensorrt import ORIN, install
from tests.support.helpers import call, edited

# Behind the stand-in is TensorRT-RTX, whose timing cache is deprecated; TensorRT's is not.
pytestmark = pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")

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
    """A model whose operators read what TF32 keeps of their inputs: 10 bits of mantissa.

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


def test_tf32_would_fail_verification_of_fp32(example_bundle: Path, tmp_path: Path) -> None:
    bundle = load_bundle(example_bundle)
    golden = load_golden(bundle.golden_path)
    onnx.save(in_tf32(onnx.load(bundle.model_path)), tmp_path / "tf32.onnx")
    passed = {}
    for path in (bundle.model_path, tmp_path / "tf32.onnx"):
        with OnnxRuntimeBackend(path, reference=True) as backend:
            checks = verify(backend, golden, bundle.vocabulary.names).checks
        passed[path.stem] = next(one.passed for one in checks if one.name == "labels")
    assert passed == {"model": True, "tf32": False}


# ---- options


@pytest.mark.parametrize("capability", ["8.7", "9.0"])
@pytest.mark.faults
def test_a_gpu_that_rtx_does_not_build_for_is_named_with_the_way_out(
    capability: str, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx")
    gpu = replace(ORIN, compute_capability=capability)
    monkeypatch.setattr("segclip_deploy.runtime.targets.tensorrt.rtx.find_gpu", lambda why: gpu)
    result = call("build-engine", tiny_bundle, "-o", tmp_path / "e.rtx")
    assert result.exit_code == 1
    number = capability.replace(".", "")
    assert f"builds for 75, 80, 86, 89, 120, 121, and the GPU here, Orin, has {number}" in (
        result.stderr
    )
    assert f"segclip-deploy build-engine {tiny_bundle} -o NAME.engine" in result.stderr
    assert "--compute-capability" not in result.stderr  # nobody gave it


@pytest.mark.parametrize(("version", "said"), [("11.0.0.114", "no DLA"), ("10.16.1.11", "core 0")])
@pytest.mark.faults
def test_a_dla_is_refused_where_tensorrt_has_dropped_it(
    version: str, said: str, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tiny_bundle / "model.onnx")
    monkeypatch.setattr(sys.modules["tensorrt"], "__version__", version)
    result = call("build-engine", tiny_bundle, "-o", tmp_path / "e.engine", "--dla", "0")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: --dla: ")
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.faults
def test_internal_errors_of_the_library_are_told(tiny_bundle: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    complaints(trt)
    for severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING):
        logger_of(trt).log(severity, severity.name)
    assert complaints(trt) == "INTERNAL_ERROR; ERROR"


# ---- refitting


class Refittable:
    """A runtime whose plans bring code for the host, and the engine, refitter and parser of one."""

    engine_host_code_allowed = False
    plan = b""  # as it is stored: what new weights do to it only a GPU can tell

    def __init__(self, *_: object) -> None: ...

    def deserialize_cuda_engine(self, data: bytes) -> Refittable | None:
        Refittable.plan = data
        return self if self.engine_host_code_allowed else None

    def refit_from_file(self, model: str) -> bool:
        return True

    def get_missing_weights(self) -> list[str]:
        return []

    def refit_cuda_engine(self) -> bool:
        return True

    def serialize(self) -> bytes:
        return Refittable.plan


@pytest.fixture
def refittable(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An engine that is version compatible and refittable, on a stand-in."""
    install(monkeypatch, tiny_bundle / "model.onnx")
    # TensorRT-RTX refuses both flags where there is no GPU.
    monkeypatch.setattr(builder, "_member", lambda *_: sys.modules["tensorrt"].BuilderFlag.DEBUG)
    configure = builder._configure

    def without(trt: Any, made: Any, network: Any, config: Any, *more: Any) -> None:
        configure(trt, made, network, config, *more)
        for flag in (trt.BuilderFlag.REFIT_INDIVIDUAL, trt.BuilderFlag.DEBUG):
            config.clear_flag(flag)

    monkeypatch.setattr(builder, "_configure", without)
    options = BuildOptions(version_compatible=True, refittable=True)
    return build_engine(load_bundle(tiny_bundle), tmp_path / "e.engine", options=options).path


@pytest.mark.faults
def test_a_version_compatible_engine_is_refitted(
    refittable: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = sys.modules["tensorrt"]
    flies = trt.Runtime
    runtime = Refittable()

    def either(logger: object) -> Any:
        runtimes.append(flies(logger) if runtimes else runtime)
        return runtimes[-1]

    runtimes: list[Any] = []
    monkeypatch.setattr(trt, "Runtime", either)
    for name in ("Refitter", "OnnxParserRefitter"):
        monkeypatch.setattr(trt, name, Refittable, raising=False)
    engine = refit_engine(load_engine(refittable), load_bundle(tiny_bundle))
    assert engine.path.read_bytes() == Refittable.plan != b""
    assert engine.record.built.verified.passed
    assert len(runtimes) == 2  # refitted, then flown


@pytest.mark.parametrize("changed", ["other weights", "an older record"])
@pytest.mark.faults
def test_what_a_refit_would_leave_as_it_was_must_be_the_same(
    changed: str, refittable: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = load_bundle(tiny_bundle)
    if changed == "other weights":
        model = onnx.load(bundle.model_path)
        weight = next(w for w in model.graph.initializer if not w.name.startswith("text."))
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + 1, weight.name))
        bundle = edited(tiny_bundle, tmp_path / "other", model)
    else:
        record = read_json(record_path(refittable))
        del record["built"]["build"]["fixed_sha256"]
        write_json(record_path(refittable), record)
    with pytest.raises(BadInput, match="more than its text differs") as caught:
        refit_engine(load_engine(refittable), bundle)
    assert f"segclip-deploy build-engine {bundle.path} -o {refittable}" in str(caught.value)
