"""Files of older schemas still open, and go on like any other; the READMEs in fixtures say what they are."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from segclip_deploy.artifacts.bundle import InputSpec, load_bundle
from segclip_deploy.artifacts.bundle_record import BUNDLE
from segclip_deploy.artifacts.checkpoint_record import CHECKPOINT
from segclip_deploy.artifacts.engine import load_engine, record_path
from segclip_deploy.artifacts.engine_record import ENGINE
from segclip_deploy.artifacts.files import read_json, sha256_file
from segclip_deploy.artifacts.golden import load_golden
from segclip_deploy.artifacts.plan import load_plan
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.calibration.table import TABLE
from segclip_deploy.errors import BadArtifact
from segclip_deploy.export.export import export_bundle
from segclip_deploy.export.set_texts import set_texts
from segclip_deploy.model.checkpoint import load_checkpoint, save_checkpoint
from segclip_deploy.model.text import load_text_bank
from segclip_deploy.runtime.build_engine import build_engine
from segclip_deploy.runtime.targets.base import BuildOptions
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from tests.conftest import EXAMPLE, calibrated, uniformly
from tests.support.helpers import call
from tests.support.records import small_table

OLD = Path(__file__).with_name("fixtures") / "schema1"
OLD_2 = Path(__file__).with_name("fixtures") / "schema2"
OLD_3 = Path(__file__).with_name("fixtures") / "schema3"
OLD_4 = Path(__file__).with_name("fixtures") / "schema4"
SIZE = InputSpec(height=64, width=64)


@pytest.fixture
def fp32(tmp_path: Path) -> Path:
    """The old FP32 bundle, where other files may lie beside it."""
    return shutil.copytree(OLD / "fp32", tmp_path / "fp32")


def labels_of(bundle: Path, tile: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    backend = OnnxRuntimeBackend(load_bundle(bundle).model_path, threads=1)
    return backend.infer({"image": tile[None]})["labels"].copy()


def test_an_old_checkpoint_says_what_it_said() -> None:
    checkpoint = load_checkpoint(OLD / "checkpoint.safetensors")
    assert checkpoint.imported is None
    training = checkpoint.training
    assert training is not None
    assert (training.step, training.settings.steps, training.settings.crop) == (1, 2, 64)
    assert training.plan.images == ("c",)
    assert training.plan.iou.keys() == set(checkpoint.vocabulary.names)
    assert training.parents is not None
    assert len(training.parents.plan) == 64
    assert "encoder.stem" in training.int8
    shipped = load_checkpoint(EXAMPLE / "model.safetensors").training
    assert shipped is not None
    assert (shipped.step, round(shipped.plan.miou or 0, 4)) == (1000, 0.7349)
    assert (shipped.parents, shipped.int8) == (None, ())
    for settings in (training.settings, shipped.settings):  # there was no choice
        assert (settings.device, settings.fp16, settings.accumulate) == ("cpu", False, 1)


def test_an_old_import_is_told_from_a_training() -> None:
    checkpoint = load_checkpoint(OLD / "checkpoint.safetensors")
    common = {
        "spec": checkpoint.spec.to_json(),
        "vocabulary": checkpoint.vocabulary.to_json(),
        "text_encoder": "x",
    }
    data = {"schema": 1, **common, "training": {"imported": "a.pth"}}
    record = CHECKPOINT.parse(data, where="c", fix="f")
    assert (record.training, record.imported) == (None, "a.pth")
    assert CHECKPOINT.parse({**record.to_json(), "schema": 2}, where="c", fix="f") == record
    record = CHECKPOINT.parse({**data, "training": {}}, where="c", fix="f")
    assert (record.training, record.imported) == (None, None)


def test_an_old_checkpoint_is_written_anew_as_what_it_was(tmp_path: Path) -> None:
    old = load_checkpoint(OLD / "checkpoint.safetensors")
    save_checkpoint(tmp_path / "new.safetensors", old)
    new = load_checkpoint(tmp_path / "new.safetensors")
    assert (new.spec, new.vocabulary, new.training) == (old.spec, old.vocabulary, old.training)


@pytest.mark.parametrize("name", ["bank.safetensors", "bank.npz"])
def test_an_old_text_bank_opens(name: str) -> None:
    bank = load_text_bank(str(OLD / name), load_vocabulary("dubai"))
    assert (bank.classes.shape, bank.texts.shape, bank.encoder) == ((5, 8), (5, 2, 8), "random 2")


def test_the_shipped_text_bank_names_no_schema_and_opens() -> None:
    bank = load_text_bank(str(EXAMPLE / "text_bank.safetensors"), load_vocabulary("dubai"))
    assert bank.encoder == "OpenAI CLIP ViT-B/16"


def test_an_old_quantized_bundle_says_what_it_said() -> None:
    bundle, said = load_bundle(OLD / "int8"), read_json(OLD / "int8" / "bundle.json")
    done = bundle.record.quantization
    assert done is not None
    assert (bundle.precision, bundle.scheme) == ("int8", Scheme.TENSORRT)
    assert done.plan == bundle.record.plan == said["plan"]
    assert done.fp32_fallback == said["islands"]
    assert done.quality.reference_agreement == said["quality"]["literal_agreement"]
    assert done.quality.logit_sqnr_db == said["quality"]["logit_sqnr_db"]
    assert load_golden(bundle.golden_path).reference is not None
    assert done.calibration is not None
    assert done.calibration.to_json() == {**said["calibration"], "appearance": None}
    assert bundle.record.parents.to_json() == {**said["parents"], "whole": None}
    assert [link.to_json() for link in bundle.record.parity] == said["parity"]
    assert [block.exported for block in bundle.record.folding] == ["plain", "plain"]
    result = call("verify", bundle.path)
    assert result.exit_code == 0, result.output
    result = call("inspect", bundle.path)
    assert result.exit_code == 0, result.output


def test_an_old_bundle_with_new_texts_says_which_it_was_trained_with() -> None:
    record = BUNDLE.read(OLD / "texts.bundle.json", fix="f")
    assert record.texts is not None
    assert record.texts.trained.text_encoder == "random 0"
    assert record.text_encoder == "random 1"
    assert (record.parity, record.quantization) == ((), None)


def test_records_of_schema_2_say_what_they_said() -> None:
    said, built = read_json(OLD_2 / "bundle.json"), read_json(OLD_2 / "engine.json")["built"]
    bundle = BUNDLE.read(OLD_2 / "bundle.json", fix="f")
    engine = ENGINE.read(OLD_2 / "engine.json", fix="f")
    for record in (bundle, engine.bundle):
        assert record.texts is not None
        assert json.loads(json.dumps(record.texts.to_json())) == said["revocab"]
        assert record.quantization is not None
        quality, old = record.quantization.quality, said["quantization"]["quality"]
        assert quality.reference_agreement == old["literal_agreement"]
        assert quality.logit_sqnr_db == old["logit_sqnr_db"]
    assert json.loads(json.dumps(engine.built.to_json())) == {**built, "labels": "graph"}


def test_records_of_schema_3_say_what_they_said_and_nothing_of_what_came_later() -> None:
    said, built = read_json(OLD_3 / "bundle.json"), read_json(OLD_3 / "engine.json")["built"]
    assert said.pop("schema") == 3
    said |= {"temperature": None, "input": {**said["input"], "overlap": None}}
    said["model"]["channels"] = {}
    bundle = BUNDLE.read(OLD_3 / "bundle.json", fix="f")
    engine = ENGINE.read(OLD_3 / "engine.json", fix="f")
    for record in (bundle, engine.bundle):
        told = json.loads(json.dumps(record.to_json()))
        assert told["quantization"]["calibration"].pop("appearance") is None
        assert told["quantization"].pop("operators") is None
        assert told["quantization"].pop("placement") == "own"
        assert told["parents"].pop("whole") is None
        assert told == said
        assert record.appearance is None
    assert json.loads(json.dumps(engine.built.to_json())) == {**built, "labels": "graph"}


def test_records_of_schema_4_say_what_they_said_and_not_what_became_of_the_plan() -> None:
    said = read_json(OLD_4 / "bundle.json")
    assert said.pop("schema") == 4
    engine = ENGINE.read(OLD_4 / "engine.json", fix="f")
    for record in (BUNDLE.read(OLD_4 / "bundle.json", fix="f"), engine.bundle):
        told = json.loads(json.dumps(record.to_json()))
        assert told["quantization"].pop("operators") is None
        assert told["quantization"].pop("placement") == "own"
        assert told["parents"].pop("whole") is None
        assert not told["model"].pop("channels")
        assert told == said
    assert engine.precision_shares is None


def test_layers_of_an_engine_of_schema_6_name_no_nodes() -> None:
    old = read_json(OLD_4 / "engine.json")
    layer = {"name": "c", "type": None, "blocks": ["head"], "reads": ["fp16"], "writes": []}
    old["built"]["layers"] = [layer]
    (read,) = ENGINE.parse(old, where="e", fix="f").built.layers or ()
    assert (read.blocks, read.reads, read.nodes) == (("head",), ("fp16",), ())


def test_a_table_of_schema_3_says_what_it_said_and_knows_no_appearance() -> None:
    old = {**TABLE.dump(small_table()), "schema": 3, "ranges": {}, "means": {}}
    assert old.pop("appearance") is None
    del old["digest"], old["graphs"]
    seal = hashlib.sha256(json.dumps(old, sort_keys=True).encode()).hexdigest()
    assert TABLE.parse({**old, "digest": seal}, where="t", fix="f") == small_table()


def test_a_plan_of_schema_2_says_what_it_said() -> None:
    said = yaml.safe_load((OLD_2 / "plan.yaml").read_text(encoding="utf-8"))
    plan = load_plan(OLD_2 / "plan.yaml")
    assert plan.blocks == said["blocks"]
    evidence = plan.evidence
    assert evidence is not None
    assert evidence.evaluation.to_json() == said["evidence"]["verdict"]
    assert evidence.excluded == said["evidence"]["spared"]
    assert [step.excluded for step in evidence.steps] == [
        step["spared"] for step in said["evidence"]["steps"]
    ]
    assert evidence.latency is not None
    assert evidence.latency.to_json() == said["evidence"]["latency"]


def test_an_old_bundle_is_known_by_the_hash_of_the_file_as_it_lies() -> None:
    """Tables, plans and engines that were made of it still belong to it."""
    bundle = load_bundle(OLD / "fp32")
    assert bundle.sha256 == sha256_file(OLD / "fp32" / "bundle.json")
    assert load_bundle(OLD / "int8").record.parents.bundle == bundle.sha256


@pytest.mark.parametrize("scheme", ["cpu", "tensorrt"])
def test_an_old_bundle_is_verified_and_quantized(scheme: str, fp32: Path, tmp_path: Path) -> None:
    result = call("verify", fp32)
    assert result.exit_code == 0, result.output
    table = calibrated(fp32, [EXAMPLE / "images"], 16)
    made = load_bundle(uniformly(fp32, table, tmp_path / "low", scheme, "int8"))
    assert json.loads((made.path / "bundle.json").read_text())["schema"] == BUNDLE.schema == 5
    assert made.record.parents.bundle == load_bundle(fp32).sha256
    assert made.record.trained_for_int8 == load_bundle(fp32).record.trained_for_int8 != ()


def test_an_old_bundle_takes_new_texts(fp32: Path, tmp_path: Path) -> None:
    old = load_bundle(fp32)
    bank = load_text_bank(str(OLD / "bank.safetensors"), old.vocabulary)
    new = set_texts(old, bank, tmp_path / "new")
    assert new.record.text_encoder == "random 2"
    assert new.record.texts is not None
    assert new.record.texts.golden_labels_changed > 0
    assert new.files.keys() == old.files.keys()


def test_an_old_checkpoint_exports_to_what_the_old_bundle_says(tmp_path: Path) -> None:
    new = export_bundle(OLD / "checkpoint.safetensors", tmp_path / "new", spec=SIZE)
    assert new.record.trained_for_int8 == load_bundle(OLD / "fp32").record.trained_for_int8
    tiles = load_golden(OLD / "fp32" / "golden.npz").tiles
    for tile in (*tiles, tiles[0].transpose(1, 0, 2)):
        old = labels_of(OLD / "fp32", tile)
        assert len(np.unique(old)) > 1
        np.testing.assert_array_equal(labels_of(new.path, tile), old)


def test_an_engine_of_schema_2_is_refused_with_the_command_that_builds_it_anew(
    fp32: Path, tmp_path: Path
) -> None:
    path = tmp_path / "e.ov.onnx"
    build_engine(load_bundle(fp32), path, options=BuildOptions(device="CPU"))
    record = json.loads(record_path(path).read_text())
    built = record.pop("built")
    record_path(path).write_text(json.dumps({**record, **built, "schema": 2}))
    with pytest.raises(BadArtifact) as caught:
        load_engine(path)
    assert str(caught.value) == (
        f"{record_path(path)}: its schema 2 is older than this version reads (7); "
        f"segclip-deploy build-engine {fp32} -o {path} --device CPU"
    )


@pytest.mark.parametrize(
    "change",
    [{"training": "ab"}, {"training": None}, {"training": []}, {"spec": None}, {"vocabulary": 1}],
    ids=str,
)  # fmt: skip
@pytest.mark.faults
def test_a_damaged_old_checkpoint_record_is_refused_in_one_line(change: dict[str, Any]) -> None:
    checkpoint = load_checkpoint(OLD / "checkpoint.safetensors")
    data = {
        "schema": 1,
        "spec": checkpoint.spec.to_json(),
        "vocabulary": checkpoint.vocabulary.to_json(),
        "text_encoder": "x",
        "training": {},
    }
    with pytest.raises(BadArtifact) as caught:
        CHECKPOINT.parse({**data, **change}, where="c.safetensors", fix="train it")
    assert str(caught.value).startswith("c.safetensors: ")
    assert str(caught.value).endswith("train it")
    assert "\n" not in str(caught.value)
