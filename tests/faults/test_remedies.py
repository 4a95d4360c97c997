"""Remedies: what a message prints is pasted into a shell, on the input that caused it; then it works."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rasterio.enums import ColorInterp
from safetensors import safe_open

from segclip_deploy import _optional
from segclip_deploy.artifacts import records
from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.artifacts.plan import save_plan
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.errors import SegclipError, command
from segclip_deploy.export.onnx_model import load_fp32
from segclip_deploy.model.text import save_text_bank
from segclip_deploy.quantization.placement import uniform_plan
from segclip_deploy.runtime.targets.tensorrt.timing_cache import TimingCache
from tests.conftest import EXAMPLE, ROOT
from tests.support.fakes import random_bank
from tests.support.faults import MAIN
from tests.support.helpers import call
from tests.support.pngs import GREY, PALETTE, RGB, RGBA, png
from tests.support.rasters import write_raster

pytestmark = pytest.mark.faults

SMALL = ("--size", "64x96", "--for", "cpu")
NAME = "farmer's  field; echo 'in$(touch injected)jected' & x"
"""Of a folder and of files in it: spaces, two of them in a row, quotes, and what a shell would run."""


@dataclass(frozen=True)
class Place:
    """A folder of an awkward name, and what placeholders of messages stand for."""

    folder: Path
    bundle: Path
    table: Path
    checkpoint: Path
    tiles: Path
    dataset: Path

    def filled(self, text: str) -> str:
        """A message's command with its placeholders filled."""
        words = {"CKPT": self.checkpoint, "FP32_BUNDLE": self.bundle, "BUNDLE": self.bundle,
                 "TABLE": self.table, "DIR": self.tiles, "SCHEME": "cpu", "ENGINE": self.bundle,
                 "DATASET": self.dataset, "V": "dubai", "BANK": EXAMPLE / "text_bank.safetensors", "20m": "2s",
                 "LOW,HIGH": "0,4095"}  # fmt: skip
        for name, value in words.items():
            text = re.sub(rf"(?<![\w/]){name}(?![\w/.])", shlex.quote(str(value)), text)
        return text


def small_dataset(folder: Path) -> Path:
    """An image of each split, with one class in all masks."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    splits = ("train", "plan", "val")
    with Image.open(EXAMPLE / "images" / "tile8_part3.jpg") as image:
        for number, name in enumerate(splits):
            part = image.crop((300 * number, 0, 300 * number + 288, 288))
            part.save(folder / "images" / f"{name}.png")
            Image.new("L", (288, 288), 1).save(folder / "masks" / f"{name}.png")
    (folder / "split.json").write_text(json.dumps({name: [name] for name in splits}))
    return folder


@pytest.fixture
def place(tmp_path: Path, tiny_bundle: Path, tiny_table: Path, tiny_checkpoint: Path) -> Place:
    folder = tmp_path / NAME
    folder.mkdir()
    tiles = tmp_path / "tiles.png"
    with Image.open(EXAMPLE / "images" / "tile8_part3.jpg") as image:
        image.crop((0, 0, 384, 384)).save(tiles)
    data = small_dataset(tmp_path / "data")
    return Place(folder, tiny_bundle, tiny_table, tiny_checkpoint, tiles, data)


def paste(text: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run a line in bash, where ``segclip-deploy`` is this package."""
    programs = tmp_path / "bin"
    programs.mkdir(exist_ok=True)
    program = programs / "segclip-deploy"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c {shlex.quote(MAIN)} "$@"\n')
    program.chmod(0o755)
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=False,
                          timeout=240, cwd=tmp_path, env=environment)  # fmt: skip


def refusal(*arguments: object) -> str:
    """The one line of a command that fails."""
    done = call(*arguments)
    assert done.exit_code == 1, done.output
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    return str(line)


def remedy_in(line: str, beginning: str) -> str:
    """The command or options in a message, without the words after it."""
    found = line[line.rindex(beginning) :]
    return re.split(r", and |, or name another| \((?:its|transparent)", found)[0]


