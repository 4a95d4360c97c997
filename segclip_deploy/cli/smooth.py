"""``smooth``: SmoothQuant, before calibrating."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from segclip_deploy.cli.options import PATH, json_option, judging_option, tiles_option
from segclip_deploy.cli.output import print_json
from segclip_deploy.cli.progress import stage_bar
from segclip_deploy.cli.rasters import reading_of, reading_options

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
    help="How much of the outlier channels moves into the weights, between 0 and 1.",
)
@click.option("--select", default=64, show_default=True, help="How many tiles to choose.")
@judging_option
@reading_options
@json_option
def smooth(
    bundle: Path,
    tiles: tuple[Path, ...],
    out: Path,
    alpha: float,
    select: int,
    dataset: Path | None,
    as_json: bool,
    **rasters: Any,
) -> None:
    """Even out the outlier channels of a ViT in BUNDLE (SmoothQuant), before it is calibrated.

    The result is an FP32 bundle that computes the same; calibrate, plan and quantize that one.
    """
    from segclip_deploy.artifacts.bundle import load_bundle
    from segclip_deploy.artifacts.bundle_record import BUNDLE
    from segclip_deploy.quantization.from_tiles import smooth_on

    with stage_bar() as report:
        made = smooth_on(
            load_bundle(bundle),
            tiles,
            out,
            alpha=alpha,
            select=select,
            exclude=dataset,
            reading=reading_of(rasters),
            report=report,
        )
    if as_json:
        print_json(BUNDLE.dump(made.record))
        return
    error, done = made.record.parity[-1].max_logit_error, made.record.smoothing
    assert done is not None  # it was smoothed just now
    click.echo(f"{out}: {done.norms} LayerNorms smoothed, logits the same to {error:.1e}")
