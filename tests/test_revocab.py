from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

from segclip_deploy.artifacts import TEXT_FILE, Bundle, InputSpec, load_bundle, sha256_file
from segclip_deploy.cli import main
from segclip_deploy.errors import BadArtifact, BadInput, SegclipError
from segclip_deploy.export.export import export_bundle
from segclip_deploy.export.fold import fold
from segclip_deploy.export.graph import ConstantText, DeployGraph
from segclip_deploy.export.onnx import write_onnx
from segclip_deploy.export.revocab import UNMEASURED, revocab_bundle
from segclip_deploy.export.text_weights import (
    load_text_weights,
    save_text_weights,
    text_constants,
)
from segclip_deploy.export.torch_backend import TorchBackend
from segclip_deploy.model.checkpoint import load_checkpoint, save_checkpoint
from segclip_deploy.model.segclip import SegCLIP
from segclip_deploy.model.spec import ModelSpec
from segclip_deploy.model.text import TextBank, save_text_bank, unit_rows
from segclip_deploy.runtime.backends.onnxruntime import OnnxRuntimeBackend
from segclip_deploy.runtime.golden import load_golden
from segclip_deploy.vocabulary import load_vocabulary
from tests.conftest import EXAMPLE


def random_bank(seed: int, classes: int = 5, texts: int = 3, width: int = 16) -> TextBank:
    rng = np.random.default_rng(seed)
    shape = (classes, texts, width)
    return TextBank(
        unit_rows(rng.standard_normal((classes, width))),
        unit_rows(rng.standard_normal(shape)),
        f"random {seed}",
    )


def says(pattern: str, error: SegclipError) -> bool:
    return re.search(pattern, str(error)) is not None


def constants_of(path: Path) -> dict[str, NDArray[Any]]:
    """Every initializer of a model by name."""
    return {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}


def text_of(path: Path) -> dict[str, NDArray[Any]]:
    return {n: array for n, array in constants_of(path).items() if n.startswith("text.")}