# ---- options that are added to the command


def grey(folder: Path) -> Path:
    values = np.linspace(0, 255, 96 * 70).reshape(70, 96)
    (folder / f"{NAME}.png").write_bytes(png(values.astype(np.uint8), 8, GREY))
    return folder


def twelve_bits(folder: Path) -> Path:
    """As of a 12-bit camera; what is white in it afterwards is counted below."""
    values = np.linspace(0, 4095, 96 * 96).reshape(96, 96).astype(np.uint16)
    (folder / f"{NAME}.png").write_bytes(png(values, 16, GREY))
    return folder


def deep_colours(folder: Path) -> Path:
    values = np.random.default_rng(0).integers(0, 65536, (70, 96, 3))
    (folder / f"{NAME}.png").write_bytes(png(values, 16, RGB))
    return folder


def transparent(folder: Path) -> Path:
    values = np.zeros((96, 96, 4), np.uint8)
    values[..., 0], values[:48, :, 3] = 200, 255
    (folder / f"{NAME}.png").write_bytes(png(values, 8, RGBA))
    return folder


def palette(folder: Path) -> Path:
    (folder / f"{NAME}.png").write_bytes(png(np.arange(96 * 70).reshape(70, 96) % 4, 2, PALETTE))
    return folder


def four_bands(folder: Path) -> Path:
    bands = np.random.default_rng(0).integers(1, 256, (4, 80, 100), np.uint8)
    return write_raster(folder / f"{NAME}.tif", bands, colours=(ColorInterp.undefined,) * 4,
                        photometric="MINISBLACK", ALPHA="NO")  # fmt: skip


def deep_raster(folder: Path) -> Path:
    bands = np.random.default_rng(0).integers(0, 4096, (3, 80, 100)).astype(np.uint16)
    return write_raster(folder / f"{NAME}.tif", bands)


@pytest.mark.parametrize(
    ("make", "beginning"),
    [(grey, "--bands"), (twelve_bits, "--bands"), (deep_colours, "--scale"),
     (transparent, "--bands"), (palette, "--bands"), (four_bands, "--bands"),
     (deep_raster, "--scale")],
)  # fmt: skip
def test_options_that_run_proposes_work(
    place: Place, tmp_path: Path, make: Callable[[Path], Path], beginning: str
) -> None:
    source, out = make(place.folder), tmp_path / "out"
    line = refusal("run", place.bundle, source, "-o", out)
    options = place.filled(remedy_in(line, beginning))
    options = re.split(r",? as the images", options)[0]
    done = call("run", place.bundle, source, "-o", out, *shlex.split(options))
    assert done.exit_code == 0, (options, done.output)
    assert not list(tmp_path.rglob("injected"))


def test_the_remedy_for_a_12_bit_picture_makes_no_white(place: Place, tmp_path: Path) -> None:
    """A ramp stays a ramp: 1/255 of it is white, of the remedy of old it was 94 %."""
    line = refusal("run", place.bundle, twelve_bits(place.folder), "-o", tmp_path / "out")
    options = shlex.split(remedy_in(line, "--bands"))
    assert options == ["--bands", "1,1,1", "--scale", "0,4095"]
    from segclip_deploy.runtime.io.pictures import read_picture
    from segclip_deploy.runtime.io.raster.source import Reading

    pixels = read_picture(place.folder / f"{NAME}.png", Reading((1, 1, 1), (0, 4095))).pixels
    assert np.mean(pixels == 255) < 0.005
    assert np.mean(pixels) == pytest.approx(127.5, abs=1)


