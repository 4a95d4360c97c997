from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segclip_deploy.artifacts.checkpoint_record import TrainSettings
from segclip_deploy.artifacts.model_spec import ModelSpec
from segclip_deploy.artifacts.records import replace
from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX, Vocabulary
from segclip_deploy.errors import BadArtifact, BadInput, StaleArtifact
from segclip_deploy.evaluation.dataset import open_dataset
from segclip_deploy.model.checkpoint import build_model, load_checkpoint
from segclip_deploy.model.text import TextBank, unit_rows
from segclip_deploy.runtime.io.raster.source import Reading
from segclip_deploy.training.augment import Crops
from segclip_deploy.training.image_cache import ImageCache
from segclip_deploy.training.loop import Progress, one_cycle
from segclip_deploy.training.train import train
from tests.conftest import ROOT

SPEC = ModelSpec(classes=5, text_width=8, encoder="timm:test_efficientnet", width=16)
SETTINGS = TrainSettings(steps=12, crop=64, batch=4, window=64, validate_every=6, save_every=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, vocabulary: Vocabulary) -> Path:
    """Small images whose class shows in their colour."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    splits: dict[str, list[str]] = {"train": [], "plan": []}
    for split, count in (("train", 3), ("plan", 1)):
        for index in range(count):
            name = f"{split}{index}"
            ground_truth = np.kron(rng.integers(0, 5, (3, 4)), np.ones((32, 32))).astype(np.uint8)
            noise = rng.integers(-10, 11, (*ground_truth.shape, 3))
            pixels = np.clip(vocabulary.palette[ground_truth] + noise, 0, 255).astype(np.uint8)
            for folder, array in (("images", pixels), ("masks", ground_truth)):
                (root / folder).mkdir(exist_ok=True)
                Image.fromarray(array).save(root / folder / f"{name}.png")
            splits[split].append(name)
    (root / "split.json").write_text(json.dumps(splits))
    return root


def bank() -> TextBank:
    rng = np.random.default_rng(1)
    return TextBank(
        unit_rows(rng.standard_normal((5, 8))), unit_rows(rng.standard_normal((5, 2, 8))), "random"
    )


RUNNER = """
    import sys
    from pathlib import Path
    import torch
    sys.path.insert(0, {root!r})
    from tests.training.test_train import SETTINGS, SPEC, bank
    from segclip_deploy.evaluation.dataset import open_dataset
    from segclip_deploy.training.crop_loader import Loading
    from segclip_deploy.training.train import train
    from segclip_deploy.artifacts.vocabulary import load_vocabulary

    torch.set_num_threads(1)
    def report(p):
        print(p.step, repr(p.loss), flush=True)
        if p.step == {stop}:
            import time; time.sleep(60)
    train(open_dataset({data!r}, load_vocabulary("dubai")), bank(), SPEC, SETTINGS,
          Path({out!r}), imagenet=False, loading=Loading({workers}, {cache}), report=report)
