"""``quantize``: writing precision into a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from segclip_deploy.cli.options import PATH, json_option, scheme_option
from segclip_deploy.cli.output import print_json
from segclip_deploy.cli.progress import console

if TYPE_CHECKING:
    from segclip_deploy.artifacts.scheme import Precision, Scheme

__all__ = ["quantize"]


@click.command()
@click.argument("bundle", type=PATH)
@click.option("-o", "--out", type=PATH, required=True, help="Bundle directory to write.")
@scheme_option(required=False)
@click.option(
    "--precision", type=click.Choice(["fp16", "int8"]), help="One for every block that can."
)
@click.option("--plan", "plan_path", type=PATH, help="Or: a plan (.yaml), which names its scheme.")
@click.option("--table", "table_path", type=PATH, help="Calibration table; INT8 needs one.")
@json_option
def quantize(
    bundle: Path,
    out: Path,
    scheme: Scheme | None,
    precision: Precision | None,
    plan_path: Path | None,
    table_path: Path | None,
    as_json: bool,
) -> None:
    """Write precision into BUNDLE: INT8 as Q/DQ, FP16 as casts; proven before it counts."""
    if plan_path and (precision or scheme):
        raise click.UsageError("a plan names scheme and precision itself")
    from segclip_deploy.artifacts.bundle import load_bundle
    from segclip_deploy.artifacts.bundle_record import BUNDLE
    from segclip_deploy.artifacts.plan import load_plan
    from segclip_deploy.calibration.table import load_table
    from segclip_deploy.export.onnx_model import load_model
    from segclip_deploy.quantization.placement import place_plan, uniform_plan
    from segclip_deploy.quantization.quantize import quantize as write

    loaded = load_bundle(bundle)
    table = load_table(table_path, loaded) if table_path else None
    graph = load_model(loaded.model_path).graph
    if plan_path:
        plan = load_plan(plan_path)
        place_plan(plan, loaded, graph, where=plan_path)  # a fault is told with the file's name
    elif scheme and precision:
        plan = uniform_plan(loaded, graph, scheme, precision)
    else:
        raise click.UsageError("give either --plan, or --scheme with --precision")
    with console().status("quantizing"):
        result = write(loaded, out, plan=plan, table=table)
    if as_json:
        print_json(BUNDLE.dump(result.record))
        return
    done = result.record.quantization
    assert done is not None  # it was quantized just now
    blocks = list(plan.blocks.values())
    mix = ", ".join(f"{blocks.count(p)} {p}" for p in dict.fromkeys(blocks))
    click.echo(
        f"{out}: {plan.scheme.value}, blocks {mix}, {done.int8_macs:.1%} of the MACs INT8; "
        f"labels equal to FP32's on golden tiles {done.quality.label_agreement:.2%}, "
        f"logits {done.quality.logit_sqnr_db:.1f} dB over noise"
    )
    for node, why in done.fp32_fallback.items():
        if "reaches" in why:
            console().print(f"kept FP32: {node}, {why}", markup=False)
