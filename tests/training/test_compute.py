"""Where a training computes, in which precision, and how many batches make a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segclip_deploy import api
from segclip_deploy.artifacts.checkpoint_record import TrainSettings
from segclip_deploy.artifacts.records import replace
from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX, Vocabulary
from segclip_deploy.errors import BadInput, MissingDependency, UsageError
from segclip_deploy.evaluation.dataset import open_dataset
from segclip_deploy.model.compute import choose_device, repeatable
from segclip_deploy.model.prompts import FixedText
from segclip_deploy.model.segclip import SegCLIP
from segclip_deploy.model.text import save_text_bank
from segclip_deploy.training.loop import Progress, Trainer
from segclip_deploy.training.losses import segmentation_loss
from tests.training.test_qat import parent, tune
from tests.training.test_train import SETTINGS, SPEC, bank, data

__all__ = ["data", "parent"]  # fixtures


class Stop(Exception):
    pass


class Frozen(Trainer):
    """Without what a batch is normalised by, which is all that many small ones cannot know."""

    def _loss(self, image: Tensor, ground_truth: Tensor) -> Tensor:
        self.trained.eval()
        output = self.trained.model.decode(image, self.trained.text(), self.texts)
        return segmentation_loss(output, ground_truth)


def losses_of(
    kind: type[Trainer],
    data: Path,
    out: Path,
    vocabulary: Vocabulary,
    settings: TrainSettings,
    stop_at: int = 0,
) -> list[float]:
    torch.manual_seed(0)
    seen: list[float] = []

    def report(now: Progress) -> None:
        seen.append(now.loss)
        if now.step == stop_at:
            raise Stop

    dataset = open_dataset(data, vocabulary)
    trainer = kind(SegCLIP(SPEC), FixedText(bank()), bank(), dataset, settings, out)
    if stop_at:
        with pytest.raises(Stop):
            trainer.run(report)
    else:
        trainer.run(report)
    return seen


def test_batches_of_a_step_are_one_batch_of_all_their_crops(
    data: Path, tmp_path: Path, vocabulary: Vocabulary
) -> None:
    """Crops leave the images, so that each batch has another number of labelled pixels."""
    settings = replace(SETTINGS, steps=3, validate_every=3)
    found = {}
    for batch, accumulate in ((8, 1), (4, 2), (2, 4)):
        chosen = replace(settings, batch=batch, accumulate=accumulate)
        out = tmp_path / f"{batch}.safetensors"
        found[batch] = losses_of(Frozen, data, out, vocabulary, chosen)
    assert len(set(found[8])) == 3
    # Float32 adds up in another order; Adam makes steps of one size of gradients however small.
    np.testing.assert_allclose(found[4], found[8], rtol=1e-3)
    np.testing.assert_allclose(found[2], found[8], rtol=1e-3)
    np.testing.assert_allclose(found[4][0], found[8][0], rtol=1e-6)


def test_fine_tuning_takes_several_batches_a_step_too(
    parent: Path, data: Path, tmp_path: Path, vocabulary: Vocabulary
) -> None:
    whole = tune(parent, data, tmp_path / "a.safetensors", vocabulary, steps=2, batch=4)
    parts = tune(
        parent, data, tmp_path / "b.safetensors", vocabulary, steps=2, batch=2, accumulate=2
    )
    # The first is before any step; the rounding of INT8 makes jumps of what float32 adds otherwise.
    np.testing.assert_allclose(parts[0], whole[0], rtol=1e-4)
    np.testing.assert_allclose(parts[1], whole[1], rtol=0.05)


def test_a_run_of_several_batches_goes_on_where_it_was_killed(
    data: Path, tmp_path: Path, vocabulary: Vocabulary
) -> None:
    settings = replace(SETTINGS, steps=6, batch=2, accumulate=2)
    whole = losses_of(Trainer, data, tmp_path / "a.safetensors", vocabulary, settings)
    out = tmp_path / "b.safetensors"
    first = losses_of(Trainer, data, out, vocabulary, settings, stop_at=3)
    assert first == whole[:3]
    assert losses_of(Trainer, data, out, vocabulary, settings) == whole[2:]


def test_nothing_labelled_is_no_loss() -> None:
    model = SegCLIP(SPEC)
    text = bank()
    output = model.decode(
        torch.rand(2, 3, 64, 64), torch.from_numpy(text.classes), torch.from_numpy(text.texts)
    )
    assert segmentation_loss(output, torch.full((2, 64, 64), IGNORE_INDEX)).item() == 0


def test_the_device_is_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [choose_device(asked) for asked in ("auto", "cpu", "cuda")] == ["cuda", "cpu", "cuda"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [choose_device(asked) for asked in ("auto", "cpu")] == ["cpu", "cpu"]
    for built, said in ((None, "is built without CUDA"), ("13.0", "finds no NVIDIA GPU")):
        monkeypatch.setattr(torch.version, "cuda", built)
        with pytest.raises(MissingDependency, match=said) as caught:
            choose_device("cuda")
        assert str(caught.value).startswith("--device cuda: PyTorch ")
        assert "take --device cpu, or" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"fp16": True}, "--fp16 is for a GPU.*--bf16"),
        ({"fp16": True, "bf16": True}, "exclude each other"),
        ({"device": "cuda:1"}, "'cuda:1' is not one of auto, cpu, cuda"),
        (
            {"fp16": True, "qat": True, "from_": "a", "plan": "b"},
            "--fp16 belongs to new models",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_read(
    given: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "t.safetensors"
    with pytest.raises(UsageError, match=said):
        api.train("absent", vocabulary="dubai", text="absent", out=out, steps=1, **given)


def test_the_checkpoint_says_what_computed_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    save_text_bank(tmp_path / "text.safetensors", bank())
    training = api.train(
        data,
        vocabulary="dubai",
        text=str(tmp_path / "text.safetensors"),
        out=tmp_path / "t.safetensors",
        encoder=SPEC.encoder,
        imagenet=False,
        width=16,
        crop=64,
        batch=2,
        accumulate=2,
        steps=1,
        workers=1,
        cache_gb=0,
    )
    settings = training.settings
    assert (settings.device, settings.fp16, settings.accumulate) == ("cpu", False, 2)


def test_settings_of_two_half_precisions_or_of_float16_on_a_cpu_are_refused() -> None:
    with pytest.raises(BadInput, match="not in both"):
        TrainSettings(steps=1, fp16=True, bf16=True, device="cuda")
    with pytest.raises(BadInput, match="float16 is for a GPU"):
        TrainSettings(steps=1, fp16=True)
    assert TrainSettings(steps=1, fp16=True, device="cuda").fp16


def test_how_pytorch_computes_is_as_before_after_training() -> None:
    cudnn = torch.backends.cudnn

    def state() -> tuple[bool, ...]:
        tf32, benchmark = cudnn.allow_tf32, cudnn.benchmark
        return torch.are_deterministic_algorithms_enabled(), tf32, benchmark

    before = state()
    with repeatable("cpu"):
        assert state() == before
    with repeatable("cuda"):  # sets switches, and needs no GPU
        assert state() == (True, False, False)
    assert state() == before


def test_an_engine_takes_no_device(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="an engine has its own"):
        api.evaluate(tmp_path / "e.ov.onnx", tmp_path, device="cpu")


# ---- on a GPU

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("precision", [{}, {"bf16": True}, {"fp16": True}], ids=str)
def test_a_gpu_repeats_its_losses_also_after_a_kill(
    precision: dict[str, Any], data: Path, tmp_path: Path, vocabulary: Vocabulary
) -> None:
    settings = replace(SETTINGS, device="cuda", **precision)
    whole = losses_of(Trainer, data, tmp_path / "a.safetensors", vocabulary, settings)
    out = tmp_path / "b.safetensors"
    assert losses_of(Trainer, data, out, vocabulary, settings, stop_at=7) == whole[:7]
    assert losses_of(Trainer, data, out, vocabulary, settings) == whole[6:]
    on_cpu = replace(SETTINGS, steps=2)
    near = losses_of(Trainer, data, tmp_path / "c.safetensors", vocabulary, on_cpu)
    np.testing.assert_allclose(whole[0], near[0], rtol=0.1 if precision else 1e-3)


@pytest.mark.gpu
@needs_cuda
def test_fine_tuning_on_a_gpu_repeats_its_losses(
    parent: Path, data: Path, tmp_path: Path, vocabulary: Vocabulary
) -> None:
    whole = tune(parent, data, tmp_path / "a.safetensors", vocabulary, device="cuda")
    with pytest.raises(InterruptedError):
        tune(parent, data, tmp_path / "b.safetensors", vocabulary, stop_at=3, device="cuda")
    assert tune(parent, data, tmp_path / "b.safetensors", vocabulary, device="cuda") == whole[2:]
    near = tune(parent, data, tmp_path / "c.safetensors", vocabulary, steps=2)
    np.testing.assert_allclose(whole[0], near[0], rtol=0.05)


@pytest.mark.gpu
@needs_cuda
def test_a_gpu_proves_an_export_and_scores_a_checkpoint(
    tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    bundle = api.export(tiny_checkpoint, out=tmp_path / "b", size=(64, 96), device="cuda")
    assert [link.engine.endswith("on cuda") for link in bundle.record.parity] == [True, False]
    on_gpu, on_cpu = (
        api.evaluate(tiny_checkpoint, data, split="plan", device=device).scores
        for device in ("cuda", "cpu")
    )
    assert on_gpu.pixel_accuracy == pytest.approx(on_cpu.pixel_accuracy, abs=1e-3)
