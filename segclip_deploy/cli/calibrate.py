"""``calibrate``: what tiles tell of a bundle's activations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from segclip_deploy.cli.options import PATH, json_option, judging_option, tiles_option
from segclip_deploy.cli.output import print_json, print_table
from segclip_deploy.cli.progress import console, stage_bar
from segclip_deploy.cli.rasters import reading_of, reading_options

__all__ = ["calibrate"]

_METHODS = ("percentile", "entropy", "mse", "minmax")


@click.command()
@click.argument("bundle", type=PATH)
@tiles_option
@click.option("-o", "--out", type=PATH, required=True, help="Table to write (.json).")
@click.option("--method", type=click.Choice(_METHODS), default="percentile", show_default=True)
@click.option("--select", default=256, show_default=True, help="How many tiles to choose.")
@judging_option
@click.option("--sheet", type=PATH, help="Contact sheet of the chosen tiles to write (.png).")
@reading_options
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
    **rasters: Any,
) -> None:
    """Measure the ranges of BUNDLE's activations on tiles that cover what it will see.

    Killed? The same command goes on.
    """
    from segclip_deploy.artifacts.bundle import load_bundle
    from segclip_deploy.calibration.table import TABLE
    from segclip_deploy.quantization.from_tiles import calibrate_on

    with stage_bar() as report:
        table, chosen = calibrate_on(
            load_bundle(bundle),
            tiles,
            out,
            method=method,
            select=select,
            exclude=dataset,
            sheet=sheet,
            reading=reading_of(rasters),
            report=report,
        )
    if as_json:
        print_json(TABLE.dump(table))
        return
    coverage = table.coverage
    if coverage.invalid:
        console().print(
            f"{coverage.invalid} tiles left out: pixels that are transparent, masked or no data"
        )
    print_table(
        f"{len(chosen)} of {coverage.pool} tiles from {coverage.images} images",
        ["class", "share of the pool", "of the chosen"],
        [
            [name, f"{share.pool:.2%}", f"{share.chosen:.2%}"]
            for name, share in coverage.classes.items()
        ],
    )
    click.echo(f"{out}: {len(table.ranges)} ranges, {method}")