@pytest.fixture(scope="module")
def exported_anew(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny model with other texts, exported from the start."""
    folder = tmp_path_factory.mktemp("anew")
    checkpoint = replace(load_checkpoint(tiny_checkpoint), bank=random_bank(7))
    save_checkpoint(folder / "c.safetensors", checkpoint)
    size = InputSpec(height=64, width=96)
    return export_bundle(folder / "c.safetensors", folder / "bundle", spec=size, logits=True)


@pytest.fixture(scope="module")
def revocabbed(
    tiny_bundle: Path, exported_anew: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """The tiny bundle with those texts folded in afterwards, as the checkpoint's are: rounded."""
    bank = load_checkpoint(exported_anew.path.parent / "c.safetensors").bank
    out = tmp_path_factory.mktemp("revocab") / "bundle"
    return revocab_bundle(load_bundle(tiny_bundle), bank, out)


def test_revocab_equals_an_export_of_the_same_texts(
    revocabbed: Bundle, exported_anew: Bundle, tiny_bundle: Path
) -> None:
    image = np.random.default_rng(3).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    got, expected, old = (
        {k: v.copy() for k, v in OnnxRuntimeBackend(path).infer({"image": image}).items()}
        for path in (revocabbed.model_path, exported_anew.model_path, tiny_bundle / "model.onnx")
    )
    assert np.abs(got["logits"] - expected["logits"]).max() <= 1e-4
    assert (got["labels"] == expected["labels"]).mean() >= 0.9999
    assert (got["labels"] != old["labels"]).mean() > 0.1
    golden, anew = load_golden(revocabbed.golden_path), load_golden(exported_anew.golden_path)
    np.testing.assert_array_equal(golden.tiles, anew.tiles)
    assert np.abs(golden.logits - anew.logits).max() <= 1e-4


def test_two_exports_differ_in_their_text_constants_alone(
    tiny_bundle: Path, exported_anew: Bundle
) -> None:
    one, two = constants_of(tiny_bundle / "model.onnx"), constants_of(exported_anew.model_path)
    assert one.keys() == two.keys()
    differ = {name for name in one if not np.array_equal(one[name], two[name])}
    assert differ == {name for name in one if name.startswith("text.")}


@pytest.mark.parametrize("fixture", ["tiny_bundle", "example_bundle"])
def test_the_text_constants_of_a_bundle_are_those_its_weights_give(
    fixture: str, request: pytest.FixtureRequest, tiny_checkpoint: Path
) -> None:
    path = request.getfixturevalue(fixture)
    checkpoint = tiny_checkpoint if fixture == "tiny_bundle" else EXAMPLE / "model.safetensors"
    constants = text_constants(
        load_text_weights(path / TEXT_FILE), load_checkpoint(checkpoint).bank
    )
    stored = text_of(path / "model.onnx")
    assert stored.keys() == constants.keys()
    for name, array in stored.items():
        np.testing.assert_array_equal(array, constants[name].astype(np.float32), name)


def test_a_folded_refiner_and_a_batch_keep_their_constants(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = ModelSpec(classes=5, text_width=16, encoder="timm:test_efficientnet", width=64)
    model, bank = SegCLIP(spec).eval(), random_bank(1)
    size, path = InputSpec(height=64, width=96, batch=2), tmp_path / "model.onnx"
    folded = fold(model, bank, 32, 32)  # with few pixels, so that both forms of a level occur
    assert folded.text.blocks == {"cff.8": True, "cff.16": False, "cff.32": False, "refiner": True}
    constants = text_constants(folded.text, bank)
    graph = DeployGraph(folded, spec.mean, spec.std, logits=True)
    write_onnx(graph.eval(), size, path, text=constants)
    assert text_of(path).keys() == constants.keys()
    constant = {i.name for i in onnx.load(path).graph.initializer}
    for node in onnx.load(path).graph.node:
        assert any(name not in constant for name in node.input if name), node.name
    images = np.random.default_rng(3).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    plain = DeployGraph(ConstantText(model, bank), spec.mean, spec.std, logits=True)
    expected = TorchBackend(plain, size, 5).infer({"image": images})["logits"]
    got = OnnxRuntimeBackend(path).infer({"image": images})["logits"]
    assert np.abs(got - expected).max() <= 1e-4


def test_the_way_back_restores_the_model(
    revocabbed: Bundle, tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    back = revocab_bundle(revocabbed, load_checkpoint(tiny_checkpoint).bank, tmp_path / "back")
    before, after = constants_of(tiny_bundle / "model.onnx"), constants_of(back.model_path)
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])
    assert back.record["revocab"]["trained"]["text_encoder"] == "random"
    assert back.record["parents"]["bundle"] == sha256_file(revocabbed.path / "bundle.json")


def test_it_takes_less_than_two_seconds(tiny_bundle: Path, tmp_path: Path) -> None:
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        revocab_bundle(load_bundle(tiny_bundle), random_bank(2), tmp_path / "out")
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 2


def test_a_bundle_of_labels_alone_is_answered_anew(example_bundle: Path, tmp_path: Path) -> None:
    bundle = load_bundle(example_bundle)
    assert bundle.outputs == ("labels",)
    bank = load_checkpoint(EXAMPLE / "model.safetensors").bank
    same = revocab_bundle(bundle, bank, tmp_path / "same")
    assert same.record["revocab"]["golden_labels_changed"] <= 1e-4
    logits = [load_golden(b.golden_path).logits for b in (same, bundle)]
    assert np.abs(logits[0] - logits[1]).max() <= 1e-4
    assert {file.name for file in same.path.iterdir()} == {
        file.name for file in bundle.path.iterdir()
    }
    # Classes that change places take their texts, and so their score maps, along.
    order = np.roll(np.arange(5), 1)
    rolled = TextBank(bank.classes[order], bank.texts[order], bank.encoder)
    changed = revocab_bundle(bundle, rolled, tmp_path / "rolled")
    assert changed.record["revocab"]["golden_labels_changed"] > 0.5


def test_the_command_needs_no_torch_and_says_what_is_unmeasured(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    bank, out = tmp_path / "bank.safetensors", tmp_path / "out"
    save_text_bank(bank, random_bank(2))
    names = tmp_path / "names.yaml"
    renamed = load_vocabulary("dubai").to_json()
    renamed["name"] = "mine"
    renamed["classes"][0]["name"] = "hangar"
    names.write_text(json.dumps(renamed))  # JSON is YAML
    blocked = "import sys; sys.modules.update(torch=None, onnxslim=None, onnxscript=None)"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{blocked}; from segclip_deploy.cli import main; main()",
            *("revocab", str(tiny_bundle), "--text", str(bank), "--vocabulary", str(names)),
            *("-o", str(out)),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert UNMEASURED in done.stderr
    assert "random 2" in done.stderr  # another encoder than the model was trained on
    bundle = load_bundle(out)
    assert bundle.record["revocab"]["accuracy"] == UNMEASURED
    assert bundle.vocabulary.names[0] == "hangar"
    assert bundle.record["parity"] == []
    for command in (["verify", str(out)], ["inspect", str(out)]):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, result.output
    assert UNMEASURED in result.output


def edited(bundle: Path, out: Path, **record: Any) -> Path:
    """A copy of a bundle whose record says something else."""
    shutil.copytree(bundle, out)
    data = json.loads((out / "bundle.json").read_text())
    data["files"] = {file: sha256_file(out / file) for file in data["files"]}
    (out / "bundle.json").write_text(json.dumps({**data, **record}))
    return out


@pytest.mark.parametrize(
    ("bank", "said"),
    [
        (random_bank(0, classes=4), "classes 5, this one has 4.*train or import"),
        (random_bank(0, width=8), "width 16, this one has 8.*train or import"),
        (random_bank(0, texts=2), "real texts per class 3, this one has 2; give 3 real texts"),
    ],
)
def test_a_bank_of_other_sizes_is_refused(
    tiny_bundle: Path, tmp_path: Path, bank: TextBank, said: str
) -> None:
    with pytest.raises(BadInput) as caught:
        revocab_bundle(load_bundle(tiny_bundle), bank, tmp_path / "out")
    assert says(said, caught.value)
    assert not list(tmp_path.iterdir())


def test_a_vocabulary_of_other_size_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    loveda = load_vocabulary("loveda")
    with pytest.raises(BadInput, match="the model has 5 classes, vocabulary 'loveda' 7"):
        revocab_bundle(
            load_bundle(tiny_bundle), random_bank(0, 7), tmp_path / "out", vocabulary=loveda
        )


def test_a_bank_that_is_not_finite_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    bank = random_bank(0)
    bank.texts[1, 1, 1] = np.nan
    np.savez(tmp_path / "bank.npz", classes=bank.classes, texts=bank.texts)
    command = ["revocab", str(tiny_bundle), "--text", str(tmp_path / "bank.npz")]
    result = CliRunner().invoke(main, [*command, "-o", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "bank.npz: a text embedding is not finite" in result.stderr
    assert not (tmp_path / "out").exists()


def quantized(bundle: Path, out: Path) -> Path:
    return edited(bundle, out, precision="int8")


def without_text(bundle: Path, out: Path) -> Path:
    return edited(bundle, out, files=dict(list(load_bundle(bundle).files.items())[:2]))


def of_another_model(bundle: Path, out: Path) -> Path:
    copy = edited(bundle, out / "copy")
    text = load_text_weights(copy / TEXT_FILE)
    save_text_weights(
        copy / TEXT_FILE, replace(text, blocks={**text.blocks, "cff.8": False}, bounded=frozenset())
    )
    return edited(copy, out / "edited")


def sharper(bundle: Path, out: Path) -> Path:
    """Weights with which the scores are not bounded."""
    copy = edited(bundle, out / "copy")
    text = load_text_weights(copy / TEXT_FILE)
    name = "decoder.fusions.8.language_to_vision.query.weight"
    arrays = {**text.arrays, name: 1000 * text.arrays[name]}
    save_text_weights(copy / TEXT_FILE, replace(text, arrays=arrays))
    return edited(copy, out / "edited")


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (quantized, BadArtifact, "quantized .int8.*; revocab the FP32 bundle"),
        (without_text, BadArtifact, "no text.safetensors.*; export it again"),
        (of_another_model, BadArtifact, "do not belong together.*export CKPT"),
        (sharper, BadInput, "too large for the softmax that cff.8.*export that"),
    ],
)
def test_a_bundle_that_cannot_take_new_texts_is_refused(
    tiny_bundle: Path,
    tmp_path: Path,
    spoil: Callable[[Path, Path], Path],
    error: type[SegclipError],
    said: str,
) -> None:
    bundle = load_bundle(spoil(tiny_bundle, tmp_path / "spoilt"))
    with pytest.raises(error) as caught:
        revocab_bundle(bundle, random_bank(0), tmp_path / "out")
    assert says(said, caught.value)
    assert not (tmp_path / "out").exists()


def test_the_text_weights_are_what_the_constants_need_and_no_more(tiny_bundle: Path) -> None:
    text = load_text_weights(tiny_bundle / TEXT_FILE)
    for name in text.arrays:
        rest = {other: text.arrays[other] for other in text.arrays if other != name}
        with pytest.raises(KeyError, match=name):
            text_constants(replace(text, arrays=rest), random_bank(0))


def test_damaged_text_weights_are_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "text.safetensors"
    damaged.write_bytes((tiny_bundle / TEXT_FILE).read_bytes()[:100])
    with pytest.raises(BadArtifact, match="not readable as text weights"):
        load_text_weights(damaged)
