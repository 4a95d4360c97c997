"""``calibrate``: what tiles tell of a bundle's activations."""

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
from segclip_deploy.cli.output import print_json, print_table
from segclip_deploy.cli.progress import console, stage_bar

__all__ = ["calibrate"]


@click.command()
@click.argument("bundle", type=PATH)
@tiles_option
@click.option("-o", "--out", type=PATH, required=True, help="Table to write (.json).")
@click.option(
    "--method", type=click.Choice(api.METHOD_NAMES), default="percentile", show_default=True
)
@click.option("--select", default=256, show_default=True, help="How many tiles to choose.")
@evaluation_option
@layout_option
@click.option("--sheet", type=PATH, help="Contact sheet of the chosen tiles to write (.png).")
@reading_options
@json_option
def calibrate(as_json: bool, **options: Any) -> None:
    """Measure the ranges of BUNDLE's activations on tiles that cover what it will see.

    Killed? The same command goes on.
    """
    with stage_bar() as report:
        table = api.calibrate(**options, report=report)
    if as_json:
        print_json(table.to_json())
        return
    coverage = table.coverage
    if coverage.invalid:
        console().print(
            f"{coverage.invalid} tiles left out: pixels that are transparent, masked or no data"
        )
    print_table(
        f"{len(table.tiles)} of {coverage.pool} tiles from {coverage.images} images",
        ["class", "share of the pool", "of the chosen"],
        [
            [name, f"{share.pool:.2%}", f"{share.chosen:.2%}"]
            for name, share in coverage.classes.items()
        ],
    )
    ranges = ", ".join(
        f"{len(measured.ranges)} ranges of the graph for {lowering.value}"
        for lowering, measured in table.graphs.items()
    )
    click.echo(f"{options['out']}: {ranges}, {table.method}")
