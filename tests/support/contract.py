"""Type stubs of NVIDIA's Python bindings, and mypy on the package's TensorRT code against them.

The wheels of the bindings hold no TensorRT, but they import once its three libraries are there.
Empty ones serve: the bindings link to nine C functions, which nobody calls.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from mypy import build, nodes, types
from mypy.main import process_options
from mypy.modulefinder import BuildSource

ROOT = Path(__file__).parents[2]
PACKAGE = "segclip_deploy.runtime.targets.tensorrt"
FOLDER = ROOT.joinpath(*PACKAGE.split("."))
CACHE = Path(sys.prefix, "contract")
_AS_CLASSES = {
    f"{PACKAGE}.library.Library": "tensorrt",
    f"{PACKAGE}.library.RtxLibrary": "tensorrt_rtx",
    f"{PACKAGE}.cuda_graph.Bindings": "driver",
}
"""The package's types of NVIDIA's modules."""

_NVIDIA = ("tensorrt_bindings", "tensorrt_rtx_bindings", "cuda.bindings")
_C = """
#define STUB(name) void *name(void) { return 0; }
STUB(createInferBuilder_INTERNAL) STUB(createInferRefitter_INTERNAL)
STUB(createInferRuntime_INTERNAL) STUB(createNvOnnxParserRefitter_INTERNAL)
STUB(createNvOnnxParser_INTERNAL) STUB(getBuilderPluginRegistry) STUB(getNvOnnxParserVersion)
STUB(getPluginRegistry) STUB(initLibNvInferPlugins)
"""

_UNTOLD = (
    # It converts sequences, can be iterated over by __getitem__, and has Python's buffer protocol.
    (r"(?<=: )Dims(?=[,)])", "Dims | typing.Sequence[int]"),
    (r"^class Dims:$", r"\g<0>\n    def __iter__(self) -> typing.Iterator[int]: ..."),
    (r"^class IHostMemory:$", r"\g<0>\n    def __buffer__(self, flags: int) -> memoryview: ..."),
    # What a method takes is also what one of ours, in its place, is given.
    (r"typing\.SupportsInt", "int"),
    (r"typing\.SupportsFloat", "float"),
)
"""What pybind11 does not tell, and what is true."""


# ---- stubs


def stubs_of(requirements: tuple[str, ...]) -> Path:
    """A folder for MYPYPATH: ``tensorrt`` and ``cuda.bindings`` of some wheels.

    Wheels are downloaded once for an environment. Without network the test is skipped. What pip
    can download and nobody can import is an error.

    Args:
        requirements: for pip; empty: TensorRT-RTX, which is installed, as ``tensorrt``.
    """
    made_by = [path.read_bytes() for path in (Path(__file__), ROOT / "tests/support/cuda_stub.py")]
    made_of = [*requirements, _rtx_version() or ""]
    key = hashlib.sha256(b"".join(made_by) + " ".join(made_of).encode()).hexdigest()[:16]
    done = CACHE / key
    if not requirements and _rtx_version() is None:
        pytest.skip("TensorRT-RTX is not installed (there is none for this machine)")
    if shutil.which("gcc") is None:
        pytest.skip("gcc, which makes libraries for the bindings to load, is not installed")
    if not done.is_dir():
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
            work = Path(temporary)
            _download(requirements, work / "wheels")
            _make_stubs(work / "wheels", work, with_tensorrt=bool(requirements))
            (work / "stubs").rename(done)
    return done


def _rtx_version() -> str | None:
    try:
        return version("tensorrt-rtx")
    except PackageNotFoundError:
        return None


def _download(requirements: tuple[str, ...], to: Path) -> None:
    to.mkdir()
    if not requirements:
        return
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    pip += ["--only-binary", ":all:", "--retries", "1", "--timeout", "15", "--dest", str(to)]
    got = subprocess.run([*pip, *requirements], capture_output=True, text=True, timeout=200)
    if got.returncode:
        reason = got.stderr.strip().splitlines()[-1:]
        pytest.skip(f"{' '.join(requirements)} cannot be downloaded: {' '.join(reason)}")
    for wheel in to.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(to)


def _make_stubs(wheels: Path, work: Path, *, with_tensorrt: bool) -> None:
    out, libraries = work / "stubs", work / "libraries"
    libraries.mkdir()
    (work / "stub.c").write_text(_C)
    for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        for major in (10, 11):
            library = libraries / f"lib{name}.so.{major}"
            command = ["gcc", "-shared", "-fPIC", "-o", library, work / "stub.c"]
            subprocess.run([*command, f"-Wl,-soname,{library.name}"], check=True)
    modules = ["tensorrt_rtx", "tensorrt_rtx_bindings"] if _rtx_version() else []
    modules += ["tensorrt_bindings"] if with_tensorrt else []
    python = [sys.executable, "-m"]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{wheels}{os.pathsep}{ROOT}",
        "LD_LIBRARY_PATH": str(libraries),
    }

    def run(*command: str) -> None:
        told = subprocess.run([*python, *command], env=environment, capture_output=True, text=True)
        assert told.returncode == 0, told.stderr

    for module in modules:
        run("pybind11_stubgen", module, "-o", str(out), "--ignore-all-errors")
    if with_tensorrt:
        run("tests.support.cuda_stub", str(out))
    for stub in out.glob("tensorrt*_bindings/*.pyi"):
        stub.write_text(_valid(stub.read_text()))
    for name in ("tensorrt", "tensorrt_rtx"):
        source = f"{name}_bindings" if with_tensorrt or name != "tensorrt" else "tensorrt_rtx"
        if (out / source).is_dir():
            (out / name).mkdir(exist_ok=True)
            (out / name / "__init__.pyi").write_text(
                f"from {source} import *\nfrom {source} import __version__ as __version__\n"
            )


def _valid(stub: str) -> str:
    """A stub of pybind11-stubgen as mypy can read it."""
    for told, true in _UNTOLD:
        stub = re.sub(told, true, stub, flags=re.MULTILINE)
    return re.sub(r"def \w+\(.*:$", _callable, stub, flags=re.MULTILINE)


def _callable(definition: re.Match[str]) -> str:
    """A definition, or one that takes any arguments: C++ has parameters that Python cannot have (``in``)."""
    try:
        ast.parse(f"{definition[0]} ...")
    except SyntaxError:
        name, _, result = re.split(r"\((.*)\)", definition[0])
        return f"{name}(self, *_: typing.Any){result}"
    return definition[0]


# ---- the check


@dataclass(frozen=True)
class Checked:
    """What mypy found.

    Attributes:
        errors: one line each.
        names: of NVIDIA's modules, as ``"IBuilderConfig.set_flag"``, that were looked up.
    """

    errors: list[str]
    names: set[str]


def check(stubs: Path, changed: Mapping[str, str] | None = None) -> Checked:
    """Type-check the package's TensorRT code against some stubs.

    Args:
        stubs: as of ``stubs_of``.
        changed: other text of modules, by name: ``{"builder": "…"}``.
    """
    files = sorted(FOLDER.glob("*.py"))
    flags = ["--config-file", str(ROOT / "pyproject.toml"), "--no-warn-unused-ignores"]
    flags += ["--cache-dir", str(CACHE / "mypy")]  # of NumPy and the like, which all checks share
    _, options = process_options([*flags, *map(str, files)])
    options.export_types = True
    options.mypy_path = [str(stubs), str(ROOT)]
    changed = changed or {}
    sources = [
        # Of a file that is given as text mypy keeps nothing, so its types are found each time.
        BuildSource(str(file), f"{PACKAGE}.{file.stem}", changed.get(file.stem) or file.read_text())
        for file in files
        if file.stem != "__init__"
    ]
    result = build.build(sources, options)
    told = {e: types.get_proper_type(kind) for e, kind in result.types.items()}
    members = [one for one in told if isinstance(one, nodes.MemberExpr)]
    names = {name for one in members if (name := _name(one, told.get(one.expr)))}
    return Checked([line for line in result.errors if str(stubs) not in line], names)


def _name(member: nodes.MemberExpr, owner: types.Type | None) -> str | None:
    """``Class.attribute`` where NVIDIA defines the class, ``module.attribute``, or None."""
    if isinstance(owner, types.FunctionLike) and owner.is_type_obj():
        info = owner.type_object()
    elif isinstance(owner, types.Instance):
        info = owner.type
    else:
        return None
    if info.fullname in _AS_CLASSES:
        return f"{_AS_CLASSES[info.fullname]}.{member.name}"
    return f"{info.name}.{member.name}" if info.module_name.startswith(_NVIDIA) else None
