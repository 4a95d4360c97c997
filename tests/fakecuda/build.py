"""Builds the driver without a GPU, and the real PyCUDA for it.

    python -m tests.fakecuda.build FOLDER

PyCUDA is compiled once, into FOLDER; the driver at every test, from this folder. Neither is ever
installed where a user's programs would find it.
"""

from __future__ import annotations

import os
import platform
import runpy
import shutil
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).parent
PYCUDA = "2026.1"


def cuda_headers() -> Path:
    """The folder of ``cuda.h``, which comes with PyTorch's CUDA packages.

    Raises:
        FileNotFoundError: they are not installed.
    """
    spec = find_spec("nvidia")
    for root in spec.submodule_search_locations or () if spec else ():
        for header in sorted(Path(root).glob("*/include/cuda.h")):
            return header.parent
    raise FileNotFoundError("cuda.h: pip install nvidia-cuda-runtime")


def unpack_pycuda(work: Path) -> Path:
    """PyCUDA's sdist in an empty folder, without cuRAND, to be compiled where there is no driver."""
    _run(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
         "--no-deps", "--no-build-isolation", "--no-binary", "pycuda", "--dest", str(work),
         f"pycuda=={PYCUDA}")  # fmt: skip
    (archive,) = work.glob("pycuda-*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(work, filter="data")
    (source,) = work.glob("pycuda-*/")
    library = work / "lib"
    build_driver(library, extension=None)
    (source / "siteconf.py").write_text(
        f"CUDA_INC_DIR = [{str(HERE / 'include')!r}, {str(cuda_headers())!r}]\n"
        f"CUDADRV_LIB_DIR = [{str(library)!r}]\n"
        "CUDA_ENABLE_CURAND = False\n"
        "CXXFLAGS = ['-O0', '-g0', '-w']\n"
    )
    return source


def build_pycuda(folder: Path) -> None:
    """Compile PyCUDA into ``folder/pycuda``."""
    with TemporaryDirectory() as name:
        source = unpack_pycuda(Path(name))
        subprocess.run(
            [sys.executable, "-W", "ignore", __file__, "--compile"], cwd=source, check=True
        )
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder / "pycuda", ignore_errors=True)
        shutil.move(source / "pycuda", folder / "pycuda")


def build_driver(folder: Path, *, extension: Path | None) -> Path:
    """Compile ``libcuda.so.1`` into a folder.

    Args:
        folder: made if it is not there.
        extension: PyCUDA's ``_driver``; what it needs and the driver has not is there to be linked,
            and fails when it is called.
    """
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "libcuda.so.1"
    _run("gcc", "-c", "-fPIC", "-O1", "-w", f"-I{cuda_headers()}", "-o", folder / "driver.o",
         HERE / "driver.c")  # fmt: skip
    _run("g++", "-c", "-fPIC", "-O1", "-std=c++17", "-o", folder / "kernels.o",
         HERE / "kernels.cpp")  # fmt: skip
    link = ["g++", "-shared", "-Wl,-soname,libcuda.so.1", "-o", library]
    link += [folder / "driver.o", folder / "kernels.o"]
    _run(*link)
    if extension is not None:
        lacking = _symbols(extension, "--undefined-only") - _symbols(library, "--defined-only")
        rest = folder / "rest.c"
        rest.write_text(
            "#include <stdio.h>\n"
            + "".join(
                f'int {name}(void) {{ fputs("fakecuda has no {name}\\n", stderr); return 801; }}\n'
                for name in sorted(lacking)
            )
        )
        _run("gcc", "-c", "-fPIC", "-o", folder / "rest.o", rest)
        _run(*link, folder / "rest.o")
    (folder / "libcuda.so").unlink(missing_ok=True)
    (folder / "libcuda.so").symlink_to("libcuda.so.1")  # for the linker
    return library


def _run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True)


def _symbols(library: Path, kind: str) -> set[str]:
    """Functions of CUDA's driver that a library has, or needs."""
    done = subprocess.run(
        ["nm", "-D", kind, str(library)], capture_output=True, text=True, check=True
    )
    names = {line.split()[-1] for line in done.stdout.splitlines()}
    return {name for name in names if name.startswith("cu") and name[2:3].isupper()}


def _compile() -> None:
    """Run PyCUDA's ``setup.py`` here, on all cores: setuptools compiles file after file."""
    from setuptools._distutils import ccompiler

    def compile_all(
        self: Any, sources: Any, output_dir: Any = None, macros: Any = None,
        include_dirs: Any = None, debug: Any = False, extra_preargs: Any = None,
        extra_postargs: Any = None, depends: Any = None,
    ) -> Any:  # fmt: skip
        macros, objects, extra, options, build = self._setup_compile(
            output_dir, macros, include_dirs, sources, depends, extra_postargs
        )
        words = self._get_cc_args(options, debug, extra_preargs)

        def one(made: str) -> None:
            self._compile(made, *build[made], words, extra, options)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(one, build))
        return objects

    ccompiler.CCompiler.compile = compile_all  # type: ignore[method-assign]
    sys.argv = ["setup.py", "--quiet", "build_ext", "--inplace"]
    sys.path[0] = str(Path.cwd())  # as of a script there
    runpy.run_path("setup.py", run_name="__main__")


if __name__ == "__main__":
    if sys.argv[1] == "--compile":
        _compile()
    elif (sys.platform, platform.machine()) != ("linux", "x86_64"):
        print("not built: TensorRT-RTX, whose builder is tested with it, is for Linux on x86-64")
    else:
        build_pycuda(Path(sys.argv[1]))
