"""``evaluate``: how good an engine's labels are."""

from __future__ import annotations

from typing import Any

import click

from segclip_deploy import api
from segclip_deploy.cli.options import (
    PATH,
    dataset_options,
    json_option,
    overlap_option,
    picture_options,
    threads_option,
    torch_device_option,
)
from segclip_deploy.cli.output import print_json, print_table
from segclip_deploy.cli.progress import stage_bar

__all__ = ["evaluate"]


@click.command()
@click.argument("engine", type=PATH)
@click.argument("dataset", type=PATH)
@click.option("--split", help="[default: val, or the only one]")
@click.option(
    "--protocol",
    type=click.Choice(api.PROTOCOL_NAMES),
    default="joined",
    show_default=True,
    help="joined: each image whole, as it flies. isaid-patches: as figures on iSAID are published.",
)
@dataset_options
@picture_options
@overlap_option
@threads_option
@torch_device_option(
    None, "Of a checkpoint; auto: the GPU where PyTorch finds one.  [default: auto]"
)
@click.option(
    "--reliability",
    type=PATH,
    metavar="FILE.png",
    help="A reliability diagram to draw; ENGINE must output logits.",
)
@json_option
def evaluate(as_json: bool, **options: Any) -> None:
    """Score ENGINE (an engine, a bundle, or a checkpoint in PyTorch) on DATASET.

    Where ENGINE outputs logits: also whether its probabilities are right as often as they say.
    """
    with stage_bar() as report:
        result = api.evaluate(**options, report=report)
    if as_json:
        print_json(result.to_json())
        return
    scores = result.scores
    print_table(
        f"{result.vocabulary}, split {result.split}, {len(scores.images)} images, {result.engine}",
        ["class", "IoU", "boundary IoU"],
        [
            [name, _score(iou), _score(scores.boundary_iou[name])]
            for name, iou in scores.iou.items()
        ],
    )
    protocol = result.protocol
    click.echo(
        f"{protocol.name}: {protocol.says}" + (f" ({protocol.source})" if protocol.source else "")
    )
    click.echo(f"mIoU {_score(scores.miou)}, pixel accuracy {_score(scores.pixel_accuracy)}")
    if result.confidence:
        click.echo(_told(result.confidence))


def _told(confidence: api.Confidence) -> str:
    told = f"expected calibration error {confidence.measured.ece:.4f}"
    if confidence.before is None:
        return f"{told}, no temperature"
    return (
        f"{told}, {confidence.before.ece:.4f} before its temperature {confidence.temperature:.3f}"
    )


def _score(value: float | None) -> str:
    return "absent" if value is None else f"{value:.4f}"
