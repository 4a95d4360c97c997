"""``quantize``: writing precision into a bundle."""

from __future__ import annotations

from typing import Any

import click

from segclip_deploy import api
from segclip_deploy.cli.options import (
    PATH,
    json_option,
    layout_option,
    reading_options,
    scheme_option,
)
from segclip_deploy.cli.output import print_json
from segclip_deploy.cli.progress import console, spinner

__all__ = ["quantize"]


@click.command()
@click.argument("bundle", type=PATH)
@click.option("-o", "--out", type=PATH, required=True, help="Bundle directory to write.")
@scheme_option(required=False)
@click.option(
    "--precision", type=click.Choice(["fp16", "int8"]), help="One for every block that can."
)
@click.option("--plan", type=PATH, help="Or: a plan (.yaml), which names its scheme.")
@click.option("--table", type=PATH, help="Calibration table; INT8 needs one.")
@click.option(
    "--placement",
    type=click.Choice(api.PLACERS),
    default="own",
    show_default=True,
    help="Who places INT8: own, with the table's ranges; modelopt, for TensorRT, with its own.",
)
@click.option(
    "--tiles",
    type=PATH,
    multiple=True,
    help="For modelopt: where the table's tiles are from, as calibrate was given it.",
)
@layout_option
@reading_options
@json_option
def quantize(as_json: bool, **options: Any) -> None:
    """Write precision into BUNDLE: INT8 as Q/DQ, FP16 as casts; proven before it counts."""
    with spinner("quantizing"):
        result = api.quantize(**options)
    if as_json:
        print_json(result.to_json())
        return
    done = result.record.quantization
    assert done is not None  # it was quantized just now
    blocks = list(done.plan.values())
    mix = ", ".join(f"{blocks.count(p)} {p}" for p in dict.fromkeys(blocks))
    click.echo(
        f"{result.path}: {done.scheme.value}, blocks {mix}, {done.int8_macs:.1%} of the MACs INT8; "
        f"labels equal to FP32's on golden tiles {done.quality.label_agreement:.2%}, "
        f"logits {done.quality.logit_sqnr_db:.1f} dB over noise"
    )
    for node, why in done.fp32_fallback.items():
        if "reaches" in why:
            console().print(f"kept FP32: {node}, {why}", markup=False)
