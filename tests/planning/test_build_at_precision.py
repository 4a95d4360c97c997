from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.artifacts.engine import load_engine
from segclip_deploy.artifacts.plan import load_plan
from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.cli import main
from segclip_deploy.planning import build_at_precision, measurements
from segclip_deploy.runtime import verify
from segclip_deploy.runtime.build_engine import with_both_labels
from segclip_deploy.runtime.registry import TARGETS
from segclip_deploy.runtime.targets.base import BuildOptions
from tests.conftest import EXAMPLE
from tests.support.fake_tensorrt import install


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, vocabulary: Vocabulary) -> Path:
    """Two images to calibrate on, one to plan on; masks as random as the tiny model's labels."""
    root = tmp_path_factory.mktemp("data")
    (root / "images").mkdir()
    (root / "masks").mkdir()
    rng = np.random.default_rng(0)
    values = np.array([entry.mask_value for entry in vocabulary.classes], dtype=np.uint8)
    names = []
    for source in sorted((EXAMPLE / "images").iterdir())[:3]:
        names.append(source.stem)
        with Image.open(source) as image:
            image.crop((0, 0, 480, 256)).save(root / "images" / f"{source.stem}.png")
        mask = values[rng.integers(0, len(values), (256, 480))]
        Image.fromarray(mask).save(root / "masks" / f"{source.stem}.png")
    split = {"train": names[:2], "plan": names[2:], "val": []}
    (root / "split.json").write_text(json.dumps(split))
    return root


def test_from_an_fp32_bundle_to_the_faster_engine_in_one_go(
    tiny_bundle: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From an empty directory: calibrate, plan, quantize, build both, keep the faster."""
    # Which blocks become INT8 is decided by their measured speed. Random weights leave scores so near to
    # each other that some of these mixes keep 98.9 % of the labels; a trained model's keep more.
    monkeypatch.setitem(verify.MIN_AGREEMENT, "int8", 0.98)
    out = tmp_path / "tiny.ort.onnx"
    command = ["build-engine", str(tiny_bundle), "-o", str(out), "--precision", "auto"]
    command += ["--calib", str(dataset), "--eval", str(dataset), "--max-miou-drop", "100"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert "the faster stays" in result.stderr
    engine = load_engine(out)
    assert engine.record.built.verified.passed
    work = out.with_name(out.name + ".work")
    plan = load_plan(work / "plan.yaml")
    assert engine.record.bundle.plan in (None, dict(plan.blocks))
    assert plan.evidence is not None
    assert plan.evidence.split == "plan"

    # The same plan again measures nothing anew.
    measured = []
    monkeypatch.setattr(measurements, "write_json", lambda *_: measured.append(1))
    command = ["plan", str(tiny_bundle), "--table", str(work / "table.json"), "--scheme", "cpu"]
    command += ["--eval", str(dataset), "-o", str(work / "plan.yaml"), "--max-miou-drop", "100"]
    result = CliRunner().invoke(main, [*command, "--json"])
    assert result.exit_code == 0, result.output
    assert measured == []
    assert json.loads(result.stdout)["blocks"] == dict(plan.blocks)


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
def test_auto_tries_both_ways_of_making_labels_for_each_precision(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a stand-in for the GPU; what is planned does not matter here, and is not planned."""
    state = install(monkeypatch, tiny_bundle / "model.onnx")
    state.delay = dict.fromkeys((1, 3), 0.1)  # the plans that make their labels themselves
    monkeypatch.setattr("segclip_deploy.runtime.targets.tensorrt.target._ROUNDS", 3)
    bundle = load_bundle(tiny_bundle)
    for name in ("calibrate_on", "open_dataset", "choose_plan_split", "plan_precision"):
        monkeypatch.setattr(build_at_precision, name, lambda *_, **__: SimpleNamespace(plan=None))
    for name in ("quantize", "_uniform"):
        monkeypatch.setattr(build_at_precision, name, lambda *_, **__: bundle)
    engine = build_at_precision.build_at_precision(
        *(bundle, tmp_path / "e.engine", "auto"),
        calib=tmp_path, dataset=tmp_path, max_miou_drop=1,
    )  # fmt: skip
    built = engine.record.built
    assert engine.record.arguments == ("--labels", "auto")
    assert built.labels == "kernel"
    assert [one.labels for one in built.build.tries] == ["graph", "kernel"]


def test_both_ways_are_tried_only_where_there_are_two_and_none_was_chosen() -> None:
    chosen = BuildOptions(labels="graph")
    assert with_both_labels(TARGETS["tensorrt"], chosen) == chosen
    assert with_both_labels(TARGETS["tensorrt"]).labels == "auto"
    assert with_both_labels(TARGETS["openvino"]) == BuildOptions()


def test_what_a_precision_needs_is_asked_for(
    tiny_bundle: Path, dataset: Path, tmp_path: Path
) -> None:
    def said(*arguments: str) -> str:
        command = ["build-engine", str(tiny_bundle), "-o", str(tmp_path / "e.ov.onnx")]
        result = CliRunner().invoke(main, [*command, *arguments])
        assert result.exit_code in (1, 2), result.output
        assert not list(tmp_path.glob("*.onnx*"))
        return result.stderr

    assert "--calib DIR" in said("--precision", "int8")
    assert "--eval DATASET" in said("--precision", "auto", "--calib", str(dataset))
    assert "CPU engines do not compute in FP16" in said("--precision", "fp16")
    assert "go with --precision" in said("--calib", str(dataset))


def test_a_plan_is_not_judged_by_what_it_was_calibrated_on(
    tiny_bundle: Path, tiny_table: Path, dataset: Path, tmp_path: Path
) -> None:
    """``tiny_table`` was measured on the example's images, this dataset is cut from the same."""
    command = ["plan", str(tiny_bundle), "--table", str(tiny_table), "--scheme", "cpu"]
    command += ["--eval", str(dataset), "--split", "train", "-o", str(tmp_path / "plan.yaml")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert "the table was calibrated on this image" in result.stderr
    assert list(tmp_path.iterdir()) == []
