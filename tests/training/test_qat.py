"""Fine-tuning under fake quantization: what is rounded, what comes out, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segclip_deploy.artifacts import records
from segclip_deploy.artifacts.bundle import InputSpec, load_bundle
from segclip_deploy.artifacts.checkpoint_record import TuningParents
from segclip_deploy.artifacts.files import sha256_file
from segclip_deploy.artifacts.plan import PrecisionPlan, save_plan
from segclip_deploy.artifacts.scheme import Lowering, Scheme
from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.calibration.selection import select_tiles
from segclip_deploy.calibration.table import load_table
from segclip_deploy.calibration.tiles import find_tiles
from segclip_deploy.evaluation.dataset import open_dataset
from segclip_deploy.export.export import export_bundle
from segclip_deploy.export.graph import normalise
from segclip_deploy.export.onnx_model import load_model, save_model
from segclip_deploy.export.parity import answers_of, sqnr
from segclip_deploy.model.checkpoint import build_model, load_checkpoint
from segclip_deploy.model.segclip import SegCLIP
from segclip_deploy.model.text import save_text_bank
from segclip_deploy.quantization.placement import place, uniform_plan
from segclip_deploy.quantization.qdq import write_qdq
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from segclip_deploy.training.fake_quant import FakeQuant, observe, operators_of
from segclip_deploy.training.loop import Progress
from segclip_deploy.training.qat import FINE_TUNING, fine_tune
from segclip_deploy.training.train import train
from tests.conftest import EXAMPLE
from tests.support.helpers import call
from tests.training.test_train import SETTINGS, SPEC, bank, data

__all__ = ["data"]  # a fixture

TUNING = records.replace(SETTINGS, steps=4, **{**FINE_TUNING, "validate_every": 2})


def own_weights(block: str) -> bool:
    """Blocks whose weights go into the graph as they are."""
    return block.startswith(("encoder.", "decoder."))


def decoding(model: SegCLIP, checkpoint: Any) -> Callable[[Any], Any]:
    classes, texts = map(torch.from_numpy, (checkpoint.bank.classes, checkpoint.bank.texts))

    def run(pixels: Any) -> Any:
        image = normalise(torch.from_numpy(pixels), model.spec.mean, model.spec.std)
        return model.decode(image, classes, texts)

    return run


@pytest.mark.parametrize("scheme", Scheme, ids=lambda scheme: scheme.value)
@pytest.mark.parametrize("some", [(), ("encoder.stem", "encoder.stage1"), ("decoder.8",)])
def test_pytorch_rounds_what_the_graph_rounds(
    some: tuple[str, ...],
    scheme: Scheme,
    tiny_checkpoint: Path,
    tiny_bundle: Path,
    tiny_table: Path,
    tmp_path: Path,
) -> None:
    """As many tensors in the same ranges; of few blocks, where noise has no time to spread, the same."""
    bundle = load_bundle(tiny_bundle).for_scheme(scheme)
    checkpoint = load_checkpoint(tiny_checkpoint)
    model, onnx_model = build_model(checkpoint), load_model(bundle.model_path)
    whole = uniform_plan(bundle, onnx_model.graph, scheme, "int8")
    low = [name for name in whole.blocks if name in some or (not some and own_weights(name))]
    high = {name: "fp32" for name in whole.blocks if name not in low}
    plan = records.replace(whole, blocks={**whole.blocks, **high})
    placement = place(onnx_model.graph, scheme, plan.int8)
    nodes = {node.name: node for node in onnx_model.graph}
    read = {nodes[name].inputs[index].name for name, index in placement.reads}

    tiles = select_tiles(find_tiles([EXAMPLE / "images"], bundle.input), 24)
    pixels = [tile[None] for _, tile in tiles]
    run = decoding(model, checkpoint)
    ranges = observe(model, plan, run, pixels)
    fake = FakeQuant(model, plan, ranges)
    assert len(fake.paths) == len(placement.weights) > 0
    table = load_table(tiny_table).of(bundle.lowering).ranges
    for kind in ("low", "high", "magnitude"):
        ours = sorted(getattr(span, kind) for span in ranges.values())
        theirs = sorted(getattr(table[name], kind) for name in read)
        np.testing.assert_allclose(ours, theirs, rtol=5e-3, atol=1e-3)

    write_qdq(onnx_model.graph, placement, table, scheme)
    save_model(onnx_model, tmp_path / "m.onnx")
    backend = OnnxRuntimeBackend(tmp_path / "m.onnx", reference=True)
    wanted = answers_of(backend, np.concatenate(pixels[:4])).logits
    with torch.inference_mode():
        plain = run(np.concatenate(pixels[:4])).logits.numpy()
        with fake:
            got = run(np.concatenate(pixels[:4])).logits.numpy()
    if some:
        assert sqnr(wanted, got) > sqnr(wanted, plain) + 15


def test_every_convolution_of_the_example_is_fake_quantized() -> None:
    model = build_model(load_checkpoint(EXAMPLE / "model.safetensors"))
    blocks = operators_of(model)
    assert len(blocks) == 56  # as many as test_placement counts in the graph
    plan = PrecisionPlan(Scheme.TENSORRT, "", dict.fromkeys(blocks.values(), "int8"))
    assert len(FakeQuant(model, plan, {}).paths) == 56


def test_rounding_lets_gradients_through_to_every_weight_that_is_rounded(
    tiny_checkpoint: Path,
) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    model, plan = build_model(checkpoint), int8_everywhere(tiny_checkpoint)
    run = decoding(model, checkpoint)
    ranges = observe(model, plan, run, [checkpoint.examples[:1]])
    with FakeQuant(model, plan, ranges) as fake:
        run(checkpoint.examples[:1]).logits.square().sum().backward()
    for path in fake.paths.values():
        gradient = model.get_submodule(path).weight.grad
        assert gradient is not None
        assert gradient.abs().max() > 0, path


def int8_everywhere(checkpoint: Path) -> PrecisionPlan:
    blocks = operators_of(build_model(load_checkpoint(checkpoint))).values()
    return PrecisionPlan(
        Scheme.TENSORRT, "0" * 64, {**dict.fromkeys(blocks, "int8"), "head": "fp16"}
    )


@pytest.fixture(scope="module")
def parent(data: Path, tmp_path_factory: pytest.TempPathFactory, vocabulary: Vocabulary) -> Path:
    """A small checkpoint that has learnt something; its plan and its text bank beside it."""
    folder = tmp_path_factory.mktemp("parent")
    settings = records.replace(SETTINGS, steps=40, validate_every=40, learning_rate=1e-2)
    out = folder / "parent.safetensors"
    train(open_dataset(data, vocabulary), bank(), SPEC, settings, out, imagenet=False)
    save_plan(folder / "plan.yaml", int8_everywhere(out))
    save_text_bank(folder / "text.safetensors", bank())
    return out


def tune(
    parent: Path, data: Path, out: Path, vocabulary: Vocabulary, stop_at: int = 0, **settings: Any
) -> list[float]:
    """Losses by step."""
    losses = []

    def report(now: Progress) -> None:
        losses.append(now.loss)
        if now.step == stop_at:
            raise InterruptedError

    fine_tune(
        parent,
        parent.with_name("plan.yaml"),
        open_dataset(data, vocabulary),
        bank(),
        records.replace(TUNING, **settings),
        out,
        report=report,
    )
    return losses


def test_fine_tuning_brings_int8_nearer_to_its_teacher_and_leaves_an_ordinary_checkpoint(
    parent: Path, data: Path, tmp_path: Path, vocabulary: Vocabulary
) -> None:
    out = tmp_path / "t.safetensors"
    losses = tune(parent, data, out, vocabulary, steps=20, learning_rate=2e-3)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    before, after = load_checkpoint(parent), load_checkpoint(out)
    build_model(after)
    assert after.weights.keys() == before.weights.keys()
    assert (after.spec, after.vocabulary) == (before.spec, before.vocabulary)
    statistics = [name for name in after.weights if "running" in name]
    assert statistics
    assert all(torch.equal(before.weights[n], after.weights[n]) for n in statistics)
    moved = [n for n in after.weights if not torch.equal(before.weights[n], after.weights[n])]
    assert len(moved) > 50
    assert after.training.parents == TuningParents(
        checkpoint=sha256_file(parent), plan=sha256_file(parent.with_name("plan.yaml"))
    )
    assert "encoder.stem" in after.training.int8
    exported = export_bundle(
        out, tmp_path / "bundle", spec=InputSpec(64, 96), lowerings=[Lowering.CPU]
    )
    assert exported.record.trained_for_int8 == after.training.int8
    shutil.rmtree(tmp_path / "bundle")
    assert [p.name for p in tmp_path.iterdir()] == ["t.safetensors"]


def test_a_killed_run_goes_on_to_the_same_weights(
    parent: Path, data: Path, tmp_path: Path, vocabulary: Vocabulary
) -> None:
    whole = tune(parent, data, tmp_path / "whole.safetensors", vocabulary)
    with pytest.raises(InterruptedError):
        tune(parent, data, tmp_path / "killed.safetensors", vocabulary, stop_at=3)
    rest = tune(parent, data, tmp_path / "killed.safetensors", vocabulary)
    assert rest == whole[2:]
    first, second = (load_checkpoint(tmp_path / f"{n}.safetensors") for n in ("whole", "killed"))
    assert all(torch.equal(first.weights[k], second.weights[k]) for k in first.weights)


def arguments(parent: Path, data: Path, out: Path, **changes: object) -> list[object]:
    options: dict[str, object] = {
        "--vocabulary": "dubai",
        "--text": parent.with_name("text.safetensors"),
        "--from": parent,
        "--plan": parent.with_name("plan.yaml"),
        "-o": out,
        "--steps": 1,
        "--crop": 64,
        "--batch": 2,
    } | {f"--{name}": value for name, value in changes.items()}
    given = [(name, value) for name, value in options.items() if value is not None]
    return ["train", data, "--qat", *(word for pair in given for word in pair)]


def test_the_command_fine_tunes(parent: Path, data: Path, tmp_path: Path) -> None:
    result = call(*arguments(parent, data, tmp_path / "t.safetensors"))
    assert result.exit_code == 0, result.output
    assert "plan mIoU" in result.stdout
    assert load_checkpoint(tmp_path / "t.safetensors").training.settings.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"from": None}, 2, "--qat takes --from CKPT and --plan PLAN"),
        ({"plan": None}, 2, "--qat takes --from CKPT and --plan PLAN"),
        ({"width": 32}, 2, "--width belongs to new models"),
        ({"learning-rate": 1e30}, 1, "the loss is not finite at step 1; lower --learning-rate"),
        ({"text": EXAMPLE / "text_bank.safetensors"}, 1, "was trained with other text"),
        ({"plan": "other.yaml"}, 1, "made for another model: this one has no block encoder.stage9"),
        ({"plan": "less.yaml"}, 1, "made for another model: it does not name encoder.stem"),
        ({"plan": "high.yaml"}, 1, "has no int8 block that can be trained for it; write int8"),
        ({"from": "absent.safetensors"}, 1, "no such checkpoint"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing(
    changes: dict[str, Any], code: int, said: str, parent: Path, data: Path, tmp_path: Path
) -> None:
    plan = int8_everywhere(parent)
    without = {name: kind for name, kind in plan.blocks.items() if name != "encoder.stem"}
    for name, blocks in (
        ("other", {**plan.blocks, "encoder.stage9": "int8"}),
        ("less", without),
        ("high", dict.fromkeys(plan.blocks, "fp16")),
    ):
        save_plan(tmp_path / f"{name}.yaml", records.replace(plan, blocks=blocks))
    for name, value in changes.items():
        if isinstance(value, str):
            changes = {**changes, name: tmp_path / value}
    out = tmp_path / "t.safetensors"
    extra = {"steps": 3} if "learning-rate" in changes else {}
    result = call(*arguments(parent, data, out, **changes, **extra))
    assert result.exit_code == code, result.output
    assert said in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert not list(tmp_path.glob("t.safetensors*"))


def test_options_of_fine_tuning_need_it(parent: Path, data: Path, tmp_path: Path) -> None:
    words = arguments(parent, data, tmp_path / "t.safetensors")
    words.remove("--qat")
    result = call(*words)
    assert result.exit_code == 2
    assert "they take --qat" in result.stderr
