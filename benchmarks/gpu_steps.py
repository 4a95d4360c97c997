"""The steps of gpu_check.py. Each returns what it measured, or raises."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "dubai"
KERNELS = ROOT / "segclip_deploy" / "runtime" / "targets" / "tensorrt"
SUFFIXES = {"tensorrt": ".engine", "tensorrt_rtx": ".rtx"}
TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}


class NotRun(Exception):
    """Why a step cannot be run here."""


@dataclass(frozen=True)
class Check:
    """What the steps work on.

    Attributes:
        kit: folder of gpu_kit.py.
        checkpoint: that its bundles are of.
        fake_driver: the driver is one without a GPU.
    """

    kit: Path
    checkpoint: Path
    fake_driver: bool


def find(_: Check) -> dict[str, Any]:
    """The GPU, and the conditions of all that follows."""
    from segclip_deploy.runtime.profiling.conditions import device_conditions
    from segclip_deploy.runtime.targets.device import find_gpu

    find_gpu(why="make gpu-check")
    conditions = device_conditions()
    device = re.sub(r"[^\w.-]+", "-", conditions.name).lower()
    return {"device": device, "conditions": conditions.to_json()}


def load_ptx(_: Check) -> dict[str, Any]:
    """The driver compiles the PTX. Needs the driver and nothing else."""
    begin = time.perf_counter()
    load_kernel()
    return {"ms": round(1e3 * (time.perf_counter() - begin), 1)}


def load_kernel() -> tuple[Any, ctypes.c_void_p]:
    """The driver, and the kernel in the primary context, which is current from now on."""
    from tests.support.stub_tensorrt import Driver

    driver = Driver()
    context, module, kernel = (ctypes.c_void_p() for _ in range(3))
    driver("cuInit", 0)
    driver("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
    driver("cuCtxPushCurrent_v2", context)
    ptx = (KERNELS / "decode.ptx").read_bytes() + b"\0"
    driver("cuModuleLoadDataEx", ctypes.byref(module), ptx, 0, None, None)
    driver("cuModuleGetFunction", ctypes.byref(kernel), module, b"decode")
    return driver, kernel


def run_kernel(_: Check) -> dict[str, Any]:
    """Labels and margin of the kernel, against NumPy's; and the milliseconds of 1024 × 1024 labels."""
    import numpy as np

    from segclip_deploy.runtime.inference.windows import labels_of, margin_of
    from segclip_deploy.runtime.targets.tensorrt.kernels import GpuDecoder

    rng = np.random.default_rng(0)
    with pycuda_context() as cuda:
        stream = cuda.Stream()
        decoder = GpuDecoder(stream)
        worst = 1.0
        for shape in ((2, 1, 1), (19, 3, 33), (255, 5, 7), (5, 131, 67), (5, 256, 256)):
            logits = rng.normal(scale=4, size=shape).astype(np.float32)
            labels, margin = decoder.decode(logits, margin=True)
            worst = min(worst, float((labels == labels_of(logits)).mean()))
            assert worst > 0.999, f"labels of {shape}: {worst:.4%} equal"  # ties may differ
            assert margin is not None
            assert np.abs(margin.astype(int) - margin_of(logits)).max() <= 1, f"margin of {shape}"
        labels, _ = decoder.decode(np.zeros((4, 3, 5), np.float32), margin=False)
        assert not labels.any(), "of equal classes, the first is to win"
        times = []
        for _turn in range(20):
            begin = time.perf_counter()
            decoder.decode(logits, margin=True)
            times.append(1e3 * (time.perf_counter() - begin))
        alone = _kernel_ms(cuda, decoder, stream, logits)
        del decoder
    return {"equal": worst, "ms_with_copies": round(sorted(times)[10], 3), "ms": alone}


def _kernel_ms(cuda: Any, decoder: Any, stream: Any, logits: Any) -> float:
    """Milliseconds of the kernel itself, by CUDA events: the mean of 100 launches, after 10."""
    _, height, width = logits.shape
    given, labels, margin = (
        cuda.mem_alloc(size) for size in (logits.nbytes, 16 * height * width, height * width)
    )
    cuda.memcpy_htod_async(given, logits, stream)
    marks = [cuda.Event(), cuda.Event()]
    for count, mark in zip((10, 100), marks, strict=True):
        for _ in range(count):
            decoder.launch(int(given), int(labels), int(margin), (1, *logits.shape))
        mark.record(stream)
    stream.synchronize()
    return round(float(marks[1].time_since(marks[0])) / 100, 4)


@contextmanager
def pycuda_context() -> Iterator[Any]:
    """PyCUDA's driver module, with the primary context current."""
    cuda = need("pycuda.driver")
    cuda.init()
    context = cuda.Device(0).retain_primary_context()
    context.push()
    try:
        yield cuda
    finally:
        context.pop()


