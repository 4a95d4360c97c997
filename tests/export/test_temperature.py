"""Temperature scaling: what is fitted, that it changes probabilities alone, and that it stays with the model."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from segclip_deploy import api
from segclip_deploy.artifacts.bundle import InputSpec, load_bundle
from segclip_deploy.artifacts.golden import load_golden
from segclip_deploy.artifacts.model_spec import ModelSpec
from segclip_deploy.artifacts.onnx_file import block_of
from segclip_deploy.artifacts.records import replace
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.calibration.table import load_table
from segclip_deploy.errors import BadInput, UsageError
from segclip_deploy.evaluation.dataset import open_dataset
from segclip_deploy.export import temperature
from segclip_deploy.export.fold import fold_temperature
from segclip_deploy.export.graph import ConstantText, ExportGraph
from segclip_deploy.export.onnx import write_onnx
from segclip_deploy.export.onnx_model import load_fp32
from segclip_deploy.export.temperature import calibrate_confidence, fit_temperature
from segclip_deploy.export.torch_backend import TorchBackend
from segclip_deploy.model.checkpoint import load_checkpoint
from segclip_deploy.model.text import save_text_bank
from segclip_deploy.quantization.placement import uniform_plan
from segclip_deploy.quantization.quantize import quantize
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.inference.stitching import LogitRows
from segclip_deploy.runtime.inference.windows import margin_of
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from tests.conftest import EXAMPLE, calibrated
from tests.support.fakes import (
    FakeBackend,
    classes_of,
    drawn_from,
    logits_of,
    random_bank,
    random_frame,
)
from tests.support.helpers import call
from tests.support.nets import Base


@pytest.mark.parametrize("expected", [0.05, 0.4, 1.0, 3.0, 40.0])
def test_the_temperature_that_classes_were_drawn_with_is_found(expected: float) -> None:
    rng = np.random.default_rng(1)
    logits = (3 * expected * rng.standard_normal((5, 150_000))).astype(np.float32)
    found = fit_temperature(logits, drawn_from(logits, expected, 2))
    assert found == pytest.approx(expected, rel=0.02)
    assert fit_temperature(2 * logits, drawn_from(logits, expected, 2)) == pytest.approx(2 * found, rel=1e-4)  # fmt: skip


def test_the_fit_is_the_least_of_the_likelihood() -> None:
    rng = np.random.default_rng(4)
    logits = (4 * rng.standard_normal((3, 5000))).astype(np.float32)
    labels = rng.integers(0, 3, 5000).astype(np.uint8)
    labels[:3500] = logits.argmax(0)[:3500]
    found = fit_temperature(logits, labels)

    def nll(t: float) -> float:
        z = torch.from_numpy(logits.T).double() / t
        return float(torch.nn.functional.cross_entropy(z, torch.from_numpy(labels).long()))

    grid = found * np.linspace(0.9, 1.1, 81)
    assert min(grid, key=nll) == pytest.approx(found, rel=1e-6)


def backend_of(bundle: Path) -> OnnxRuntimeBackend:
    return OnnxRuntimeBackend(load_bundle(bundle).model_path, threads=1)


def answers(bundle: Path) -> dict[str, NDArray[Any]]:
    image = np.random.default_rng(3).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    with backend_of(bundle) as backend:
        return {name: a.copy() for name, a in backend.infer({"image": image}).items()}


def test_export_says_what_it_fitted_where(scaled_bundle: Path, drawn_dataset: Path) -> None:
    fit = load_bundle(scaled_bundle).record.temperature
    assert fit is not None
    assert fit.value == pytest.approx(2.5, rel=0.03)
    assert (fit.dataset, fit.split, fit.images) == (str(drawn_dataset), "plan", ("0", "1"))
    assert fit.pixels == 2 * 160 * 220  # without the band that is ignored
    assert fit.after.nll < fit.before.nll
    assert fit.after.ece < 0.02 < fit.before.ece
    told = call("inspect", scaled_bundle).stdout
    assert f"{fit.value:.3f}, fitted on split plan of {drawn_dataset}: 2 images" in told


def test_logits_are_the_trained_ones_divided_and_labels_stay(
    scaled_bundle: Path, tiny_bundle: Path
) -> None:
    fit = load_bundle(scaled_bundle).record.temperature
    assert fit is not None
    plain, scaled = answers(tiny_bundle), answers(scaled_bundle)
    assert np.abs(scaled["logits"] - plain["logits"] / fit.value).max() < 1e-5
    assert (scaled["labels"] == plain["labels"]).mean() > 0.9999
    golden, before = (load_golden(b / "golden.npz") for b in (scaled_bundle, tiny_bundle))
    assert np.abs(golden.logits - before.logits / fit.value).max() < 1e-5
    np.testing.assert_array_equal(golden.labels, before.labels)


def test_the_margin_is_that_of_the_divided_logits(scaled_bundle: Path, tiny_bundle: Path) -> None:
    fit = load_bundle(scaled_bundle).record.temperature
    assert fit is not None
    got, plain = answers(scaled_bundle)["margin"][0], answers(tiny_bundle)["logits"][0]
    expected = margin_of(plain / np.float32(fit.value)).astype(int)
    assert np.abs(got - expected).max() <= 1
    assert np.abs(got - margin_of(plain).astype(int)).max() > 20  # that of the trained ones


def test_the_head_takes_the_temperature_over_for_nothing(
    scaled_bundle: Path, tiny_bundle: Path
) -> None:
    one, two = (onnx.load(bundle / "model.onnx") for bundle in (tiny_bundle, scaled_bundle))
    kinds = [
        Counter((block_of(n.name), n.op_type) for n in m.graph.node if block_of(n.name) != "graph")
        for m in (one, two)
    ]
    assert kinds[0] == kinds[1]  # beside the margin, which is in block graph
    held = [
        {i.name: onnx.numpy_helper.to_array(i) for i in m.graph.initializer} for m in (one, two)
    ]
    shared = {
        name for name in held[0].keys() & held[1].keys() if "." in name
    }  # others are numbered
    assert len(shared) > 20
    assert all(np.array_equal(held[0][name], held[1][name]) for name in shared)
    fit = load_bundle(scaled_bundle).record.temperature
    assert fit is not None
    assert held[1]["head_scale"] == pytest.approx(
        10 / fit.value, rel=1e-6
    )  # 10 is where training begins
    assert held[1]["score_scale"] == 10


def test_another_network_has_its_logits_divided_in_the_graph(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec, size = ModelSpec(classes=5, text_width=16), InputSpec(64, 64)
    network = ConstantText(Base(spec).eval(), random_bank(1))
    graph = ExportGraph(network, spec.mean, spec.std, logits=True, margin=True).eval()
    image = {"image": np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)}
    before = TorchBackend(graph, size, 5).infer(image)
    fold_temperature(graph, 0.5)
    write_onnx(graph, size, tmp_path / "m.onnx")
    with OnnxRuntimeBackend(tmp_path / "m.onnx", threads=1) as backend:
        got = backend.infer(image)
    assert np.abs(got["logits"] - before["logits"] / 0.5).max() < 1e-4
    assert (got["labels"] == before["labels"]).mean() > 0.9999
    assert np.abs(got["margin"][0].astype(int) - margin_of(2 * before["logits"][0])).max() <= 1
    added = [n.name for n in onnx.load(tmp_path / "m.onnx").graph.node if n.op_type == "Div"]
    assert [block_of(name) for name in added].count("graph") == 1


def test_new_texts_keep_the_temperature_and_say_that_it_is_of_others(
    scaled_bundle: Path, tiny_bundle: Path, other_checkpoint: Path, tmp_path: Path
) -> None:
    out, bank = tmp_path / "texts", tmp_path / "bank.safetensors"
    save_text_bank(bank, load_checkpoint(other_checkpoint).bank)
    result = call("set-texts", scaled_bundle, "--text", bank, "-o", out)
    assert result.exit_code == 0, result.stderr
    fit = load_bundle(out).record.temperature
    assert fit is not None
    assert fit == load_bundle(scaled_bundle).record.temperature
    assert (
        f"its temperature {fit.value:.3f} stays, and was fitted with other texts" in result.stderr
    )
    assert "with other texts: 2 images" in call("inspect", out).stdout
    api.set_texts(tiny_bundle, text=str(bank), out=tmp_path / "plain")
    plain = answers(tmp_path / "plain")["logits"]
    assert np.abs(answers(out)["logits"] - plain / fit.value).max() < 1e-5


@pytest.fixture(scope="module")
def int8_engine(scaled_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8")
    table = calibrated(scaled_bundle, [EXAMPLE / "images"], 24)
    bundle = load_bundle(scaled_bundle)
    plan = uniform_plan(bundle, load_fp32(bundle).graph, Scheme.CPU, "int8")
    # Random weights make labels of narrow margins: all of it in INT8 does not pass verification.
    blocks = {name: "int8" if name.startswith("encoder.stage") else "fp32" for name in plan.blocks}
    plan = replace(plan, blocks=blocks)
    quantize(bundle, folder / "int8", plan=plan, table=load_table(table))
    api.build_engine(folder / "int8", out=folder / "int8.ort.onnx")
    return folder / "int8.ort.onnx"


def test_evaluate_measures_before_and_after(
    scaled_bundle: Path, tiny_bundle: Path, drawn_dataset: Path, tmp_path: Path
) -> None:
    diagram = tmp_path / "d.png"
    result = call("evaluate", scaled_bundle, drawn_dataset, "--json", "--reliability", diagram)
    assert result.exit_code == 0, result.stderr
    assert diagram.read_bytes().startswith(b"\x89PNG")
    found = json.loads(result.stdout)["confidence"]
    assert found["ece"] < 0.02 < found["before"]["ece"]
    assert found["pixels"] == sum(b["pixels"] for b in found["bins"]) == 160 * 220
    assert "temperature was fitted on images" not in result.stderr  # val is not plan
    plain = api.evaluate(
        tiny_bundle, drawn_dataset
    ).confidence  # another bundle, without temperature
    assert plain is not None
    assert (plain.temperature, plain.before) == (None, None)
    assert plain.measured.ece == pytest.approx(found["before"]["ece"], abs=1e-5)
    assert plain.measured.mean_nll == pytest.approx(found["before"]["nll"], abs=1e-5)
    told = call("evaluate", scaled_bundle, drawn_dataset, "--split", "plan")
    assert "fitted on images of 2 of these 2 names" in told.stderr
    assert f"before its temperature {found['temperature']:.3f}" in told.stdout


def test_an_int8_engine_is_measured_too(
    int8_engine: Path, scaled_bundle: Path, drawn_dataset: Path
) -> None:
    fit = load_bundle(scaled_bundle).record.temperature
    found = api.evaluate(int8_engine, drawn_dataset).confidence
    assert fit is not None
    assert found is not None
    assert found.before is not None
    assert found.temperature == fit.value
    assert found.measured.ece < found.before.ece
    of_fp32 = api.evaluate(scaled_bundle, drawn_dataset).confidence
    assert of_fp32 is not None
    assert 0 < abs(found.measured.mean_nll - of_fp32.measured.mean_nll) < 0.2
    told = call("inspect", int8_engine).stdout
    assert f"{fit.value:.3f}, fitted on split plan" in told


def fake_data(root: Path, masks: NDArray[np.uint8] | None, split: str) -> Path:
    """One image of noise with a mask, in one split, beside another split without images' masks."""
    frame = random_frame(64, 64)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    Image.fromarray(frame.pixels).save(root / "images" / "a.png")
    Image.fromarray(frame.pixels).save(root / "images" / "b.png")
    if masks is not None:
        Image.fromarray(masks).save(root / "masks" / "a.png")
    (root / "split.json").write_text(json.dumps({split: ["a"], "train": ["b"]}))
    return root


