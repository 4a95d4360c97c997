"""Prepare: ``train`` and ``import``, which end in a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segclip_deploy._optional import require
from segclip_deploy.api._arguments import (
    TORCH_DEVICES,
    AnyPath,
    check_above,
    check_choice,
    check_range,
    optional_path,
)
from segclip_deploy.errors import UsageError
from segclip_deploy.evaluation.choices import LAYOUT_NAMES
from segclip_deploy.progress import Report, saying, silent

if TYPE_CHECKING:
    from segclip_deploy.artifacts.checkpoint_record import Training
    from segclip_deploy.model.convert import KeyReport
    from segclip_deploy.model.torch_file import KeyList

__all__ = ["import_", "list_keys", "train"]

_ENCODER = "timm:tf_efficientnet_lite0"
_WIDTH = 64


def train(
    dataset: AnyPath,
    *,
    vocabulary: str,
    text: str,
    out: AnyPath,
    layout: str | None = None,
    mask_suffix: str = "",
    bands: tuple[int, int, int] | None = None,
    scale: tuple[float, float] | None = None,
    ignore_alpha: bool = False,
    recipe: AnyPath | None = None,
    time_budget: float | None = None,
    steps: int | None = None,
    encoder: str | None = None,
    imagenet: bool | None = None,
    width: int | None = None,
    context_tokens: int | None = None,
    crop: int | None = None,
    batch: int | None = None,
    zoom: tuple[float, float] | None = None,
    bf16: bool = False,
    fp16: bool = False,
    accumulate: int | None = None,
    device: str = "auto",
    learning_rate: float | None = None,
    seed: int = 0,
    threads: int | None = None,
    workers: int | None = None,
    cache_gb: float = 1.0,
    qat: bool = False,
    from_: AnyPath | None = None,
    plan: AnyPath | None = None,
    report: Report = silent,
) -> Training:
    """Train a SegCLIP, and keep the averaged weights that are best on split ``plan``.

    The same call goes on where a killed one stopped.

        api.train("loveda", vocabulary="loveda", text="bank.npz", out="ckpt.safetensors", steps=2000)

    Args:
        dataset: of any layout (docs/how-to/datasets.md), with splits ``train`` and ``plan``.
        vocabulary: name of a shipped one, or a YAML file.
        text: a text bank (.npz, .safetensors), or ``open_clip:MODEL@WEIGHTS``.
        out: the checkpoint to write (.safetensors).
        layout: segclip-deploy, loveda, uavid, isaid or mmseg; by default what is there decides.
        mask_suffix: what a mask's name has more than its image's: ``"_mask"``.
        bands: which bands of the images are red, green and blue, from 1.
        scale: of more than 8 bits: the values that become 0 and 255.
        ignore_alpha: an alpha band takes no pixel away.
        recipe: loveda, uavid, isaid or a YAML file: options of new models, with their source. What is
            given here goes first.
        time_budget: stop after so many seconds; the learning rate follows the clock.
        steps: or stop after so many steps, which can be repeated.
        encoder: ``timm:NAME`` or ``open_clip:MODEL``; by default EfficientNet-Lite0.
        imagenet: start the encoder from ImageNet weights; by default yes.
        width: working width C, channels; by default 64.
        context_tokens: learnable context (CoOp), tokens; by default 0.
        crop: side of training crops, pixels; by default the recipe's, or 256.
        batch: crops that are in the network at once; by default the recipe's, or 8.
        zoom: least and greatest factor that crops are scaled by; by default the recipe's, or (0.5, 2).
        bf16: bfloat16 autocast, for new models.
        fp16: float16 autocast with scaled gradients, for new models; on a GPU only.
        accumulate: batches a step: the step is that of ``accumulate`` × ``batch`` crops; by default the
            recipe's, or 1.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``: the GPU where PyTorch finds one. Part of what
            repeats a run.
        learning_rate: at its peak; by default the recipe's, or 0.002, with ``qat`` 0.0001.
        seed: of everything that is drawn.
        threads: of the CPU; by default all. Part of what repeats a run.
        workers: processes that read images. 0: this one does. By default 0 where all images fit into
            the cache, else one for each free core, up to 4. They change no loss.
        cache_gb: decoded images that are kept in memory, GB, over all processes.
        qat: fine-tune ``from_`` so that it bears the INT8 of ``plan``.
        from_: the FP32 checkpoint to fine-tune.
        plan: which blocks are INT8 (.yaml).
        report: told how far it is.

    Returns:
        how the checkpoint came to be, with its scores on split ``plan``.

    Raises:
        UsageError: arguments that do not go together.
        BadInput: a dataset, vocabulary or text bank that cannot be used.
        MissingDependency: no torch, or no GPU for ``device="cuda"``.
        StaleArtifact: a run of other settings was stopped there.
    """
    check_choice("--layout", layout, LAYOUT_NAMES)
    check_range("--steps", steps, 1)
    check_above("--time-budget", time_budget, 0)
    check_range("--crop", crop, 32)
    check_above("--learning-rate", learning_rate, 0)
    check_range("--context-tokens", context_tokens, 0)
    check_range("--batch", batch, 2)
    check_range("--accumulate", accumulate, 1)
    check_choice("--device", device, TORCH_DEVICES)
    check_range("--threads", threads, 1)
    check_range("--workers", workers, 0)
    check_range("--cache-gb", cache_gb, 0)
    from segclip_deploy.training.recipe import Recipe, load_recipe

    taken = Recipe(source="") if recipe is None else load_recipe(recipe)
    if recipe is not None and qat:
        raise UsageError("--recipe is for new models; --qat has rates of its own")
    if steps is None and time_budget is None:
        steps = taken.steps
    if (time_budget is None) == (steps is None):
        raise UsageError("give either --time-budget or --steps")
    if (from_ is not None, plan is not None) != (qat, qat):
        raise UsageError("--qat takes --from CKPT and --plan PLAN, and they take --qat")
    of_new = {
        "--encoder": encoder,
        "--imagenet": imagenet,
        "--width": width,
        "--context-tokens": context_tokens,
        "--bf16": bf16 or None,
        "--fp16": fp16 or None,
    }
    given = [option for option, value in of_new.items() if value is not None]
    if qat and given:
        raise UsageError(f"{given[0]} belongs to new models; --from brings its own")
    if bf16 and fp16:
        raise UsageError("--bf16 and --fp16 exclude each other")
    require("torch", why="training")
    from segclip_deploy.artifacts.checkpoint_record import TrainSettings
    from segclip_deploy.artifacts.vocabulary import load_vocabulary
    from segclip_deploy.evaluation.dataset import open_dataset
    from segclip_deploy.model.checkpoint import load_checkpoint
    from segclip_deploy.model.compute import choose_device
    from segclip_deploy.model.text import load_text_bank
    from segclip_deploy.model.threads import torch_threads
    from segclip_deploy.runtime.io.raster.source import Reading
    from segclip_deploy.training.crop_loader import Loading
    from segclip_deploy.training.loop import Progress
    from segclip_deploy.training.qat import FINE_TUNING, fine_tune
    from segclip_deploy.training.train import new_spec
    from segclip_deploy.training.train import train as train_new

    chosen = choose_device(device)
    if fp16 and chosen == "cpu":
        raise UsageError("--fp16 is for a GPU, and this trains on the CPU; there take --bf16")
    words, out, say = load_vocabulary(vocabulary), Path(out), saying(report)
    bank = load_text_bank(text, words)
    reading = Reading(bands, scale, ignore_alpha=ignore_alpha)
    data = open_dataset(dataset, words, layout=layout, mask_suffix=mask_suffix, reading=reading)
    said = taken.under(
        crop=crop, batch=batch, zoom=zoom, accumulate=accumulate, learning_rate=learning_rate
    )
    settings = TrainSettings(
        steps=steps,
        time_budget_s=time_budget,
        bf16=bf16,
        seed=seed,
        device=chosen,
        fp16=fp16,
        **{**(FINE_TUNING if qat else {}), **said},
    )
    if recipe is not None:
        say(f"{recipe}: {taken.source}")
    loading = Loading(workers, int(cache_gb * 1e9))

    def tell(now: Progress) -> None:
        report(f"training, loss {now.loss:.3f}, percent", int(100 * now.fraction), 100)
        if now.plan_miou is not None:
            say(f"step {now.step}: plan mIoU {now.plan_miou:.4f} (best {now.best_miou:.4f})")

    with torch_threads(threads):
        if from_ is not None and plan is not None:
            fine_tune(
                Path(from_),
                Path(plan),
                data,
                bank,
                settings,
                out,
                loading=loading,
                reading=report,
                report=tell,
            )
        else:
            train_new(
                data,
                bank,
                new_spec(words, bank, encoder=encoder or _ENCODER, width=width or _WIDTH),
                settings,
                out,
                imagenet=imagenet is not False,
                context_tokens=context_tokens or 0,
                loading=loading,
                reading=report,
                report=tell,
            )
    training = load_checkpoint(out).training
    assert training is not None  # it was trained just now
    return training


def import_(
    weights: AnyPath,
    *,
    spec: AnyPath,
    vocabulary: str,
    text: str,
    out: AnyPath,
    model: str | None = None,
    key: str | None = None,
    rename: Sequence[tuple[str, str]] = (),
    tiles: AnyPath | None = None,
    allow_left_over: bool = False,
    report: Report = silent,
) -> KeyReport:
    """Turn a PyTorch file into a checkpoint, every key accounted for.

        api.import_("segclip.pth", spec="spec.yaml", vocabulary="uavid", text="bank.npz",
                    out="ckpt.safetensors", rename=[("module.", "")])

    Args:
        weights: a ``.pth`` of tensors; no pickle of objects is opened.
        spec: the model spec (YAML or JSON).
        vocabulary: name of a shipped one, or a YAML file.
        text: a text bank (.npz, .safetensors), or ``open_clip:MODEL@WEIGHTS``.
        out: the checkpoint to write (.safetensors).
        model: your own network, ``package.module:function``. Its code is run.
        key: where in the file the tensors lie, as ``"model.state_dict"``; ``"."`` is the file itself.
        rename: (old prefix, new prefix) of keys, tried in spec.
        tiles: images, of which the checkpoint carries the first two.
        allow_left_over: drop keys that the model has no place for.
        report: told what runs.

    Returns:
        what became of the keys.

    Raises:
        BadArtifact: the file cannot be read, or is a pickle of objects.
        BadInput: keys are missing, of another shape or left over; nothing is written.
        MissingDependency: no torch.
    """
    require("torch", why="reading PyTorch weights")
    from segclip_deploy.artifacts.model_spec import load_spec
    from segclip_deploy.artifacts.vocabulary import load_vocabulary
    from segclip_deploy.model.convert import import_weights
    from segclip_deploy.model.network import load_factory
    from segclip_deploy.model.text import load_text_bank

    if model is not None:
        saying(report)(code_runs(model))
    words = load_vocabulary(vocabulary)
    return import_weights(
        Path(weights),
        load_spec(Path(spec)),
        words,
        load_text_bank(text, words),
        Path(out),
        factory=load_factory(model),
        key=key,
        renames=rename,
        tiles=optional_path(tiles),
        allow_left_over=allow_left_over,
    )


def list_keys(weights: AnyPath) -> KeyList:
    """List what a PyTorch file holds: ``segclip-deploy import WEIGHTS --list``.

        names = [entry.key for entry in api.list_keys("segclip.pth").keys]

    Raises:
        BadArtifact: the file cannot be read, or is a pickle of objects.
        MissingDependency: no torch.
    """
    require("torch", why="reading PyTorch weights")
    from segclip_deploy.model.torch_file import list_keys as keys_of

    return keys_of(Path(weights))


def code_runs(model: str) -> str:
    """The line that says that the code of ``--model`` is about to be run."""
    return f"--model {model}: this code is run, with all rights of yours"
