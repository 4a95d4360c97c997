"""``calibrate`` and ``smooth``: what tiles tell of a bundle's activations."""

from __future__ import annotations

from pathlib import Path

import click

from segclip_deploy.cli.common import (
    PATH,
    json_option,
    print_json,
    print_table,
    stage_bar,
)

__all__ = ["calibrate", "smooth"]

_METHODS = ("percentile", "entropy", "mse", "minmax")
_tiles = click.option(
    "--tiles",
    type=PATH,
    multiple=True,
    required=True,
    help="Images, folders, lists (.txt) or a dataset; may be repeated.",
)
_eval = click.option(
    "--eval", "dataset", type=PATH, help="Dataset that will judge; none of its tiles may be used."
)


@click.command()
@click.argument("bundle", type=PATH)
@_tiles
@click.option("-o", "--out", type=PATH, required=True, help="Table to write (.json).")
@click.option("--method", type=click.Choice(_METHODS), default="percentile", show_default=True)
@click.option("--select", default=256, show_default=True, help="How many tiles to choose.")
@_eval
@click.option("--sheet", type=PATH, help="Contact sheet of the chosen tiles to write (.png).")
@json_option
def calibrate(
    bundle: Path,
    tiles: tuple[Path, ...],
    out: Path,
    method: str,
    select: int,
    dataset: Path | None,
    sheet: Path | None,
    as_json: bool,
) -> None:
    """Measure the ranges of BUNDLE's activations on tiles that cover what it will see.

    Killed? The same command goes on.
    """
    from segclip_deploy.artifacts.bundle import load_bundle
    from segclip_deploy.planning.workflows import calibrate_on

    with stage_bar() as report:
        table, chosen = calibrate_on(
            load_bundle(bundle),
            tiles,
            out,
            method=method,
            select=select,
            exclude=dataset,
            sheet=sheet,
            report=report,
        )
    if as_json:
        print_json(table.to_json())
        return
    coverage = table.coverage
    print_table(
        f"{len(chosen)} of {coverage['pool']} tiles from {coverage['images']} images",
        ["class", "share of the pool", "of the chosen"],
        [
            [name, f"{share['pool']:.2%}", f"{share['chosen']:.2%}"]
            for name, share in coverage["classes"].items()
        ],
    )
    click.echo(f"{out}: {len(table.ranges)} ranges, {method}")


@click.command()
@click.argument("bundle", type=PATH)
@_tiles
@click.option("-o", "--out", type=PATH, required=True, help="Bundle directory to write.")
@click.option(
    "--alpha",
    type=float,
    default=0.5,
    show_default=True,
    help="How much of the loudness moves into the weights, between 0 and 1.",
)
@click.option("--select", default=64, show_default=True, help="How many tiles to choose.")
@_eval
@json_option
def smooth(
    bundle: Path,
    tiles: tuple[Path, ...],
    out: Path,
    alpha: float,
    select: int,
    dataset: Path | None,
    as_json: bool,
) -> None:
    """Even out the loud channels of a ViT in BUNDLE (SmoothQuant), before it is calibrated.

    The result is an FP32 bundle that computes the same; calibrate, plan and quantize that one.
    """
    from segclip_deploy.artifacts.bundle import load_bundle
    from segclip_deploy.planning.workflows import smooth_on

    with stage_bar() as report:
        made = smooth_on(
            load_bundle(bundle),
            tiles,
            out,
            alpha=alpha,
            select=select,
            exclude=dataset,
            report=report,
        )
    if as_json:
        print_json(made.record)
        return
    error = made.record["parity"][-1]["max_logit_error"]
    norms = made.record["smoothing"]["norms"]
    click.echo(f"{out}: {norms} LayerNorms smoothed, logits the same to {error:.1e}")
