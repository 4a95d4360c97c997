"""``export``: from a checkpoint to a bundle."""

from __future__ import annotations

from typing import Any

import click

from segclip_deploy import api
from segclip_deploy.cli.inspect import print_folding, temperature_fit
from segclip_deploy.cli.options import (
    PATH,
    camera_frame,
    dataset_options,
    json_option,
    model_option,
    picture_options,
    torch_device_option,
)
from segclip_deploy.cli.options import batches as parse_batches
from segclip_deploy.cli.options import size as parse_size
from segclip_deploy.cli.output import print_json, print_table
from segclip_deploy.cli.progress import spinner, stage_bar

__all__ = ["export"]


@click.command()
@click.argument("checkpoint", type=PATH)
@click.option("-o", "--out", type=PATH, required=True, help="Bundle directory to write.")
@click.option("--size", type=parse_size, help="Input, height first.  [default: 512x512]")
@click.option(
    "--frame",
    type=camera_frame,
    metavar="WIDTHxHEIGHT[,OVERLAP]",
    help="In place of --size: fit the input to a camera's frames, width first, e.g. 1600x900.",
)
@model_option
@click.option(
    "--batch",
    type=parse_batches,
    default="1",
    show_default=True,
    help="Images per inference: 4, or any number in a range: 1..8.",
)
@click.option(
    "--margin", is_flag=True, help="Also output how clear each decision is, 0–255 at stride 4."
)
@click.option(
    "--logits", is_flag=True, help="Also output logits: windows are blended, not cropped."
)
@click.option(
    "--for",
    "for_",
    type=click.Choice(["cpu", "nvidia"]),
    help="Keep the graph for these engines alone.  [default: both]",
)
@click.option("--tiles", type=PATH, help="Images to prove parity on; else the checkpoint's own.")
@torch_device_option("cpu", "That PyTorch computes parity on; auto: the GPU where it finds one.")
@click.option(
    "--calibrate-confidence",
    type=PATH,
    metavar="DATASET",
    help="Fit a temperature on its split plan and divide all logits by it; the options below are of it.",
)
@dataset_options
@picture_options
@json_option
def export(as_json: bool, **options: Any) -> None:
    """Export CHECKPOINT to a bundle: ONNX with the text inside, proven equal to PyTorch."""
    with stage_bar() if options["calibrate_confidence"] else spinner("exporting") as report:
        bundle = api.export(**options, report=report)
    if as_json:
        print_json(bundle.to_json())
        return
    if bundle.record.folding:
        print_folding(bundle.record.folding)
    print_table(
        f"{bundle.path}: equal to {bundle.record.parity[0].reference} on real tiles",
        ["engine", "tiles", "max logit error", "mean", "labels equal"],
        [
            [
                p.engine,
                str(p.tiles),
                f"{p.max_logit_error:.1e}",
                f"{p.mean_logit_error:.1e}",
                f"{p.label_agreement:.4%}",
            ]
            for p in bundle.record.parity
        ],
    )
    if bundle.record.temperature:
        click.echo(f"temperature {temperature_fit(bundle.record)}")
