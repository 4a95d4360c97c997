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
from click.testing import CliRunner
from numpy.typing import NDArray

from segclip_deploy.artifacts.bundle import TEXT_FILE, Bundle, load_bundle
from segclip_deploy.artifacts.bundle_record import MODEL_FILES
from segclip_deploy.artifacts.engine_record import Verification
from segclip_deploy.artifacts.files import sha256_file
from segclip_deploy.artifacts.golden import load_golden
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.cli import main
from segclip_deploy.errors import BadArtifact, BadInput, SegclipError
from segclip_deploy.export.onnx import drop_output
from segclip_deploy.export.set_texts import UNMEASURED, set_texts
from segclip_deploy.export.text_weights import (
    load_text_weights,
    save_text_weights,
    text_constants,
)
from segclip_deploy.model.checkpoint import load_checkpoint
from segclip_deploy.model.text import TextBank, save_text_bank
from segclip_deploy.runtime.inference.backend import Backend
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from segclip_deploy.runtime.verify import verify
from tests.conftest import EXAMPLE
from tests.support.fakes import random_bank


def says(pattern: str, error: SegclipError) -> bool:
    return re.search(pattern, str(error)) is not None


def constants_of(path: Path) -> dict[str, NDArray[Any]]:
    """Every initializer of a model by name."""
    return {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}


def text_of(path: Path) -> dict[str, NDArray[Any]]:
    return {n: array for n, array in constants_of(path).items() if n.startswith("text.")}


