from __future__ import annotations

import resource
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from segclip_deploy._optional import install_command
from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.artifacts.engine import load_engine
from segclip_deploy.artifacts.scheme import Lowering
from segclip_deploy.errors import BadArtifact, BadInput
from segclip_deploy.runtime.build_engine import build_engine
from segclip_deploy.runtime.targets.base import BuildOptions
from segclip_deploy.runtime.targets.tensorrt import builder
from segclip_deploy.runtime.targets.tensorrt.builder import build_plan
from segclip_deploy.runtime.targets.tensorrt.library import logger_of
from segclip_deploy.runtime.targets.tensorrt.tries import label_makers
from tests.support.fake_tensorrt import install, remove_driver
from tests.support.helpers import call, edited

# Behind the stand-in is TensorRT-RTX, whose timing cache is deprecated; TensorRT's is not.
pytestmark = pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")

THREE = BuildOptions(compute_capability=("86", "89", "120"))


# ---- TensorRT-RTX, ahead of time: NVIDIA's own builder, without a GPU


@pytest.mark.parametrize("which", ["tiny_bundle", "example_bundle"])
def test_a_bundle_builds_for_three_gpus_that_are_not_here(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    bundle = load_bundle(request.getfixturevalue(which))
    phases: list[tuple[str, int, int]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a deprecated call is one TensorRT 12 lacks
        engine = build_engine(
            bundle,
            tmp_path / "e.rtx",
            options=THREE,
            report=lambda *told: phases.append(told),
        )
    record = load_engine(engine.path).record
    assert record.built.device.compute_capability == ("8.6", "8.9", "12.0")
    assert record.built.device.library.startswith("TensorRT-RTX 1.")
    assert record.arguments == ("--compute-capability", "86,89,120")
    assert record.bytes == engine.path.stat().st_size > 1e6
    assert record.built.build.seconds > 0
    # What only a GPU can tell is not told.
    assert record.built.verified is record.built.layers is record.built.blocks is None
    assert record.built.not_verified == "no NVIDIA GPU is here"
    assert {"graph", "cff.16.read", "refiner", "head"} <= record.built.network.keys()
    assert {kind for counts in record.built.network.values() for kind in counts} == {"fp32"}
    assert ("Building engine", 6, 6) in phases
    assert all(0 <= done <= steps for _, done, steps in phases)
    assert {p.name for p in tmp_path.iterdir()} == {"e.rtx", "e.rtx.json", "e.rtx.golden.npz"}


@pytest.mark.parametrize(
    ("labels", "maker", "told"),
    [
        ("kernel", "kernel", "labels made by a kernel on the GPU"),
        ("auto", "graph", "labels made by the graph, no kernel was tried"),
    ],
)
def test_without_the_gpu_no_way_of_making_labels_is_tried_and_that_is_said(
    labels: str, maker: str, told: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    path, options = tmp_path / "e.rtx", ("--compute-capability", "86", "--labels", labels)
    result = call("build-engine", tiny_bundle, "-o", path, *options)
    assert result.exit_code == 0, result.stderr
    assert told in result.stdout
    engine = load_engine(path)
    assert engine.record.built.labels == maker
    assert engine.rebuild_command().endswith(" ".join(options))


def test_both_ways_are_built_only_for_gpus_that_the_kernel_runs_on() -> None:
    both = BuildOptions(labels="auto")
    assert label_makers(both, ["87"], here=True) == ("graph", "kernel")
    assert label_makers(both, ["75"], here=True) == ("graph",)
    assert label_makers(both, ["87"], here=False) == ("graph",)


def test_an_open_batch_gets_a_profile(tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx")

    def model(shape: list[Any]) -> Path:
        graph = helper.make_graph(
            [
                helper.make_node("Cast", ["image"], ["x"], name="graph/Cast", to=1),
                helper.make_node("ArgMax", ["x"], ["i"], name="head/ArgMax", axis=3, keepdims=0),
                helper.make_node("Cast", ["i"], ["labels"], name="head/Cast", to=1),
            ],
            "g",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, shape)],
            [helper.make_tensor_value_info("labels", TensorProto.FLOAT, shape[:3])],
        )
        opset = [helper.make_opsetid("", 19)]
        path = tmp_path / "open.onnx"
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
        return path

    options = BuildOptions(compute_capability=("86",))
    plan = build_plan(trt, model(["n", 8, 8, 3]), options, batches=range(1, 9))
    assert plan.data.nbytes > 0
    with pytest.raises(BadArtifact, match=r"\(1, -1, 8, 3\); only the batch may be open"):
        build_plan(trt, model([1, "h", 8, 3]), options, batches=range(1, 2))


def test_what_the_parser_refuses_is_told_by_node_operator_and_reason(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    model = onnx.load(tiny_bundle / "model.nvidia.onnx")
    first = model.graph.node[0]
    assert first.op_type == "Cast"
    turned = helper.make_node(
        "Transpose", ["image"], ["turned"], name="graph/Turn", perm=[0, 2, 1, 3]
    )
    back = helper.make_node("Transpose", ["turned"], ["back"], name="graph/Back", perm=[0, 2, 1, 3])
    first.input[0] = "back"
    for node in (back, turned):
        model.graph.node.insert(0, node)
    bundle = edited(tiny_bundle, tmp_path / "turned", model, Lowering.NVIDIA)
    result = call(
        "build-engine", bundle.path, "-o", tmp_path / "e.rtx", "--compute-capability", "86"
    )
    assert result.exit_code == 1
    assert "graph/Turn (Transpose)" in result.stderr
    assert "UInt8" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["turned"]


_INTERRUPTED = """
import os, signal, sys, time
from pathlib import Path
from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.runtime.build_engine import build_engine
from segclip_deploy.runtime.targets.base import BuildOptions

phases = []

def interrupt(phase, done, steps):
    if not phases:
        os.kill(os.getpid(), signal.SIGINT)  # as the terminal does
        time.sleep(0.5)  # the build is not over before the signal has arrived
    phases.append(phase)

# A shell that starts the tests in the background has them ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
options = BuildOptions(compute_capability=("86", "89", "120"))
try:
    build_engine(load_bundle(sys.argv[1]), Path(sys.argv[2]), options=options, report=interrupt)
except KeyboardInterrupt:
    print(sorted(set(phases)))
"""


@pytest.mark.faults
def test_ctrl_c_cancels_a_build_and_leaves_nothing(example_bundle: Path, tmp_path: Path) -> None:
    """In a process of its own, as a terminal has it: TensorRT-RTX 1.7.1, cancelled in one that had
    run many other libraries before, has crashed it."""
    pytest.importorskip("tensorrt_rtx")
    command = [sys.executable, "-c", _INTERRUPTED, str(example_bundle), str(tmp_path / "e.rtx")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Building engine" in done.stdout
    assert "Timing graph nodes" not in done.stdout  # it did not go on
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_progress_bar_ends_the_build_with_that_error(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        build_engine(load_bundle(tiny_bundle), tmp_path / "e.rtx", options=THREE, report=broken)
    assert list(tmp_path.iterdir()) == []


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Writes beyond a size fail half-way, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", ["e.rtx", "e.ort.onnx"])
@pytest.mark.faults
def test_a_write_that_fails_half_way_is_one_line_and_leaves_the_old_engine(
    name: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    options = ["--compute-capability", "86"] if name == "e.rtx" else []
    if options:
        pytest.importorskip("tensorrt_rtx")
    out = tmp_path / name
    assert call("build-engine", tiny_bundle, "-o", out, *options).exit_code == 0
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with no_file_larger_than(100_000):
        result = call("build-engine", tiny_bundle, "-o", out, *options)
    assert result.exit_code == 1
    assert "File too large" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


# ---- options


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("e.rtx", [], "--compute-capability 86,89,120"),
        ("e.rtx", ["--compute-capability", "86,99"], "75, 80, 86, 89, 120"),
        ("e.rtx", ["--compute-capability", "86", "--dla", "0"], "an option of tensorrt, not of"),
        ("e.rtx", ["--compute-capability", "86", "--tries", "2"], "no NVIDIA GPU is here"),
        ("e.rtx", ["--compute-capability", "86", "--refittable"], "no NVIDIA GPU is here"),
        ("e.engine", ["--compute-capability", "86"], "of tensorrt-rtx, not of tensorrt"),
        ("e.ov.onnx", ["--workspace", "512"], "of tensorrt and tensorrt-rtx, not of openvino"),
        ("e.ov.onnx", ["--labels", "kernel"], "of tensorrt and tensorrt-rtx, not of openvino"),
        ("e.rtx", ["--compute-capability", "75,86", "--labels", "kernel"], "newer, not for 7.5"),
    ],
)
def test_an_option_that_would_have_no_effect_is_refused(
    name: str, options: list[str], said: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    result = call("build-engine", tiny_bundle, "-o", tmp_path / name, *options)
    assert result.exit_code == 1
    assert said in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_options_and_their_words_say_the_same() -> None:
    options = BuildOptions(
        workspace=512, refittable=True, tries=3, timing_cache=Path("c"), dla=0, timing_iterations=4
    )
    words = [
        *("--workspace", "512", "--timing-iterations", "4", "--refittable"),
        *("--dla", "0", "--timing-cache", "c", "--tries", "3"),
    ]
    assert options.arguments() == tuple(words)
    assert BuildOptions().arguments() == ()


def test_classic_tensorrt_says_what_is_missing(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    result = call("build-engine", tiny_bundle, "-o", tmp_path / "e.engine")
    assert result.exit_code == 1
    assert install_command("tensorrt") in result.stderr
    install(monkeypatch, tiny_bundle / "model.onnx", gpu=None)
    remove_driver(monkeypatch)
    result = call("build-engine", tiny_bundle, "-o", tmp_path / "e.engine")
    assert result.exit_code == 1
    assert "no NVIDIA driver (libcuda.so.1) is here; run it on the machine" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_dla_that_is_not_here_is_refused(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tiny_bundle / "model.onnx")
    with pytest.raises(BadInput, match="--dla: core 0 of 0 that are here"):
        build_engine(load_bundle(tiny_bundle), tmp_path / "e.engine", options=BuildOptions(dla=0))


def test_only_the_text_is_marked_refittable(tiny_bundle: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    model = tiny_bundle / "model.onnx"
    trt_builder = trt.Builder(logger_of(trt))
    network = trt_builder.create_network(0)
    parser = builder._parse(trt, network, model)
    config = trt_builder.create_builder_config()
    builder._configure(trt, trt_builder, network, config, BuildOptions(refittable=True), model)
    assert config.get_flag(trt.BuilderFlag.REFIT_INDIVIDUAL)
    names = [weight.name for weight in onnx.load(model).graph.initializer]
    marked = [name for name in names if network.are_weights_marked_refittable(name)]
    assert marked == [name for name in names if name.startswith("text.")] != []
    del parser
