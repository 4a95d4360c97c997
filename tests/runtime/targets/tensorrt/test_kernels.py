"""The CUDA kernel: its PTX is made anew and assembled, its numbers come from the host's compiler."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segclip_deploy.errors import BadInput, MissingDependency
from segclip_deploy.runtime.inference.windows import LOGIT_STRIDE, labels_of, margin_of
from segclip_deploy.runtime.targets.tensorrt import kernels as decoder
from segclip_deploy.runtime.targets.tensorrt import make_ptx
from segclip_deploy.runtime.targets.tensorrt.cuda import open_cuda
from tests.conftest import ROOT

SHIM = ROOT / "tests" / "support" / "host_cuda.h"
PROPERTY = settings(
    derandomize=True,
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
TIE = 1e-5
"""Of logits of some ten: what float32 sums differ by between two orders."""

Decode = Callable[[NDArray[np.float32]], tuple[NDArray[np.uint8], NDArray[np.uint8]]]

LAUNCH = """
extern "C" void launch(const float *logits, unsigned char *labels, unsigned char *margin,
                       int classes, int height, int width, int batch)
{
    blockDim = {32, 8, 1};
    for (blockIdx.z = 0; blockIdx.z < batch; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y * blockDim.y < 4 * height; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x * blockDim.x < width; ++blockIdx.x)
                for (threadIdx.y = 0; threadIdx.y < blockDim.y; ++threadIdx.y)
                    for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x)
                        decode(logits, labels, margin, classes, height, width);
}
"""


@pytest.fixture(scope="module")
def on_host(tmp_path_factory: pytest.TempPathFactory) -> Decode:
    """The kernel's own source, compiled for the host."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs a C++ compiler, which is absent")
    folder = tmp_path_factory.mktemp("kernel")
    source, library = folder / "decode.cpp", folder / "decode.so"
    source.write_text(
        f'#include "{SHIM}"\n{make_ptx.SOURCE.read_text(encoding="utf-8")}{LAUNCH}',
        encoding="utf-8",
    )
    command = [compiler, "-std=c++17", "-O1", "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    launch = ctypes.CDLL(str(library)).launch

    def decode(logits: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        *before, classes, height, width = logits.shape
        labels = np.full((*before, LOGIT_STRIDE * height, LOGIT_STRIDE * width), 254, np.uint8)
        margin = np.full((*before, height, width), 254, np.uint8)
        launch(
            *(ctypes.c_void_p(a.ctypes.data) for a in (logits, labels, margin)),
            *(classes, height, width, *(before or [1])),
        )
        return labels, margin

    return decode


@PROPERTY
@given(st.integers(0, 10**6), st.integers(2, 20), st.integers(1, 40), st.integers(1, 40))
@example(seed=0, classes=5, height=1, width=1)
@example(seed=0, classes=255, height=3, width=33)
def test_the_kernel_says_what_numpy_and_the_graph_say(
    on_host: Decode, seed: int, classes: int, height: int, width: int
) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=4, size=(classes, height, width)).astype(np.float32)
    labels, margin = on_host(logits)
    full = F.interpolate(torch.from_numpy(logits)[None], scale_factor=4.0, mode="bilinear")[0]
    for expected in (labels_of(logits), full.argmax(0).numpy()):
        picked, wanted = (
            np.take_along_axis(full.numpy(), np.asarray(one, np.int64)[None], 0)[0]
            for one in (labels, expected)
        )
        np.testing.assert_allclose(picked[labels != expected], wanted[labels != expected], atol=TIE)
        assert (labels == expected).mean() > 0.98  # ties are rare
    assert np.abs(margin.astype(int) - margin_of(logits)).max() <= 1


def test_every_image_of_a_batch_is_decoded_as_it_is_alone(on_host: Decode) -> None:
    logits = np.random.default_rng(0).normal(size=(3, 5, 7, 9)).astype(np.float32)
    labels, margin = on_host(logits)
    for index, alone in enumerate(map(on_host, logits)):
        np.testing.assert_array_equal(labels[index], alone[0])
        np.testing.assert_array_equal(margin[index], alone[1])


def test_of_equal_classes_the_first_wins(on_host: Decode) -> None:
    labels, margin = on_host(np.zeros((4, 3, 5), np.float32))
    assert not labels.any()
    assert not margin.any()


def made(source: str) -> str:
    try:
        return make_ptx.make_ptx(source)
    except MissingDependency as error:
        pytest.skip(str(error))


def test_the_ptx_in_the_package_is_that_of_the_source() -> None:
    kept = make_ptx.MADE.read_text(encoding="utf-8")
    new = made(make_ptx.SOURCE.read_text(encoding="utf-8"))
    assert new == kept, f"it is stale: python {make_ptx.__file__} writes it anew"


def test_a_kernel_that_nvrtc_refuses_is_one_line() -> None:
    with pytest.raises(BadInput, match=r"NVRTC .* refuses it: decode.cu\(1\): error: .*missing"):
        made("__device__ missing value;")


def test_drivers_of_cuda_12_and_gpus_from_orin_on_take_the_ptx() -> None:
    ptx = make_ptx.MADE.read_text(encoding="utf-8")
    # A driver refuses PTX of a newer version than its own: CUDA 12.0 reads 8.0, JetPack 6 8.5.
    assert re.findall(r"^\.version (.*)$", ptx, re.MULTILINE) == ["8.0"]
    assert re.findall(r"^\.target (.*)$", ptx, re.MULTILINE) == ["sm_80"]


def test_the_wheel_brings_the_ptx_and_not_what_makes_it(tmp_path: Path) -> None:
    hatchling = pytest.importorskip("hatchling.builders.wheel", reason="pip install hatchling")
    [wheel] = hatchling.WheelBuilder(str(ROOT)).build(directory=str(tmp_path))
    names = {Path(name).name for name in ZipFile(wheel).namelist()}
    assert names & {"decode.ptx", "make_ptx.py", "kernels.py"} == {"decode.ptx", "kernels.py"}


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc, which is absent")
@pytest.mark.parametrize("architecture", ["87", "89", "90", "110", "120"])
def test_the_ptx_is_assembled_for_every_gpu(architecture: str, tmp_path: Path) -> None:
    binary = tmp_path / "decode.cubin"
    command = ["nvcc", "-cubin", f"-arch=sm_{architecture}", "-o", str(binary), str(make_ptx.MADE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr  # no warning either
    assert binary.read_bytes()[:4] == b"\x7fELF"


@pytest.mark.gpu
def test_the_gpu_says_what_numpy_says() -> None:
    gpu = open_cuda()
    rng = np.random.default_rng(0)
    with gpu.current("the kernel"):
        on_gpu = decoder.GpuDecoder(gpu.driver.Stream())
        for shape in ((5, 256, 256), (5, 131, 67), (19, 1, 1)):
            logits = rng.normal(scale=4, size=shape).astype(np.float32)
            labels, margin = on_gpu.decode(logits, margin=True)
            assert (labels == labels_of(logits)).mean() > 0.9999
            assert margin is not None
            assert np.abs(margin.astype(int) - margin_of(logits)).max() <= 1