@pytest.fixture(scope="module")
def retexted(
    tiny_bundle: Path, other_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """The tiny bundle with the texts folded in that ``open_bundle`` was exported with."""
    out = tmp_path_factory.mktemp("set-texts") / "bundle"
    return set_texts(load_bundle(tiny_bundle), load_checkpoint(other_checkpoint).bank, out)


def test_other_texts_equal_an_export_of_the_same_texts(
    retexted: Bundle, open_bundle: Path, tiny_bundle: Path
) -> None:
    image = np.random.default_rng(3).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    got, expected, old = (
        {k: v.copy() for k, v in OnnxRuntimeBackend(path).infer({"image": image}).items()}
        for path in (retexted.model_path, open_bundle / "model.onnx", tiny_bundle / "model.onnx")
    )
    assert np.abs(got["logits"] - expected["logits"]).max() <= 1e-4
    assert (got["labels"] == expected["labels"]).mean() >= 0.9999
    assert (got["labels"] != old["labels"]).mean() > 0.1
    golden, anew = load_golden(retexted.golden_path), load_golden(open_bundle / "golden.npz")
    np.testing.assert_array_equal(golden.tiles, anew.tiles)
    assert np.abs(golden.logits - anew.logits).max() <= 1e-4


def test_an_open_batch_and_a_margin_stay_when_texts_change(
    open_bundle: Path,
    tiny_bundle: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flown: list[range] = []

    def seen(backend: Backend, *rest: Any) -> Verification:
        flown.append(backend.inputs[0].batches)
        return verify(backend, *rest)

    monkeypatch.setattr("segclip_deploy.export.set_texts.verify", seen)
    copy = edited(open_bundle, tmp_path / "copy")
    for name in MODEL_FILES.values():
        drop_output(copy / name, "logits")
    bundle = load_bundle(edited(copy, tmp_path / "bundle", outputs=["labels", "margin"]))
    bank = load_checkpoint(tiny_checkpoint).bank
    changed = set_texts(bundle, bank, tmp_path / "changed")
    assert flown == [range(1, 4)] * 2  # both graphs
    backend = OnnxRuntimeBackend(changed.model_path, batches=changed.input.batches)
    assert [output.name for output in backend.outputs] == ["labels", "margin"]
    golden, exported = load_golden(changed.golden_path), load_golden(tiny_bundle / "golden.npz")
    assert np.abs(golden.logits - exported.logits).max() <= 1e-4
    assert verify(backend, exported, bundle.vocabulary.names).passed


def test_two_exports_differ_in_their_text_constants_alone(
    tiny_bundle: Path, open_bundle: Path
) -> None:
    one, two = constants_of(tiny_bundle / "model.onnx"), constants_of(open_bundle / "model.onnx")
    shared = {name for name in one.keys() & two.keys() if "." in name}  # the others are numbered
    differ = {name for name in shared if not np.array_equal(one[name], two[name])}
    assert differ == text_of(tiny_bundle / "model.onnx").keys() < shared


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


def test_the_way_back_restores_the_model(
    retexted: Bundle, tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    back = set_texts(retexted, load_checkpoint(tiny_checkpoint).bank, tmp_path / "back")
    before, after = constants_of(tiny_bundle / "model.onnx"), constants_of(back.model_path)
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])
    assert back.record.texts.trained.text_encoder == "random"
    assert back.record.parents.bundle == sha256_file(retexted.path / "bundle.json")


@pytest.mark.alone
def test_it_takes_less_than_two_seconds(tiny_bundle: Path, tmp_path: Path) -> None:
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        set_texts(load_bundle(tiny_bundle), random_bank(2), tmp_path / "out")
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 2


def test_a_bundle_of_labels_alone_is_answered_anew(example_bundle: Path, tmp_path: Path) -> None:
    bundle = load_bundle(example_bundle)
    assert bundle.outputs == ("labels",)
    bank = load_checkpoint(EXAMPLE / "model.safetensors").bank
    same = set_texts(bundle, bank, tmp_path / "same")
    assert same.record.texts.golden_labels_changed <= 1e-4
    logits = [load_golden(b.golden_path).logits for b in (same, bundle)]
    assert np.abs(logits[0] - logits[1]).max() <= 1e-4
    assert {file.name for file in same.path.iterdir()} == {
        file.name for file in bundle.path.iterdir()
    }
    # Classes that change places take their texts, and so their score maps, along.
    order = np.roll(np.arange(5), 1)
    rolled = TextBank(bank.classes[order], bank.texts[order], bank.encoder)
    changed = set_texts(bundle, rolled, tmp_path / "rolled")
    assert changed.record.texts.golden_labels_changed > 0.5


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
            *("set-texts", str(tiny_bundle), "--text", str(bank), "--vocabulary", str(names)),
            *("-o", str(out)),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert UNMEASURED in done.stderr
    assert "random 2" in done.stderr  # another encoder than the model was trained on
    bundle = load_bundle(out)
    assert bundle.record.texts.accuracy == UNMEASURED
    assert bundle.vocabulary.names[0] == "hangar"
    assert bundle.record.parity == ()
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
        set_texts(load_bundle(tiny_bundle), bank, tmp_path / "out")
    assert says(said, caught.value)
    assert not list(tmp_path.iterdir())


def test_a_vocabulary_of_other_size_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    loveda = load_vocabulary("loveda")
    with pytest.raises(BadInput, match="the model has 5 classes, vocabulary 'loveda' 7"):
        set_texts(load_bundle(tiny_bundle), random_bank(0, 7), tmp_path / "out", vocabulary=loveda)


def test_a_bank_that_is_not_finite_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    bank = random_bank(0)
    bank.texts[1, 1, 1] = np.nan
    np.savez(tmp_path / "bank.npz", classes=bank.classes, texts=bank.texts)
    command = ["set-texts", str(tiny_bundle), "--text", str(tmp_path / "bank.npz")]
    result = CliRunner().invoke(main, [*command, "-o", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "bank.npz: a text embedding is not finite" in result.stderr
    assert not (tmp_path / "out").exists()


def quantized(bundle: Path, out: Path) -> Path:
    return edited(bundle, out, precision="int8")


def without_text(bundle: Path, out: Path) -> Path:
    return edited(
        bundle, out, files={n: h for n, h in load_bundle(bundle).files.items() if n != TEXT_FILE}
    )


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
        (quantized, BadArtifact, "quantized .int8.*; set the texts of the FP32 bundle"),
        (without_text, BadArtifact, "no text.safetensors.*; segclip-deploy export CKPT -o"),
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
        set_texts(bundle, random_bank(0), tmp_path / "out")
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


def test_an_engine_that_cannot_be_refitted_says_how_to_build_it(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    def said(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, [str(a) for a in arguments])
        return result.exit_code, result.stderr

    engine = str(tmp_path / "tiny.ort.onnx")
    assert said("build-engine", str(tiny_bundle), "-o", engine)[0] == 0
    code, message = said("set-texts", engine, "--bundle", str(tiny_bundle))
    assert code == 1
    assert "an engine for onnxruntime cannot be refitted" in message
    assert f"build-engine {tiny_bundle} -o {engine}" in message
    assert said("set-texts", engine)[0] == 2
    assert said("set-texts", engine, "--bundle", str(tiny_bundle), "--text", "x.npz")[0] == 2
