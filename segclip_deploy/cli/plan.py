"""``plan``: which blocks are INT8."""

from __future__ import annotations

from typing import Any

import click

from segclip_deploy import api
from segclip_deploy.cli.options import (
    PATH,
    dataset_options,
    floors_option,
    json_option,
    picture_options,
    scheme_option,
)
from segclip_deploy.cli.output import print_json, print_table
from segclip_deploy.cli.progress import stage_bar

__all__ = ["plan"]


@click.command()
@click.argument("bundle", type=PATH)
@click.option("--table", type=PATH, required=True, help="Calibration table.")
@click.option("--eval", type=PATH, required=True, help="Dataset to evaluate on.")
@click.option("--split", help="Of it; keep val for results.  [default: plan, or the only one]")
@dataset_options
@picture_options
@click.option("-o", "--out", type=PATH, required=True, help="Plan to write (.yaml).")
@scheme_option(required=True)
@click.option("--max-miou-drop", type=float, default=0.3, show_default=True, help="Points of mIoU.")
@floors_option
@click.option("--max-latency-ms", type=float, help="Median in OpenVINO here; for cpu.")
@click.option("--heat-map", type=PATH, help="Sensitivity of every block to draw (.png).")
@json_option
def plan(as_json: bool, **options: Any) -> None:
    """Find the fastest mix of INT8 and higher precision that keeps BUNDLE's accuracy.

    Every step is measured on the dataset of --eval. Killed? The same command goes on.
    """
    with stage_bar() as report:
        made = api.plan(**options, report=report)
    if as_json:
        print_json(made.to_json())
        return
    print_table(
        "What INT8 does to each block",
        [
            "block",
            "plan",
            "noise alone, dB",
            "labels equal alone",
            "if excluded",
            "FP32 ms",
            "INT8 ms",
        ],
        [
            [
                e.block,
                made.plan.blocks[e.block],
                f"{e.only.sqnr_db:.1f}",
                f"{e.only.agreement:.2%}",
                f"{e.excluded.agreement:.2%}",
                _ms(e.high_ms),
                _ms(e.int8_ms),
            ]
            for e in made.effects
        ],
    )
    click.echo(f"{options['out']}: {made.worth}")


def _ms(value: float | None) -> str:
    return "absent" if value is None else f"{value:.2f}"