@pytest.mark.faults
@pytest.mark.parametrize(
    ("what", "split", "said"),
    [
        ("right", "plan", r"no temperature fits: the logits are right almost without exception"),
        ("shifted", "plan", r"no temperature fits: the logits say nothing of the class"),
        ("ignored", "plan", r"no pixel of split 'plan' has a class of"),
        ("right", "val", r"no split 'plan' \(it has val, train\)"),
        ("absent", "plan", r"0 images named a"),
    ],
)
def test_ground_truth_that_nothing_can_be_fitted_on_is_refused(
    what: str, split: str, said: str, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    corners = classes_of(random_frame(64, 64).pixels[::4, ::4])
    right = corners.repeat(4, 0).repeat(4, 1)  # what the fake says of every pixel, but at seams
    masks = {
        "right": np.where(_inner(right), right, 255).astype(np.uint8),
        "shifted": ((right + 1) % 5).astype(np.uint8),
        "ignored": np.full((64, 64), 255, np.uint8),
        "absent": None,
    }
    data = open_dataset(fake_data(tmp_path / "d", masks[what], split), vocabulary)
    segmenter = Segmenter(FakeBackend(64, 64, logits=True), InputSpec(64, 64), vocabulary)
    with pytest.raises(BadInput, match=said) as caught:
        calibrate_confidence(segmenter, data)
    assert "\n" not in str(caught.value)


def _inner(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels that interpolation leaves with the label of their own cell beyond doubt."""
    edge = np.zeros(labels.shape, bool)
    edge[1::4, 1::4] = edge[1::4, 2::4] = edge[2::4, 1::4] = edge[2::4, 2::4] = True
    return edge


def test_images_that_chose_the_checkpoint_are_told(vocabulary: Vocabulary, tmp_path: Path) -> None:
    drawn = drawn_from(logits_of(random_frame(64, 64).pixels), 5.0, 0).repeat(4, 0).repeat(4, 1)
    data = open_dataset(fake_data(tmp_path / "d", drawn, "plan"), vocabulary)
    segmenter = Segmenter(FakeBackend(64, 64, logits=True), InputSpec(64, 64), vocabulary)
    said: list[str] = []
    for images in (("b", "c"), ("a", "b")):
        fit = calibrate_confidence(
            segmenter, data, stopped_on=images,
            report=lambda line, done, total: said.append(line) if not (done or total) else None,
        )  # fmt: skip
        assert fit.images == ("a",)
    (line,) = said
    assert "early stopping chose the checkpoint on 1 of the 1 images of split plan" in line


def test_more_pixels_than_fit_are_thinned_to_the_same_however_rows_arrive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(temperature, "_NUMBERS", 5 * 2000)
    rng = np.random.default_rng(0)
    values = rng.standard_normal((5, 32, 24)).astype(np.float32)
    ground_truth = rng.choice([*range(5), 255], (128, 96)).astype(np.uint8)
    whole = [LogitRows(0, values, 0, 32)]
    parts = [LogitRows(0, values[:, :10], 0, 9), LogitRows(36, values[:, 8:], 1, 24)]
    found = []
    for told in (whole, parts):
        drawn = temperature._Drawn(5)
        read = drawn.reads(ground_truth)
        for rows in told:
            read(rows)
        found.append(drawn.pixels())
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    labels = found[0][1]
    assert 1000 < len(labels) <= 2000 < (ground_truth != 255).sum()
    np.testing.assert_allclose(np.bincount(labels, minlength=5) / len(labels), 0.2, atol=0.05)


@pytest.mark.faults
def test_options_of_a_dataset_go_with_it_and_nothing_is_written_on_a_mistake(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="--mask-suffix goes with --calibrate-confidence"):
        api.export(tiny_checkpoint, out=tmp_path / "b", mask_suffix="_mask")
    result = call("export", tiny_checkpoint, "-o", tmp_path / "b", "--size", "64x96",
                  "--calibrate-confidence", fake_data(tmp_path / "d", None, "plan"))  # fmt: skip
    assert result.exit_code == 1
    assert len([line for line in result.stderr.splitlines() if line.startswith("error:")]) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"d"}
