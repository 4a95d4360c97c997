"""Write ``decode.ptx`` from ``decode.cu``, both beside this file.

    python segclip_deploy/runtime/targets/tensorrt/make_ptx.py

A test compares: whoever changes the kernel runs this, and commits what it writes. NVRTC comes from
PyPI, with the extra ``[dev]``. No GPU, no driver and no CUDA installation is needed.
"""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from segclip_deploy._optional import install_command
from segclip_deploy.artifacts.files import replace_file
from segclip_deploy.errors import BadInput, MissingDependency

SOURCE = Path(__file__).with_name("decode.cu")
MADE = SOURCE.with_suffix(".ptx")

NVRTC = "12.0.140"
"""The last NVRTC of CUDA 12.0, whose PTX (version 8.0) every driver of CUDA 12 or newer takes.

A newer NVRTC writes a newer version of PTX, and older drivers refuse it: that of CUDA 12.9 does not
load on JetPack 6 (CUDA 12.6). Another NVRTC also writes other bytes, so there is only this one.
"""

_PACKAGE = "nvidia-cuda-nvrtc-cu12"
# From SM 8.0 on, so that Orin (8.7) has it; the driver compiles it for newer GPUs, too.
_OPTIONS = ("--gpu-architecture=compute_80",)


def make_ptx(source: str) -> str:
    """PTX of a kernel in CUDA C++, the same for the same source.

    Raises:
        MissingDependency: NVRTC is not installed, or another version of it.
        BadInput: NVRTC refuses the source, or warns of it.
    """
    with ThreadPoolExecutor(1) as pool:  # NVRTC leaves its thread with the locale of C
        return pool.submit(_compile, source).result()


def _compile(source: str) -> str:
    nvrtc = _load_nvrtc()
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), source.encode(), SOURCE.name.encode(), 0, None, None
    )
    options = (ctypes.c_char_p * len(_OPTIONS))(*(option.encode() for option in _OPTIONS))
    failed = nvrtc.nvrtcCompileProgram(program, len(options), options)
    log = _text(nvrtc, "ProgramLog", program).strip()
    if failed or log:
        raise BadInput(f"NVRTC {NVRTC} refuses it: {' '.join(log.split())}", where=SOURCE)
    return _text(nvrtc, "PTX", program).strip() + "\n"


def _text(nvrtc: ctypes.CDLL, what: str, program: ctypes.c_void_p) -> str:
    """A text of a program, without the zero at its end."""
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, buffer)
    return buffer.value.decode()


def _load_nvrtc() -> ctypes.CDLL:
    try:
        package = distribution(_PACKAGE)
    except PackageNotFoundError:
        package = None
    if package is None or package.version != NVRTC:
        found = f"{package.version} is installed" if package else "it is not installed"
        raise MissingDependency(
            f"making decode.ptx needs {_PACKAGE} {NVRTC}; {found}", fix=install_command("dev")
        )
    return ctypes.CDLL(str(package.locate_file("nvidia/cuda_nvrtc/lib/libnvrtc.so.12")))


if __name__ == "__main__":
    with replace_file(MADE) as temporary:
        temporary.write_text(make_ptx(SOURCE.read_text(encoding="utf-8")), encoding="utf-8")
