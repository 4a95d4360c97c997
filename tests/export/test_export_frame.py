"""``export --frame``: the window fits, and all that is made of the bundle flies with its overlap."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from segclip_deploy import api
from segclip_deploy.artifacts.bundle import Bundle, InputSpec, load_bundle
from segclip_deploy.runtime.build_engine import build_engine
from segclip_deploy.runtime.open_engine import open_segmenter
from tests.support.fakes import random_frame
from tests.support.helpers import call


@pytest.fixture(scope="module")
def fitted(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle, with an overlap that was chosen: not a quarter of 64 pixels, which is 16."""
    out = shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("fitted") / "bundle")
    record = json.loads((out / "bundle.json").read_text())
    record["input"]["overlap"] = 32
    (out / "bundle.json").write_text(json.dumps(record))
    return out


def test_the_window_that_fits_and_its_overlap_are_exported(open_bundle: Path) -> None:
    assert load_bundle(open_bundle).input == InputSpec(64, 96, 3, 1, overlap=16)  # --frame 96x64,16


def test_the_choice_is_told_before_the_work_and_not_on_stdout(
    fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[InputSpec] = []

    def exported(*_: object, spec: InputSpec, **__: object) -> Bundle:
        asked.append(spec)
        return load_bundle(fitted)

    monkeypatch.setattr("segclip_deploy.export.export.export_bundle", exported)
    command = ("export", "c.safetensors", "-o", tmp_path / "b", "--json")
    result = call(*command, "--frame", "150x64,32")
    assert (result.exit_code, json.loads(result.stdout)["input"]["overlap"]) == (0, 32)
    lines = result.stderr.splitlines()
    assert lines[0].startswith("--frame 150x64 (width first), overlap 32: the first of these")
    assert lines[2].split()[:4] == ["64x160", "1", "1.07", "6%"]
    assert lines[3].split()[:4] == ["64x96", "2", "1.28", "22%"]
    assert lines[-1].split()[:4] == ["512x512", "1", "27.31", "96%"]
    call(
        *command, "--frame", "1600x900", "--batch", "1..2"
    )  # one of the frame's size would be too large
    call(*command, "--size", "96x64")
    call(*command)
    assert asked == [
        InputSpec(64, 160, overlap=32),
        InputSpec(928, 864, 2, 1, overlap=128),
        InputSpec(96, 64),
        InputSpec(512, 512),
    ]


def test_the_overlap_flies_with_everything_that_is_made_of_the_bundle(
    fitted: Path, tmp_path: Path
) -> None:
    low = tmp_path / "fp16"
    api.quantize(fitted, out=low, scheme="tensorrt", precision="fp16")
    build_engine(load_bundle(fitted), tmp_path / "e.ort.onnx")
    frame = random_frame(64, 240)
    for path in (fitted, low, tmp_path / "e.ort.onnx"):
        with open_segmenter(path, threads=1) as flyer:
            planned = flyer.segment(frame)
            asked = {overlap: flyer.segment(frame, overlap=overlap) for overlap in (16, 32)}
        assert (flyer.overlap, planned.windows, asked[16].windows) == (32, 4, 3)
        np.testing.assert_array_equal(planned.labels, asked[32].labels)
    with open_segmenter(fitted, overlap=16) as flyer:
        assert flyer.overlap == 16
    assert "32 pixels, chosen by export --frame" in call("inspect", low).stdout


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--frame", "1600x900", "--size", "512x512"], 2, "--size and --frame both choose the window"),
        (["--frame", "1600"], 2, "'1600' is no frame like 1600x900, or 1600x900,64"),
        (["--frame", "1600x900,a"], 2, "is no frame like 1600x900"),
        (["--frame", "1600x0"], 1, "--frame: a camera's frame has sides from 1"),
        (["--frame", "1600x900,6"], 1, "--frame: overlap 6 is no multiple of 4"),
        (["--frame", "1600x900", "--batch", "999"], 1, "take a smaller overlap or --batch"),
    ],
)  # fmt: skip
def test_a_frame_that_cannot_be_fitted_is_refused_in_one_line(
    options: list[str], code: int, said: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    result = call("export", tiny_checkpoint, "-o", tmp_path / "b", *options)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr.splitlines()[-1]
    assert not (tmp_path / "b").exists()
