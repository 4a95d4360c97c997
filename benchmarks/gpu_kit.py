"""What gpu_check.py takes to a machine with a GPU and no network, in one folder.

    make gpu-kit GPU_PYTHON=python3.12 GPU_HAS='numpy onnxruntime'

- `fp32`: the example's bundle; `blend`: a small one, with logits, margin and an open batch.
- `fp16`, `int8`: for engines only.
- `wheels`: the extra `[jetson]` for the Python of that machine, without what is there already. PyCUDA
  is compiled here, so that no minute on that machine is spent on it: no GPU and no driver are needed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from gpu_steps import EXAMPLE, ROOT, call
from PIL import Image, ImageOps


def export_bundles(kit: Path) -> None:
    """What the steps without TensorRT need."""
    checkpoint = EXAMPLE / "model.safetensors"
    call("export", checkpoint, "-o", kit / "fp32")
    some = ("--size", "256x256", "--batch", "1..3", "--logits", "--margin")
    call("export", checkpoint, "-o", kit / "blend", *some)


def quantize_bundles(kit: Path, tiles: Path | None) -> None:
    """What engines in FP16 and INT8 need."""
    table = kit / "table.json"
    scheme = ("--scheme", "tensorrt", "--precision")
    call("quantize", kit / "fp32", "-o", kit / "fp16", *scheme, "fp16")
    with TemporaryDirectory() as name:
        call("calibrate", kit / "fp32", "--tiles", tiles or few_tiles(Path(name)), "-o", table)
    call("quantize", kit / "fp32", "-o", kit / "int8", *scheme, "int8", "--table", table)


def few_tiles(folder: Path) -> Path:
    """The shipped images and their mirror images: enough to build INT8, too few to judge it."""
    for path in (EXAMPLE / "images").glob("*.jpg"):
        image = Image.open(path)
        image.save(folder / f"{path.stem}.png")
        ImageOps.mirror(image).save(folder / f"{path.stem}-mirrored.png")
    return folder


def collect_wheels(wheels: Path, python: str, has: list[str]) -> None:
    """Wheels of `[jetson]` for a Python, and none of packages that the machine has.

    That extra is all without TensorRT: PyCUDA and cuda-bindings, and what this package needs.
    """
    sys.path.insert(0, str(ROOT))
    from tests.fakecuda.build import unpack_pycuda

    pip = [python, "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(wheels)]
    if not list(wheels.glob("pycuda-*.whl")):  # it takes minutes
        with TemporaryDirectory() as name:
            subprocess.run([*pip, "--no-deps", str(unpack_pycuda(Path(name)))], check=True)
    subprocess.run([*pip, "--find-links", str(wheels), f"{ROOT}[jetson]"], check=True)
    # This package itself is run from the clone.
    for name in ("segclip-deploy", *has):
        for wheel in wheels.glob(f"{name.replace('-', '_')}-*.whl"):
            wheel.unlink()


def main() -> int:
    """Collect, and say how much it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kit", type=Path, help="folder to make")
    parser.add_argument("--python", help="of the version there; none: no wheels")
    parser.add_argument("--has", nargs="*", default=[], help="packages that are there already")
    parser.add_argument("--engines", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--tiles", type=Path, help="to calibrate INT8 on")
    arguments = parser.parse_args()
    kit = arguments.kit.resolve()
    kit.mkdir(parents=True, exist_ok=True)
    export_bundles(kit)
    if arguments.engines:
        quantize_bundles(kit, arguments.tiles and arguments.tiles.resolve())
    if arguments.python:
        collect_wheels(kit / "wheels", arguments.python, arguments.has)
    size = sum(path.stat().st_size for path in kit.rglob("*") if path.is_file())
    print(f"{kit}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
