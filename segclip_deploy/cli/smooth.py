"""``smooth``: SmoothQuant, before calibrating."""

from __future__ import annotations

from typing import Any

import click

from segclip_deploy import api
from segclip_deploy.cli.options import (
    PATH,
    evaluation_option,
    json_option,
    layout_option,
    reading_options,
    tiles_option,
)
from segclip_deploy.cli.output import print_json
from segclip_deploy.cli.progress import stage_bar

__all__ = ["smooth"]


@click.command()
@click.argument("bundle", type=PATH)
@tiles_option
@click.option("-o", "--out", type=PATH, required=True, help="Bundle directory to write.")
@click.option(
    "--alpha",
    type=float,
    default=0.5,
    show_default=True,
    help="How much of an outlier moves into the weights, between 0 and 1.",
)
@click.option("--select", default=64, show_default=True, help="How many tiles to choose.")
@evaluation_option
@layout_option
@reading_options
@json_option
def smooth(as_json: bool, **options: Any) -> None:
    """Even out the outlier channels of a ViT in BUNDLE (SmoothQuant), before it is calibrated.

    The result is an FP32 bundle that computes the same; calibrate, plan and quantize that one.
    """
    with stage_bar() as report:
        made = api.smooth(**options, report=report)
    if as_json:
        print_json(made.to_json())
        return
    error, done = made.record.parity[-1].max_logit_error, made.record.smoothing
    assert done is not None  # it was smoothed just now
    click.echo(f"{made.path}: {done.norms} LayerNorms smoothed, logits the same to {error:.1e}")
