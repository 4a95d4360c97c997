"""ONNX Runtime as the reference: a version that truncates where FP16 is quantized is none."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from segclip_deploy.artifacts.onnx_file import quantizes_fp16
from segclip_deploy.artifacts.onnx_wire import field
from segclip_deploy.runtime.targets import reference
from tests.conftest import EXAMPLE, ROOT, uniformly
from tests.support.faults import MAIN
from tests.support.helpers import call

REASON = r"truncates where FP16 is quantized, so labels would be wrong; 1\.30 rounds"


class Truncating:
    """An ONNX Runtime session of the model that the quantizer is tried with, as those before 1.30."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def run(self, _names: None, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        return [np.trunc(feeds["x"]).clip(-128, 127).astype(np.int8)]


@pytest.fixture
def truncating(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    session = onnxruntime.InferenceSession

    def opened(model: str | bytes, *rest: object, **options: object) -> object:
        tried = model == reference._quantizer()
        return (Truncating if tried else session)(model, *rest, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    reference._rounds_fp16.cache_clear()
    yield
    reference._rounds_fp16.cache_clear()


def quantizer(path: Path, kind: type[np.generic]) -> Path:
    """A model of one QuantizeLinear that reads numbers of a kind."""
    of_onnx = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    graph = helper.make_graph(
        [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", of_onnx, [3])],
        [helper.make_tensor_value_info("y", TensorProto.INT8, [3])],
        [numpy_helper.from_array(kind(1), "s"), numpy_helper.from_array(np.int8(0), "z")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)]), path)
    return path


def test_the_model_it_is_tried_with_is_one_and_this_version_rounds() -> None:
    onnx.checker.check_model(onnx.load_from_string(reference._quantizer()), full_check=True)
    assert reference._rounds_fp16()


def test_this_processor_is_believed_after_a_product() -> None:
    onnx.checker.check_model(onnx.load_from_string(reference._product()), full_check=True)
    assert reference._sums_in_fp32()


@pytest.mark.faults
def test_a_processor_that_sums_fp16_in_fp16_is_no_reference(
    tiny_bundle: Path, tiny_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ONNX Runtime on aarch64, with sums of eight lanes."""
    fp16 = uniformly(tiny_bundle, tiny_table, tmp_path / "fp16", "tensorrt", "fp16")
    given, weights = reference._factors()
    lanes = np.zeros((8, weights.shape[1]), np.float16)
    for first in range(0, len(weights), 8):
        lanes += given[0, first : first + 8, None] * weights[first : first + 8]
    monkeypatch.setattr(reference, "_tried", lambda *_: lanes.sum(0, dtype=np.float16)[None])
    reference._sums_in_fp32.cache_clear()
    refused = call("verify", fp16)
    assert refused.exit_code == 1
    assert "sums products of FP16 in FP16 on this processor" in refused.stderr
    assert call("verify", tiny_bundle).exit_code == 0
    reference._sums_in_fp32.cache_clear()


def test_only_what_quantizes_fp16_needs_it(tmp_path: Path) -> None:
    assert quantizes_fp16(quantizer(tmp_path / "half.onnx", np.float16))
    assert not quantizes_fp16(quantizer(tmp_path / "single.onnx", np.float32))
    lame = tmp_path / "lame.onnx"  # a QuantizeLinear without inputs: ONNX Runtime refuses it
    lame.write_bytes(field(7, field(1, field(4, b"QuantizeLinear"))))
    assert not quantizes_fp16(lame)


@pytest.mark.faults
def test_a_runtime_that_truncates_fp16_is_no_reference(
    tiny_bundle: Path, tiny_table: Path, truncating: None, tmp_path: Path
) -> None:
    int8 = ("--scheme", "tensorrt", "--precision", "int8", "--table", tiny_table)
    refused = call("quantize", tiny_bundle, *int8, "-o", tmp_path / "int8")
    assert refused.exit_code == 1
    assert re.search(REASON, refused.stderr)
    assert not (tmp_path / "int8").exists()
    fp16 = uniformly(tiny_bundle, tiny_table, tmp_path / "fp16", "tensorrt", "fp16")
    assert call("verify", fp16).exit_code == 0  # no QuantizeLinear in it


@pytest.mark.faults
@pytest.mark.parametrize(
    "words", ["verify {}", "evaluate {} {example}", "run {} {example}/images -o {out}"]
)
def test_a_bundle_is_not_run_where_fp16_is_truncated(
    words: str, tiny_bundle: Path, tiny_table: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bundle = uniformly(tiny_bundle, tiny_table, tmp_path / "int8", "tensorrt", "int8")
    request.getfixturevalue("truncating")
    refused = call(*words.format(bundle, example=EXAMPLE, out=tmp_path / "out").split())
    assert refused.exit_code == 1
    assert re.search(REASON, refused.stderr)


def test_the_way_out_fits_the_python_and_the_package() -> None:
    def fix(python: tuple[int, ...], *distributions: str) -> str | None:
        return reference._refusal("1.23.2", python, list(distributions)).fix

    assert fix((3, 11), "onnxruntime") == "pip install -U 'onnxruntime>=1.30'"
    assert fix((3, 12), "onnxruntime-gpu") == "pip install -U 'onnxruntime-gpu>=1.30'"
    made, installed = (fix((3, 10), "onnxruntime") or "").split(" && ")
    assert made == "python3.11 -m venv segclip-python3.11"
    assert shlex.split(installed)[:3] == ["segclip-python3.11/bin/pip", "install", "-e"]


# ---- the real one


@pytest.fixture(scope="module")
def old_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX Runtime 1.23.2; what needs it needs an index of packages."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder]
    done = subprocess.run([*pip, "onnxruntime==1.23.2"], stderr=subprocess.PIPE, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot download ONNX Runtime 1.23.2: {done.stderr.decode()[-200:]}")
    (wheel,) = folder.iterdir()
    return wheel


def verified(python: Path, bundle: Path) -> subprocess.CompletedProcess[str]:
    words = [python, "-c", MAIN, "verify", bundle]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.mark.long
@pytest.mark.faults
def test_onnx_runtime_1_23_2_is_refused_until_its_remedy_is_run(
    quantized: Callable[[str, str], Path], old_wheel: Path, tmp_path: Path
) -> None:
    int8, programs = quantized("tensorrt", "int8"), tmp_path / "venv" / "bin"
    subprocess.run([sys.executable, "-m", "venv", programs.parent], check=True)
    (packages,) = programs.parent.glob("lib/python*/site-packages")
    (packages / "all_else.pth").write_text(f"{ROOT}\n{sysconfig.get_paths()['purelib']}\n")
    subprocess.run([programs / "pip", "install", "-q", "--no-deps", old_wheel], check=True)
    refused = verified(programs / "python", int8)
    assert refused.returncode == 1
    assert re.fullmatch(rf"error: ONNX Runtime 1\.23\.2 {REASON}; pip .*\n", refused.stderr)
    assert verified(programs / "python", quantized("tensorrt", "fp16")).returncode == 0

    remedy = refused.stderr.rpartition("; ")[2]
    path = f"{programs}:{os.environ['PATH']}"
    subprocess.run(["bash", "-c", remedy], env={**os.environ, "PATH": path}, check=True)
    mended = verified(programs / "python", int8)
    assert mended.returncode == 0, mended.stderr


@pytest.mark.long
@pytest.mark.faults
@pytest.mark.usefixtures("old_wheel")
@pytest.mark.skipif(not shutil.which("python3.11"), reason="there is no python3.11")
def test_the_remedy_for_python_3_10_makes_an_environment_that_verifies(
    quantized: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    remedy = reference._refusal("1.23.2", (3, 10), []).fix
    subprocess.run(["bash", "-c", str(remedy)], check=True)
    mended = verified(tmp_path / "segclip-python3.11/bin/python", quantized("tensorrt", "int8"))
    assert mended.returncode == 0, mended.stderr
