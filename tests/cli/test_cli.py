from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import EXAMPLE, SHARED
from tests.support.helpers import call, commands


def test_the_readme_path_gives_pytorchs_miou(tmp_path: Path) -> None:
    example_bundle, labels = tmp_path / "dubai", tmp_path / "labels"
    data = shutil.copytree(EXAMPLE, tmp_path / "data", ignore=shutil.ignore_patterns("tile8*"))
    checkpoint = EXAMPLE / "model.safetensors"
    result = call("export", checkpoint, "-o", example_bundle, "--for", "cpu")
    assert result.exit_code == 0, result.stderr
    assert "labels equal" in result.stdout
    result = call("run", example_bundle, data / "images", "-o", labels, "--json")
    assert result.exit_code == 0, result.stderr
    images = sorted((data / "images").iterdir())
    assert json.loads(result.stdout)["done"] == len(images)
    for image in images:
        size = Image.open(image).size
        assert Image.open(labels / f"{image.stem}.png").size == size
        assert Image.open(labels / f"{image.stem}.overlay.png").size == size
    assert len((labels / "areas.jsonl").read_text().splitlines()) == len(images)

    engine = tmp_path / "dubai.ov.onnx"
    assert call("build-engine", example_bundle, "-o", engine).exit_code == 0
    mious = [
        json.loads(call("evaluate", path, data, "--json").stdout)["miou"]
        for path in (example_bundle, engine, checkpoint)
    ]
    assert max(mious) - min(mious) < 0.001
    assert min(mious) > 0.6


def test_inspect_tells_what_each_artefact_is(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    engine = tmp_path / "e.ort.onnx"
    assert call("build-engine", tiny_bundle, "-o", engine).exit_code == 0
    for path, kind in (
        (tiny_checkpoint, "checkpoint"),
        (tiny_bundle, "bundle"),
        (engine, "engine for onnxruntime"),
    ):
        assert json.loads(call("inspect", path, "--json").stdout)["kind"] == kind
        told = call("inspect", path).stdout
        assert f"{path}: {kind}" in told
        assert "a photo of a vegetation" in told
        assert ("(1, 64, 96, 3)" in told) == (kind != "checkpoint")
    assert call("inspect", tmp_path / "nothing").exit_code == 1


@pytest.mark.faults
def test_a_bad_file_among_good_ones_is_listed_and_the_others_done(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    Image.fromarray(np.zeros((70, 50, 3), np.uint8)).save(source / "good.png")
    (source / "bad.png").write_bytes(b"")
    result = call("run", tiny_bundle, source, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "1 of 2 frames, 1 bad" in result.stdout
    assert f"{source / 'bad.png'}: the file is empty" in result.stderr
    written = {p.name for p in (tmp_path / "out").iterdir()}
    assert written == {"areas.jsonl", "good.png", "good.overlay.png"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "{tmp}", "{tmp}", "-o", "{tmp}/o"], 1, "no images in this folder"),
        (["run", "{tmp}/none", "{example}", "-o", "{tmp}/o"], 1, "not an engine"),
        (["run", "{tmp}", "{example}", "-o", "{tmp}/o"], 1, "segclip-deploy export"),
        (["export", "{tmp}/none.safetensors", "-o", "{tmp}/b"], 1, "no such checkpoint"),
        (["export", "{tmp}/pickle.pth", "-o", "{tmp}/b"], 1, "segclip-deploy import"),
        (["export", "{tmp}/pickle.pth", "-o", "{tmp}/b", "--size", "big"], 2, "512x768"),
        (["evaluate", "{tiny}", "{tmp}"], 1, "not a dataset: a dataset has images/ and masks/"),
        (["train", "{tmp}", "--vocabulary", "dubai", "--text", "x.npz", "-o", "o"], 2, "--steps"),
        (
            ["train", "{tmp}", "--vocabulary", "mars", "--text", "x", "-o", "o", "--steps", "1"],
            1,
            "dubai, isaid, loveda, uavid",
        ),
        (
            [
                "train",
                "{example}/..",
                "--vocabulary",
                "dubai",
                "--text",
                "{bank}",
                "-o",
                "o",
                "--steps",
                "1",
                "--encoder",
                "timm:no_such_model",
            ],
            1,
            "no_such_model",
        ),
        (["build-engine", "{tiny}", "-o", "{tmp}/x.plan"], 1, "NAME.ov.onnx"),
    ],
)
def test_mistakes_end_in_one_line_that_says_what_to_do(
    arguments: list[str], code: int, said: str, tmp_path: Path, tiny_bundle: Path
) -> None:
    import torch

    torch.save({"w": torch.zeros(1)}, tmp_path / "pickle.pth")
    places = {"tmp": tmp_path, "example": EXAMPLE / "images", "tiny": tiny_bundle}
    places["bank"] = EXAMPLE / "text_bank.safetensors"
    result = call(*(a.format(**places) for a in arguments))
    assert result.exit_code == code
    assert said in result.stderr
    assert "Traceback" not in result.output
    if code == 1:
        assert len([line for line in result.stderr.splitlines() if line.startswith("error:")]) == 1
    assert {p.name for p in tmp_path.iterdir()} == {"pickle.pth"}


@pytest.mark.faults
def test_a_full_disk_is_one_line_and_leaves_nothing(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "e.ort.onnx"))

    monkeypatch.setattr(shutil, "copyfile", full)
    result = call("build-engine", tiny_bundle, "-o", tmp_path / "e.ort.onnx")
    assert result.exit_code == 1
    assert result.stderr == f"error: {tmp_path / 'e.ort.onnx'}: No space left on device\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.shared
@pytest.mark.parametrize(
    ("folder", "name"), [("loveda_mmseg", "loveda"), ("isaid_devkit", "isaid"), ("dubai", "dubai")]
)
def test_real_masks_are_read_by_their_vocabularies(folder: str, name: str) -> None:
    from segclip_deploy.artifacts.vocabulary import load_vocabulary
    from segclip_deploy.evaluation.dataset import open_dataset

    vocabulary = load_vocabulary(name)
    dataset = open_dataset(SHARED / folder, vocabulary)
    for split in dataset.splits:
        for sample in list(dataset.samples(split))[:3]:
            assert sample.ground_truth.shape == sample.frame.pixels.shape[:2]
            assert set(np.unique(sample.ground_truth)) <= {*range(len(vocabulary.classes)), 255}


@pytest.mark.shared
def test_a_vocabulary_of_another_dataset_is_refused() -> None:
    from segclip_deploy.artifacts.vocabulary import load_vocabulary
    from segclip_deploy.errors import BadInput
    from segclip_deploy.evaluation.dataset import open_dataset

    dataset = open_dataset(SHARED / "loveda_mmseg", load_vocabulary("dubai"))
    with pytest.raises(BadInput, match="not in vocabulary 'dubai'"):
        list(dataset.samples("all"))


def test_help_lists_every_verb_once_in_the_order_of_the_work() -> None:
    text = call("--help").stdout
    parts = re.findall(r"^(\w+):$", text, re.MULTILINE)
    assert parts == ["Options", "Prepare", "Export", "Quantize", "Build", "Fly", "Measure", "Look"]
    listed = re.findall(r"^  ([a-z-]+)  ", text.partition("Prepare:")[2], re.MULTILINE)
    assert listed == list(commands())
    assert "..." not in text.partition("Prepare:")[2]  # whole sentences, at 80 columns
    assert listed.index("export") < listed.index("build-engine") < listed.index("run")
