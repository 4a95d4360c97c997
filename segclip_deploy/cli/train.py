"""``train``: from a dataset to a checkpoint."""

from __future__ import annotations

from typing import Any

import click

from segclip_deploy import api
from segclip_deploy.cli.options import (
    PATH,
    checkpoint_option,
    dataset_options,
    duration,
    json_option,
    picture_options,
    text_option,
    torch_device_option,
    training_run_options,
    vocabulary_option,
)
from segclip_deploy.cli.output import print_json
from segclip_deploy.cli.progress import stage_bar

__all__ = ["train"]


@click.command()
@click.argument("dataset", type=PATH)
@vocabulary_option
@text_option
@checkpoint_option
@dataset_options
@picture_options
@click.option(
    "--recipe",
    help="Options of new models for loveda, uavid or isaid, or a YAML file; what is given here "
    "goes first.",
)
@click.option(
    "--time-budget", type=duration, help="Stop after this long; the schedule follows the clock."
)
@click.option(
    "--steps", type=click.IntRange(1), help="Or: stop after this many steps (reproducible)."
)
@click.option("--encoder", help="[default: timm:tf_efficientnet_lite0]")
@click.option(
    "--imagenet/--no-imagenet",
    default=None,
    help="Start the encoder from ImageNet weights.  [default: imagenet]",
)
@click.option("--width", type=int, help="Working width C.  [default: 64]")
@click.option(
    "--context-tokens",
    type=click.IntRange(0),
    help="Learnable context (CoOp); needs --text open_clip:…  [default: 0]",
)
@click.option(
    "--crop", type=click.IntRange(32), help="Side of training crops, pixels.  [default: 256]"
)
@click.option(
    "--batch",
    type=click.IntRange(2),
    help="Crops that are in the network at once.  [default: 8]",
)
@click.option(
    "--zoom",
    type=(float, float),
    help="Least and greatest factor that crops are scaled by.  [default: 0.5 2]",
)
@click.option(
    "--accumulate",
    type=click.IntRange(1),
    help="Batches per step: a larger batch in the memory of a small one.  [default: 1]",
)
@torch_device_option("auto", "auto: the GPU where PyTorch finds one. Part of what repeats a run.")
@click.option("--bf16", is_flag=True, help="bfloat16 autocast: faster where the device has it.")
@click.option("--fp16", is_flag=True, help="float16 autocast, gradients scaled; on a GPU only.")
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, min_open=True),
    help="Peak; 0.002 by default, with --qat 0.0001.",
    default=None,
)
@training_run_options
@click.option("--qat", is_flag=True, help="Fine-tune --from so that it bears the INT8 of --plan.")
@click.option("--from", "from_", type=PATH, help="FP32 checkpoint to fine-tune; with --qat.")
@click.option("--plan", type=PATH, help="Which blocks are INT8 (.yaml); with --qat.")
@json_option
def train(as_json: bool, **options: Any) -> None:
    """Train a SegCLIP on DATASET, as it was downloaded (docs/how-to/datasets.md).

    Keeps the averaged weights that are best on split `plan`. Killed? The same command goes on.
    """
    with stage_bar() as report:
        training = api.train(**options, report=report)
    if as_json:
        print_json(training.to_json())
    else:
        click.echo(f"{options['out']}: plan mIoU {training.plan.miou:.4f} at step {training.step}")
