"""The Docker files, as far as they can be checked without an engine: linted, and what pip would install in them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.helpers import program

FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))

INSIDE = {
    "workstation": ("cuda:13.0.1-devel-ubuntu24.04", "3.12", "x86_64-manylinux_2_39", "13"),
    "jetpack": ("l4t-jetpack:r36.4.0", "3.10", "aarch64-manylinux_2_35", "12"),
}
"""The base of each, and what is in it: Python and glibc of its Ubuntu, 24.04 and 22.04, and CUDA's major version."""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_hadolint_finds_nothing(file: Path) -> None:
    lint = [program("hadolint"), str(file)]
    done = subprocess.run(lint, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.long
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_pip_installs_there_exists_for_its_python_and_cuda(file: Path) -> None:
    """Resolved by uv for that Python and platform; not installed, and no line is run."""
    text = file.read_text(encoding="utf-8")
    base, python, platform, cuda = INSIDE[file.stem]
    assert re.findall(r"^ARG BASE=.*/(.*)$", text, re.MULTILINE) == [base]
    (extras,) = re.findall(r"pip install --no-cache-dir '/src\[(.*)\]'", text)
    resolve = [program("uv"), "pip", "compile", "--quiet", "--no-annotate", ROOT / "pyproject.toml"]
    resolve += [word for extra in extras.split(",") for word in ("--extra", extra)]
    resolve += ["--python-version", python, "--python-platform", platform]
    done = subprocess.run(resolve, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = dict(re.findall(r"^([\w-]+)==(\S+)$", done.stdout, re.MULTILINE))
    assert {"pycuda", "onnxruntime", "cuda-bindings"} <= set(found)
    assert found["cuda-bindings"].split(".")[0] == cuda
    tensorrt = {name for name in found if re.fullmatch(r"tensorrt(-rtx)?-cu\d+", name)}
    assert tensorrt == ({"tensorrt-cu13", "tensorrt-rtx-cu13"} if "tensorrt" in extras else set())
