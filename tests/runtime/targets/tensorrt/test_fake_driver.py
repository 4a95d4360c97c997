"""Runs ``tests/fakecuda`` in a process whose libcuda is the one that needs no GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from tests.conftest import ROOT
from tests.fakecuda.build import build_driver
from tests.support.helpers import edited

SITE = Path(sys.prefix) / "fakecuda"


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_the_gpu_path_on_a_driver_without_a_gpu(
    tiny_bundle: Path, open_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """PyCUDA and cuda-bindings are the real ones: `make test` compiles PyCUDA for it."""
    found = list(SITE.glob("pycuda/_driver*.so"))
    if not found:
        pytest.skip(f"needs PyCUDA for the fake driver: python -m tests.fakecuda.build {SITE}")
    pytest.importorskip("tensorrt_rtx")
    driver = build_driver(tmp_path / "lib", extension=found[0])
    (tmp_path / "bundles").mkdir()
    for name, bundle in (("one", tiny_bundle), ("open", open_bundle)):
        (tmp_path / "bundles" / name).symlink_to(bundle, target_is_directory=True)
    model = onnx.load(open_bundle / "model.onnx")
    model.graph.output.pop()  # the logits
    bare = edited(open_bundle, tmp_path / "bundles" / "bare", model, outputs=["labels", "margin"])
    assert [output.name for output in model.graph.output] == list(bare.outputs)
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(driver.parent),
        "PYTHONPATH": os.pathsep.join((str(SITE), str(ROOT))),
        "FAKECUDA_BUNDLES": str(tmp_path / "bundles"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "tests/fakecuda", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--timeout=120", f"--basetemp={tmp_path / 'work'}"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    counted = re.findall(r"^fake driver: .*$|^\d+ passed.*$", done.stdout, re.MULTILINE)
    with capsys.disabled():
        print("", *counted, sep="\n")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " skipped" not in counted[-1]