"""


def run(
    data: Path, out: Path, *, kill_at: int = 0, workers: int = 0, cache: int = 10**9
) -> dict[int, str]:
    """Train in a process of its own, killed after a step if asked; the losses by step."""
    code = RUNNER.format(
        root=str(ROOT), data=str(data), out=str(out), stop=kill_at, workers=workers, cache=cache
    )
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    losses = {}
    assert process.stdout is not None
    for line in process.stdout:
        step, loss = line.split()
        losses[int(step)] = loss
        if int(step) == kill_at:
            os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == (-signal.SIGKILL if kill_at else 0)
    return losses


def test_a_killed_run_goes_on_exactly_where_it_was(data: Path, tmp_path: Path) -> None:
    whole = run(data, tmp_path / "whole.safetensors")
    assert list(whole) == list(range(1, 13))
    killed = run(data, tmp_path / "killed.safetensors", kill_at=7, workers=2, cache=50_000)
    resumed = run(data, tmp_path / "killed.safetensors")
    assert list(resumed) == list(range(7, 13))  # the resume point was step 6
    assert {**killed, **resumed} == whole
    first, second = (load_checkpoint(tmp_path / f"{n}.safetensors") for n in ("whole", "killed"))
    assert all((first.weights[k] == second.weights[k]).all() for k in first.weights)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["killed.safetensors", "whole.safetensors"]


def test_training_learns_and_the_checkpoint_needs_nothing_else(
    data: Path, tmp_path: Path, vocabulary: Vocabulary
) -> None:
    out = tmp_path / "t.safetensors"
    seen: list[Progress] = []
    settings = replace(SETTINGS, steps=60, validate_every=30, learning_rate=1e-2)
    train(
        open_dataset(data, vocabulary),
        bank(),
        SPEC,
        settings,
        out,
        imagenet=False,
        report=seen.append,
    )
    checkpoint = load_checkpoint(out)
    assert checkpoint.training.plan.miou > 0.35  # guessing scores below 0.15
    assert seen[-1].loss < seen[0].loss / 2
    assert checkpoint.examples.shape == (1, 512, 512, 3)
    build_model(checkpoint)


def test_bfloat16_autocast_learns_as_well(
    data: Path, tmp_path: Path, vocabulary: Vocabulary
) -> None:
    losses: dict[bool, list[float]] = {False: [], True: []}
    for bf16, seen in losses.items():
        settings = replace(SETTINGS, steps=6, bf16=bf16)
        out = tmp_path / f"{bf16}.safetensors"
        train(
            open_dataset(data, vocabulary),
            bank(),
            SPEC,
            settings,
            out,
            imagenet=False,
            report=lambda p, seen=seen: seen.append(p.loss),
        )
    assert losses[True] != losses[False]
    np.testing.assert_allclose(losses[True], losses[False], rtol=0.1)


def test_a_resume_point_of_other_settings_is_refused(
    data: Path, tmp_path: Path, vocabulary: Vocabulary
) -> None:
    out = tmp_path / "t.safetensors"

    class Stop(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.step == 2:
            raise Stop

    dataset = open_dataset(data, vocabulary)
    with pytest.raises(Stop):
        train(dataset, bank(), SPEC, SETTINGS, out, imagenet=False, report=stop)
    other = TextBank(bank().classes[::-1].copy(), bank().texts, "random")
    with pytest.raises(StaleArtifact, match="other settings"):
        train(dataset, bank(), SPEC, replace(SETTINGS, batch=2), out, imagenet=False)
    with pytest.raises(StaleArtifact, match="other settings, model, text or images"):
        train(dataset, other, SPEC, SETTINGS, out, imagenet=False)
    turned = dataclasses.replace(dataset, reading=Reading(bands=(3, 2, 1)))
    with pytest.raises(StaleArtifact, match="other settings"):
        train(turned, bank(), SPEC, SETTINGS, out, imagenet=False)
    resume = out.with_name("t.safetensors.resume")
    resume.write_bytes(resume.read_bytes()[:-200])
    with pytest.raises(BadArtifact, match="not readable as a resume point"):
        train(dataset, bank(), SPEC, SETTINGS, out, imagenet=False)


def test_a_finished_checkpoint_is_not_overwritten(
    data: Path, tmp_path: Path, vocabulary: Vocabulary
) -> None:
    out = tmp_path / "t.safetensors"
    out.write_bytes(b"a week of training")
    with pytest.raises(BadInput, match="exists already"):
        train(open_dataset(data, vocabulary), bank(), SPEC, SETTINGS, out, imagenet=False)
    assert out.read_bytes() == b"a week of training"


def test_a_crop_depends_on_seed_and_step_alone_and_moves_image_and_mask_together(
    data: Path, vocabulary: Vocabulary
) -> None:
    crops = Crops(ImageCache(open_dataset(data, vocabulary), "train", 10**8), crop=64, seed=3)

    def draw(step: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        images, ground_truth = zip(*(crops[step, item] for item in range(4)), strict=True)
        return np.stack(images), np.stack(ground_truth)

    images, ground_truth = draw(5)
    again_images, again_ground_truth = draw(5)
    np.testing.assert_array_equal(images, again_images)
    np.testing.assert_array_equal(ground_truth, again_ground_truth)
    assert not np.array_equal(images, draw(6)[0])
    # Relighting shifts colours, but within a crop every class keeps apart from the others.
    for image, mask in zip(images, ground_truth, strict=True):
        present = [k for k in np.unique(mask) if k != IGNORE_INDEX and (mask == k).sum() > 50]
        spread = [image[mask == k].std(0).mean() for k in present]
        assert image[mask != IGNORE_INDEX].std(0).mean() > min(spread)
        assert np.median(spread) < 40


def test_the_schedule_rises_falls_and_ends_near_zero() -> None:
    rates = [one_cycle(i / 100) for i in range(101)]
    peak = int(np.argmax(rates))
    assert rates[peak] == pytest.approx(1, abs=1e-3)
    assert rates == sorted(rates[: peak + 1]) + sorted(rates[peak + 1 :], reverse=True)
    assert 0 < rates[-1] < 1e-3


def test_datasets_that_cannot_be_used_say_why(
    data: Path, tmp_path: Path, vocabulary: Vocabulary
) -> None:
    with pytest.raises(BadInput, match="not a dataset: a dataset has images/"):
        open_dataset(tmp_path, vocabulary)
    with pytest.raises(BadInput, match="no split 'test'"):
        open_dataset(data, vocabulary).names("test")
    for folder, shape, value in (("images", (8, 8, 3), 0), ("masks", (8, 8), 77)):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.full(shape, value, np.uint8)).save(tmp_path / folder / "a.png")
    dataset = open_dataset(tmp_path, vocabulary)
    with pytest.raises(BadInput, match=r"masks/a\.png.*\[77\]"):
        dataset.read("a")
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(tmp_path / "masks" / "a.png")
    with pytest.raises(BadInput, match="mask is 9×8, its image 8×8"):
        dataset.read("a")
    with pytest.raises(BadInput, match="0 images named b"):
        dataset.read("b")
    (tmp_path / "split.json").write_text('{"train": ["a"], "val": ["a"]}')
    with pytest.raises(BadInput, match="a more than once"):
        open_dataset(tmp_path, vocabulary)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(BadInput, match="either steps or a time budget"):
        TrainSettings()
    with pytest.raises(BadInput, match="multiples of 32"):
        TrainSettings(steps=1, crop=100)


def test_learnable_context_is_trained_and_ends_in_the_bank(
    data: Path, tmp_path: Path, vocabulary: Vocabulary
) -> None:
    """The whole path of --context-tokens, with a text tower of random weights."""
    import open_clip
    import torch

    from segclip_deploy.model.text import load_text_bank

    torch.manual_seed(0)
    weights = tmp_path / "clip.pt"
    torch.save(open_clip.create_model("RN50", load_weights=False).state_dict(), weights)
    encoded = load_text_bank(f"open_clip:RN50@{weights}", vocabulary)
    spec = ModelSpec(classes=5, text_width=1024, encoder="timm:test_efficientnet", width=16)
    settings = TrainSettings(steps=2, crop=64, batch=2, window=64, validate_every=2)
    dataset, out = open_dataset(data, vocabulary), tmp_path / "t.safetensors"
    with pytest.raises(BadInput, match=r"--context-tokens.*open_clip:MODEL@WEIGHTS"):
        train(dataset, bank(), SPEC, SETTINGS, out, imagenet=False, context_tokens=2)
    train(dataset, encoded, spec, settings, out, imagenet=False, context_tokens=2)
    trained = load_checkpoint(out).bank
    assert trained.encoder == encoded.encoder
    assert np.abs(trained.classes - encoded.classes).max() > 1e-3  # context words came in front
    np.testing.assert_allclose(trained.texts, encoded.texts, atol=1e-3)
    assert out.stat().st_size < 5e6  # the text tower stayed behind
