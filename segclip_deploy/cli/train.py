"""``train``: from a dataset to a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from segclip_deploy.cli.options import (
    PATH,
    checkpoint_option,
    duration,
    json_option,
    mask_suffix_option,
    text_option,
    vocabulary_option,
)
from segclip_deploy.cli.output import print_json
from segclip_deploy.cli.progress import progress_bar
from segclip_deploy.cli.rasters import picture_options, reading_of

__all__ = ["train"]

_OF_NEW_MODELS = ("encoder", "imagenet", "width", "context_tokens", "bf16")


@click.command()
@click.argument("dataset", type=PATH)
@vocabulary_option
@text_option
@checkpoint_option
@mask_suffix_option
@picture_options
@click.option(
    "--time-budget", type=duration, help="Stop after this long; the schedule follows the clock."
)
@click.option(
    "--steps", type=click.IntRange(1), help="Or: stop after this many steps (reproducible)."
)
@click.option("--encoder", default="timm:tf_efficientnet_lite0", show_default=True)
@click.option(
    "--imagenet/--no-imagenet", default=True, help="Start the encoder from ImageNet weights."
)
@click.option("--width", default=64, show_default=True, help="Working width C.")
@click.option(
    "--context-tokens",
    type=click.IntRange(0),
    default=0,
    help="Learnable context (CoOp); needs --text open_clip:…",
)
@click.option("--crop", default=256, show_default=True, help="Side of training crops, pixels.")
@click.option(
    "--batch", type=click.IntRange(2), default=8, show_default=True, help="Crops per step."
)
@click.option("--bf16", is_flag=True, help="bfloat16 autocast: faster where the processor has it.")
@click.option(
    "--learning-rate", type=float, help="Peak; 0.002 by default, with --qat 0.0001.", default=None
)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="CPU threads; all by default. Part of what repeats a run.",
)
@click.option("--qat", is_flag=True, help="Fine-tune --from so that it bears the INT8 of --plan.")
@click.option("--from", "source", type=PATH, help="FP32 checkpoint to fine-tune; with --qat.")
@click.option("--plan", type=PATH, help="Which blocks are INT8 (.yaml); with --qat.")
@json_option
@click.pass_context
def train(
    context: click.Context,
    /,
    dataset: Path,
    vocabulary: str,
    text: str,
    out: Path,
    mask_suffix: str,
    time_budget: float | None,
    steps: int | None,
    encoder: str,
    imagenet: bool,
    width: int,
    context_tokens: int,
    crop: int,
    batch: int,
    bf16: bool,
    learning_rate: float | None,
    seed: int,
    threads: int | None,
    qat: bool,
    source: Path | None,
    plan: Path | None,
    as_json: bool,
    **pictures: Any,
) -> None:
    """Train a SegCLIP on DATASET (images/, masks/, split.json).

    Keeps the averaged weights that are best on split `plan`. Killed? The same command goes on.
    """
    if (time_budget is None) == (steps is None):
        raise click.UsageError("give either --time-budget or --steps")
    if (source is not None, plan is not None) != (qat, qat):
        raise click.UsageError("--qat takes --from CKPT and --plan PLAN, and they take --qat")
    if qat and (fixed := _given(context, _OF_NEW_MODELS)):
        raise click.UsageError(f"{fixed} belongs to new models; --from brings its own")
    from segclip_deploy._optional import require
    from segclip_deploy.artifacts.checkpoint_record import TrainSettings
    from segclip_deploy.artifacts.records import replace as with_values
    from segclip_deploy.artifacts.vocabulary import load_vocabulary
    from segclip_deploy.evaluation.dataset import open_dataset

    torch = require("torch", why="training")
    from segclip_deploy.artifacts.model_spec import ModelSpec
    from segclip_deploy.model.checkpoint import load_checkpoint
    from segclip_deploy.model.encoders import encoder_normalisation
    from segclip_deploy.model.text import load_text_bank
    from segclip_deploy.training.loop import Progress
    from segclip_deploy.training.qat import FINE_TUNING, fine_tune
    from segclip_deploy.training.train import train as run_training

    if threads:
        torch.set_num_threads(threads)
    words = load_vocabulary(vocabulary)
    bank = load_text_bank(text, words)
    data = open_dataset(dataset, words, mask_suffix=mask_suffix, reading=reading_of(pictures))
    settings = TrainSettings(
        steps=steps,
        time_budget_s=time_budget,
        crop=crop,
        batch=batch,
        bf16=bf16,
        seed=seed,
        **(FINE_TUNING if qat else {}),
    )
    if learning_rate is not None:
        settings = with_values(settings, learning_rate=learning_rate)
    with progress_bar("%") as bar:
        task = bar.add_task("training", total=100)

        def report(now: Progress) -> None:
            bar.update(
                task,
                completed=100 * now.fraction,
                description=f"step {now.step}, loss {now.loss:.3f}",
            )
            if now.plan_miou is not None:
                best = f"best {now.best_miou:.4f}"
                bar.console.print(f"step {now.step}: plan mIoU {now.plan_miou:.4f} ({best})")

        if source and plan:
            fine_tune(source, plan, data, bank, settings, out, report=report)
        else:
            mean, std = encoder_normalisation(encoder)
            spec = ModelSpec(
                classes=len(words.classes),
                text_width=bank.classes.shape[1],
                encoder=encoder,
                width=width,
                mean=mean,
                std=std,
            )
            run_training(
                data,
                bank,
                spec,
                settings,
                out,
                imagenet=imagenet,
                context_tokens=context_tokens,
                report=report,
            )
    record = load_checkpoint(out).training
    assert record is not None  # it was trained just now
    if as_json:
        print_json(record.to_json())
    else:
        click.echo(f"{out}: plan mIoU {record.plan.miou:.4f} at step {record.step}")


def _given(context: click.Context, names: tuple[str, ...]) -> str:
    """The first of these options that is on the command line."""
    source = context.get_parameter_source
    given = (name for name in names if source(name) is not ParameterSource.DEFAULT)
    return next((f"--{name.replace('_', '-')}" for name in given), "")
