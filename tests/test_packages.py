"""What is published: the wheel is whole, and wheel and sdist work in environments of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from PIL import Image

from segclip_deploy import __version__, api, open_segmenter
from tests.conftest import EXAMPLE, ROOT
from tests.support.helpers import program

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
"""From the floor of ``requires-python`` on."""

LEAST_EQUAL = 0.9999
"""Of the labels: an older ONNX Runtime, as on Python 3.10, may sum in another order."""


def test_the_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path))
    packed = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = (ROOT / "segclip_deploy").rglob("*")
    kept = {str(path.relative_to(ROOT)) for path in files if path.is_file()}
    made = {name for name in kept if name.endswith(".pyc")}
    left_out = {
        "segclip_deploy/runtime/targets/tensorrt/make_ptx.py"
    }  # for those who change the kernel
    assert packed == kept - made - left_out


# ---- installed: minutes


def find_python(version: str) -> Path | None:
    """An interpreter that can make environments: on the path, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    named = shutil.which(f"python{version}")
    for path in (*([Path(named)] if named else []), *pyenv.glob(f"{version}.*/bin/python")):
        words = [path, "-c", "import sys, venv; print(*sys.version_info[:2], sep='.')"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.stdout.strip() == version:  # a shim of pyenv may have nothing behind it
            return path
    return None


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = str(tmp_path_factory.mktemp("packages"))
    builders = {"wheel": WheelBuilder, "sdist": SdistBuilder}
    return {
        kind: Path(next(make(str(ROOT)).build(directory=folder))) for kind, make in builders.items()
    }


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example; exporting needs torch, which the environments do not have."""
    out = tmp_path_factory.mktemp("example") / "bundle"
    api.export(EXAMPLE / "model.safetensors", out=out, size=(256, 256), for_="cpu")
    return out


@pytest.fixture(params=PYTHONS)
def programs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """The folder of the programs of a new, empty environment."""
    python = find_python(request.param)
    if python is None:
        pytest.skip(f"there is no Python {request.param} with venv here, so it was not tested")
    environment = tmp_path / "environment"
    subprocess.run([python, "-m", "venv", "--without-pip", environment], check=True)
    yield environment / "bin"
    shutil.rmtree(environment)  # 200 MB


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_an_installed_package_flies_the_example(
    kind: str, programs: Path, packages: dict[str, Path], bundle: Path, tmp_path: Path
) -> None:
    alone = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}

    def done(program: str | Path, *arguments: str | Path) -> str:
        told = subprocess.run(
            [programs / program, *arguments],
            cwd=tmp_path, env=alone, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert told.returncode == 0, told.stderr[-2000:]
        return told.stdout

    uv = program("uv")  # pip takes a minute of the processor for each
    done(uv, "pip", "install", "--quiet", "--python", programs / "python", packages[kind])
    done(uv, "pip", "check", "--python", programs / "python")
    where = done("python", "-c", "import segclip_deploy as s; print(s.__file__)").strip()
    assert Path(where).is_relative_to(programs.parent)  # not this clone

    assert json.loads(done("segclip-deploy", "doctor", "--json"))["segclip_deploy"] == __version__
    done("segclip-deploy", "verify", bundle)
    done("segclip-deploy", "run", bundle, EXAMPLE / "images", "-o", "labels")
    with open_segmenter(bundle) as segmenter:
        for image in sorted((EXAMPLE / "images").iterdir()):
            found = np.asarray(Image.open(tmp_path / "labels" / f"{image.stem}.png"))
            assert np.mean(found == segmenter(image).labels) >= LEAST_EQUAL, image.name