def test_a_dataset_and_tiles_of_grey_images_are_read_by_what_is_proposed(
    place: Place, tmp_path: Path
) -> None:
    for kind in ("images", "masks"):
        (place.folder / kind).mkdir()
    with Image.open(EXAMPLE / "images" / "tile8_part3.jpg") as image:
        image.convert("L").crop((0, 0, 480, 320)).save(place.folder / "images" / f"{NAME}.png")
    mask = place.folder / "masks" / f"{NAME}_the mask.png"
    mask.write_bytes(png(np.full((320, 480), 3), 2))
    commands: tuple[list[Any], ...] = (
        ["evaluate", place.bundle, place.folder],
        ["calibrate", place.bundle, "--tiles", place.folder / "images", "-o", tmp_path / "t.json"],
    )
    for one, beginnings in zip(
        commands, (("--bands", "'--mask-suffix"), ("--bands",)), strict=True
    ):
        for beginning in sorted(beginnings):
            one += shlex.split(remedy_in(refusal(*one), beginning))
        assert call(*one).exit_code == 0


def test_a_bound_is_raised_by_the_option_in_the_message(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    Image.new("RGB", (96, 70), (9, 8, 7)).save(place.folder / f"{NAME}.png")
    arguments = ["run", place.bundle, place.folder, "-o", tmp_path / "out"]
    option = remedy_in(refusal(*arguments), "--max-megapixels")
    assert call(*arguments, *shlex.split(option)).exit_code == 0


# ---- commands that make anew what is damaged


def damaged_model(place: Place) -> tuple[list[Any], str]:
    assert call("export", place.checkpoint, "-o", place.folder / NAME, *SMALL).exit_code == 0
    with (place.folder / NAME / "model.onnx").open("ab") as file:
        file.write(b"x")
    return ["verify", place.folder / NAME], "segclip-deploy export"


def damaged_fp16(place: Place) -> tuple[list[Any], str]:
    bundle = place.folder / NAME
    made = call("quantize", place.bundle, "--scheme", "tensorrt", "--precision", "fp16",
                "-o", bundle)  # fmt: skip
    assert made.exit_code == 0, made.output
    (bundle / "golden.npz").write_bytes(b"x")
    return ["verify", bundle], "segclip-deploy quantize"


def edited_table(place: Place) -> tuple[list[Any], str]:
    path = place.folder / f"{NAME}.json"
    path.write_text(place.table.read_text().replace('"percentile"', '"minmax"'))
    return ["quantize", place.bundle, "--scheme", "cpu", "--precision", "int8", "--table", path,
            "-o", place.folder / "q"], "segclip-deploy calibrate"  # fmt: skip


def foreign_table(place: Place) -> tuple[list[Any], str]:
    path = place.folder / f"{NAME}.json"
    path.write_bytes(place.table.read_bytes())
    own = place.folder / "own bundle"
    assert (
        call("export", place.checkpoint, "-o", own, "--size", "64x64", "--for", "cpu").exit_code
        == 0
    )
    return ["quantize", own, "--scheme", "cpu", "--precision", "int8", "--table", path,
            "-o", place.folder / "q"], "segclip-deploy calibrate"  # fmt: skip


def edited_engine(place: Place) -> tuple[list[Any], str]:
    path = place.folder / f"{NAME}.ort.onnx"
    assert call("build-engine", place.bundle, "-o", path).exit_code == 0
    with path.open("ab") as file:
        file.write(b"x")
    return ["verify", path], "segclip-deploy build-engine"


def damaged_profile(place: Place) -> tuple[list[Any], str]:
    path = place.folder / "profile.json"
    path.write_bytes(b"{}")
    return ["compare", path, path], "segclip-deploy profile"


def damaged_checkpoint(place: Place) -> tuple[list[Any], str]:
    """Of the right format, but without a tensor that it needs."""
    from safetensors.torch import load_file, save_file

    path = place.folder / f"{NAME}.safetensors"
    tensors = load_file(place.checkpoint)
    with safe_open(place.checkpoint, framework="pt") as stored:
        metadata = stored.metadata()
    save_file({k: v for k, v in tensors.items() if "texts" not in k}, path, metadata)
    return ["export", path, "-o", place.folder / "b", "--size", "64x64"], "rm "


def damaged_text_weights(place: Place) -> tuple[list[Any], str]:
    made = place.folder / NAME
    assert call("export", place.checkpoint, "-o", made, *SMALL).exit_code == 0
    record = json.loads((made / "bundle.json").read_text())
    [name] = [name for name in record["files"] if name.startswith("text")]
    (made / name).write_bytes(b"x")
    record["files"][name] = hashlib.sha256(b"x").hexdigest()
    (made / "bundle.json").write_text(json.dumps(record))
    bank = place.folder / "bank.safetensors"
    save_text_bank(bank, random_bank(7))
    return ["set-texts", made, "--vocabulary", "dubai", "--text", bank,
            "-o", place.folder / "new"], "segclip-deploy export"  # fmt: skip


def damaged_sweep(place: Place) -> tuple[list[Any], str]:
    out = place.folder / NAME
    sweep = ["benchmark", place.bundle, "--eval", place.dataset, "--split", "val", "-o", out,
             "--target", "onnxruntime", "--precision", "fp32", "--samples", 10]  # fmt: skip
    done = call(*sweep)
    assert done.exit_code == 0, done.output
    [kept] = out.glob("work/latency/*.json")
    kept.write_bytes(b"{}")
    return sweep, "rm "


def no_place(place: Place) -> tuple[list[Any], str]:
    bands = np.random.default_rng(0).integers(1, 256, (3, 80, 100), np.uint8)
    path = write_raster(place.folder / f"{NAME}.tif", bands, crs=None)
    out = place.folder / "out"
    return ["run", place.bundle, path, "-o", out, "--polygons"], "rio edit-info"


@pytest.mark.parametrize(
    "make",
    [edited_table, edited_engine, no_place, damaged_profile,
     *(pytest.param(make, marks=pytest.mark.long) for make in (
        damaged_model, damaged_fp16, foreign_table, damaged_checkpoint, damaged_text_weights, damaged_sweep))],
)  # fmt: skip
def test_a_command_that_is_printed_mends_what_caused_it(
    place: Place, tmp_path: Path, make: Callable[[Place], tuple[list[Any], str]]
) -> None:
    arguments, beginning = make(place)
    done = call(*arguments)
    assert done.exit_code in (1, 3), done.output
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    pasted = paste(place.filled(remedy_in(line, beginning)), tmp_path)
    assert pasted.returncode == 0, (line, pasted.stderr)
    again = call(*arguments)
    # Weights at random bear no INT8: another refusal, and a true one.
    assert again.exit_code == 0 or "verification failed" in again.stderr, again.output
    assert beginning not in again.stderr
    assert not list(tmp_path.rglob("injected"))


def test_a_bundle_of_another_scheme_is_refused_with_what_makes_one_of_this(
    place: Place, tmp_path: Path
) -> None:
    """FP16 of TensorRT has none such on CPUs: the FP32 bundle is built for them."""
    half = place.folder / "half"
    made = call("quantize", place.bundle, "--scheme", "tensorrt", "--precision", "fp16",
                "-o", half)  # fmt: skip
    assert made.exit_code == 0, made.output
    line = refusal("build-engine", half, "-o", tmp_path / "e.ort.onnx")
    engine = tmp_path / "mended.ort.onnx"
    remedy = remedy_in(line, "segclip-deploy build-engine FP32_BUNDLE")
    assert remedy.endswith("-o ENGINE")
    remedy = place.filled(remedy.replace("ENGINE", str(engine)))
    assert call(*shlex.split(remedy)[1:]).exit_code == 0
    assert engine.is_file()


@pytest.mark.long
def test_the_command_that_makes_a_plan_anew_gets_as_far_as_verification(
    place: Place, tmp_path: Path
) -> None:
    """No further: weights at random bear no INT8."""
    path = place.folder / f"{NAME}.yaml"
    bundle = load_bundle(place.bundle)
    plan = uniform_plan(bundle, load_fp32(bundle).graph, Scheme.CPU, "int8")
    save_plan(path, records.replace(plan, bundle="0" * 64))
    table = ["--table", place.table]
    line = refusal("quantize", place.bundle, "--plan", path, *table, "-o", tmp_path / "q")
    pasted = paste(place.filled(remedy_in(line, "segclip-deploy plan")), tmp_path)
    assert pasted.returncode == 3
    assert "int8: verification failed at labels" in pasted.stderr


@pytest.mark.long
def test_the_export_that_gives_a_margin_gives_it(place: Place, tmp_path: Path) -> None:
    place = replace(place, bundle=place.folder / NAME)
    assert call("export", place.checkpoint, "-o", place.bundle, "--size", "64x96").exit_code == 0
    run = ["run", place.bundle, place.tiles, "-o", tmp_path / "out", "--margin-below", "1"]
    line = place.filled(remedy_in(refusal(*run), "segclip-deploy export"))
    pasted = paste(f"{line} --size 64x96", tmp_path)
    assert pasted.returncode == 0, pasted.stderr
    assert call(*run).exit_code == 0


def test_a_timing_cache_that_is_none_is_removed_by_the_command(
    place: Place, tmp_path: Path
) -> None:
    cache = TimingCache(place.folder / NAME, {"gpu": "x"})
    cache.path.write_bytes(b"no cache")
    with pytest.raises(SegclipError) as caught:
        cache.read()
    assert caught.value.fix is not None
    assert paste(caught.value.fix.partition(", or")[0], tmp_path).returncode == 0
    assert cache.read() == b""


# ---- quoting, and installing


@pytest.mark.parametrize(
    "word",
    [
        "plain",
        NAME,
        "new\nline",
        "tab\there",
        "ü 地",
        "raw\udcff",
        "back\\slash\n'",
        "",
        "a\x1b[31mb1",
    ],
)
def test_a_word_of_any_kind_is_that_word_in_a_shell_and_on_one_line(
    word: str, tmp_path: Path
) -> None:
    line = command("printf", "%s", word)
    assert "\n" not in line
    message = str(SegclipError("wrong", fix=line))
    assert message == f"wrong; {line}"
    said = subprocess.run(["bash", "-c", line], capture_output=True, check=True, cwd=tmp_path)
    assert said.stdout == os.fsencode(word)


def test_a_path_that_begins_with_a_dash_is_no_option(tmp_path: Path) -> None:
    (tmp_path / "-rf").write_bytes(b"")
    assert paste(command("rm", Path("-rf")), tmp_path).returncode == 0
    assert list(tmp_path.glob("-rf")) == []


def test_an_install_hint_names_what_works_for_a_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    monkeypatch.chdir(ROOT)
    assert _optional.install_command("geo") == "pip install -e '.[geo]'"
    monkeypatch.chdir(tmp_path)
    words = shlex.split(_optional.install_command("geo"))
    assert words == ["pip", "install", "-e", f"{ROOT}[geo]"]
    assert "\ngeo = [" in declared
    assert _optional.upgrade_command() == command("git", "-C", ROOT, "pull")


@pytest.mark.parametrize(
    ("origin", "wanted", "newer"),
    [
        (None, "segclip-deploy[geo]", "segclip-deploy"),
        ({"url": "file:///w/s.whl", "archive_info": {}}, "segclip-deploy[geo] @ file:///w/s.whl",
         "file:///w/s.whl"),
        ({"url": "https://e.org/s.git", "vcs_info": {"vcs": "git", "commit_id": "f"}},
         "segclip-deploy[geo] @ git+https://e.org/s.git", "git+https://e.org/s.git"),
    ],
    ids=["index", "wheel", "git"],
)  # fmt: skip
def test_an_install_hint_names_where_the_package_came_from(
    monkeypatch: pytest.MonkeyPatch, origin: dict[str, Any] | None, wanted: str, newer: str
) -> None:
    from importlib import metadata

    class Installed:
        def read_text(self, _name: str) -> str | None:
            return None if origin is None else json.dumps(origin)

    monkeypatch.setattr(_optional, "_checkout", lambda: None)
    monkeypatch.setattr(metadata, "distribution", lambda _name: Installed())
    assert shlex.split(_optional.install_command("geo")) == ["pip", "install", wanted]
    assert shlex.split(_optional.upgrade_command()) == ["pip", "install", "--upgrade", newer]