def need(module: str) -> Any:
    """A module that this machine may lack."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise NotRun(f"no {error.name}") from error


# ---- PyTorch, and what comes from elsewhere


def compare_tf32(check: Check) -> dict[str, Any]:
    """PyTorch on the GPU with and without TF32, against the golden tiles."""
    torch = need("torch")
    for module in ("timm", "safetensors"):
        need(module)
    if not check.fake_driver and not torch.cuda.is_available():
        raise NotRun("PyTorch finds no GPU")
    from segclip_deploy.artifacts.golden import load_golden
    from segclip_deploy.export.graph import ConstantText, DeployGraph
    from segclip_deploy.model.checkpoint import build_model, load_checkpoint

    device = "cpu" if check.fake_driver else "cuda"
    checkpoint = load_checkpoint(check.checkpoint)
    network = ConstantText(build_model(checkpoint), checkpoint.bank)
    spec = checkpoint.spec
    graph = DeployGraph(network, spec.mean, spec.std, logits=True).eval().to(device)
    golden = load_golden(check.kit / "fp32" / "golden.npz")
    found = {}
    for name, allowed in (("fp32", False), ("tf32", True)):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
        equal, moved = [], []
        for tile, labels, logits in zip(golden.tiles, golden.labels, golden.logits, strict=True):
            with torch.inference_mode():
                given = graph(torch.from_numpy(tile[None]).to(device))
            answer = {k: v[0].cpu().numpy() for k, v in zip(graph.output_names, given, strict=True)}
            equal.append(float((answer["labels"] == labels).mean()))
            moved.append(float(abs(answer["logits"] - logits).max()))
        found[name] = {"labels_equal": equal, "logits_moved": moved}
    assert min(found["fp32"]["labels_equal"]) >= 0.9999, found  # as for an engine in FP32
    return {**found, "torch": torch.__version__, "device": device}


def ask_doctor(check: Check) -> dict[str, Any]:
    """What ``doctor`` says of this machine."""
    from segclip_deploy.runtime.doctor import examine

    return {"doctor": examine(check.kit).to_json()}


def run_tests(check: Check) -> dict[str, Any]:
    """The tests marked `gpu`, each with its outcome."""
    if check.fake_driver:
        raise NotRun("these tests are for a GPU")
    for module in ("pytest", "hypothesis", "onnx", "torch"):
        need(module)
    files = [p for p in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in p.read_text("utf-8")]
    with tempfile.TemporaryDirectory() as name:
        report = Path(name) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "-m", "gpu", f"--junitxml={report}", *files]
        done = subprocess.run([*map(str, command)], cwd=ROOT, check=False)
        results = {}
        for case in ET.parse(report).getroot().iter("testcase"):
            told = {child.tag: child.get("message") for child in case}
            outcome = next((t for t in ("failure", "error", "skipped") if t in told), "passed")
            results[f"{case.get('name')}"] = " ".join([outcome, told.get(outcome) or ""]).strip()
    assert done.returncode == 0, results
    if "passed" not in results.values():
        raise NotRun(f"all were skipped: {results}")
    return {"tests": results}


# ---- engines


def measure_engine(library: str, precision: str, check: Check, *options: str) -> dict[str, Any]:
    """An engine of the example: built, verified, scored on the shipped tiles, and timed."""
    if importlib.util.find_spec(library) is None or check.fake_driver:
        raise NotRun(f"no {TITLES[library]}")
    bundle = check.kit / precision
    if not bundle.is_dir():
        raise NotRun(f"no bundle {precision} in the kit")
    with tempfile.TemporaryDirectory() as name:
        engine = Path(name) / f"{precision}{SUFFIXES[library]}"
        built = call("build-engine", bundle, "-o", engine, *options)
        verified, scored = call("verify", engine), call("evaluate", engine, EXAMPLE)
        timed = call("profile", engine)
    stages = ("copy_in", "infer", "copy_out")
    inside = sum(one["p50"] for stage, one in timed["stages"].items() if stage in stages)
    share = 1 - inside / timed["ready"]["p50"]
    return {
        "host_share": round(share, 3),
        "build": built,
        "verify": verified,
        "evaluate": scored,
        "profile": timed,
    }


def compare_label_makers(library: str, check: Check) -> dict[str, Any]:
    """An engine in FP16 whose graph makes the labels, and one whose kernel does: the same checks of both."""
    found = {
        maker: measure_engine(library, "fp16", check, "--labels", maker)
        for maker in ("graph", "kernel")
    }
    stages = ("copy_in", "infer", "copy_out")
    told = {
        maker: {stage: one["profile"]["stages"][stage]["p50"] for stage in stages}
        for maker, one in found.items()
    }
    return {"stage_ms": told, **found}


def call(*words: object) -> Any:
    """A command of ours with --json: what it printed."""
    program = "from segclip_deploy.cli import main; main()"
    command = [sys.executable, "-c", program, *map(str, words), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.returncode, f"{words[0]}: {done.stderr.strip()}"
    return json.loads(done.stdout)
