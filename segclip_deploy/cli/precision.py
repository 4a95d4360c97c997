"""``calibrate``, ``plan`` and ``quantize``: from an FP32 bundle to one with its precision written in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from segclip_deploy.cli.common import (
    PATH,
    console,
    json_option,
    print_json,
    print_table,
    progress_bar,
)

__all__ = ["calibrate", "quantize"]

_METHODS = ("percentile", "entropy", "mse", "minmax")
_eval = click.option(
    "--eval", "dataset", type=PATH, help="Dataset that will judge; none of its tiles may be used."
)


@click.command()
@click.argument("bundle", type=PATH)
@click.option(
    "--tiles",
    type=PATH,
    multiple=True,
    required=True,
    help="Images, folders, lists (.txt) or a dataset; may be repeated.",
)
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
    from segclip_deploy.artifacts import load_bundle
    from segclip_deploy.calibration.calibrate import calibrate as measure
    from segclip_deploy.calibration.graph import check_fp32
    from segclip_deploy.calibration.selection import select_tiles
    from segclip_deploy.calibration.sheet import contact_sheet
    from segclip_deploy.calibration.tiles import find_tiles
    from segclip_deploy.runtime.engine import open_engine

    loaded = load_bundle(bundle)
    check_fp32(loaded)  # now, not after all tiles were read
    opened = open_engine(bundle)
    batch = loaded.input.batches.start
    with progress_bar("") as bar:
        task = bar.add_task("reading images", total=None)

        def report(what: str) -> Callable[[int, int], None]:
            return lambda done, total: bar.update(
                task, description=what, completed=done, total=total
            )

        pool = find_tiles(tiles, loaded.input, exclude=dataset, report=report("reading images"))
        chosen = select_tiles(
            pool,
            select,
            labels=lambda tile: opened.backend.infer({"image": tile[None].repeat(batch, 0)})[
                "labels"
            ][0].copy(),
            report=report("labelling tiles"),
        )
        opened.backend.close()
        if sheet:
            contact_sheet(chosen, sheet, vocabulary=loaded.vocabulary)
        table = measure(loaded, chosen, out, method=method, report=report("calibrating"))
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
@click.option("-o", "--out", type=PATH, required=True, help="Bundle directory to write.")
@click.option(
    "--dialect",
    type=click.Choice(["tensorrt", "cpu"]),
    help="Whom it is for: tensorrt (also TensorRT-RTX), or cpu (OpenVINO, ONNX Runtime).",
)
@click.option(
    "--precision", type=click.Choice(["fp16", "int8"]), help="One for every block that can."
)
@click.option("--plan", "plan_path", type=PATH, help="Or: a plan (.yaml), which names its dialect.")
@click.option("--table", "table_path", type=PATH, help="Calibration table; INT8 needs one.")
@json_option
def quantize(
    bundle: Path,
    out: Path,
    dialect: str | None,
    precision: str | None,
    plan_path: Path | None,
    table_path: Path | None,
    as_json: bool,
) -> None:
    """Write precision into BUNDLE: INT8 as Q/DQ, FP16 as casts; proven before it counts."""
    if (plan_path is None) == (precision is None and dialect is None):
        raise click.UsageError("give either --plan, or --dialect with --precision")
    if plan_path is None and not (precision and dialect):
        raise click.UsageError("--dialect and --precision go together")
    from segclip_deploy.artifacts import load_bundle
    from segclip_deploy.calibration.graph import load_model
    from segclip_deploy.calibration.plan import check_plan, load_plan, uniform_plan
    from segclip_deploy.calibration.quantize import quantize as write
    from segclip_deploy.calibration.table import check_table, load_table

    loaded = load_bundle(bundle)
    table = None
    if table_path:
        table = load_table(table_path)
        check_table(table, loaded, where=table_path)
    graph = load_model(loaded.model_path).graph
    if plan_path:
        plan = load_plan(plan_path)
        check_plan(plan, loaded, graph, where=plan_path)
    else:
        plan = uniform_plan(loaded, graph, dialect, precision)  # type: ignore[arg-type]
    with console().status("quantizing"):
        result = write(loaded, out, plan=plan, table=table)
    if as_json:
        print_json(result.record)
        return
    quality = result.record["quality"]
    blocks = list(plan.blocks.values())
    mix = ", ".join(f"{blocks.count(p)} {p}" for p in dict.fromkeys(blocks))
    click.echo(
        f"{out}: {plan.dialect}, blocks {mix}; labels equal to FP32's on golden tiles "
        f"{quality['label_agreement']:.2%}, logits {quality['logit_sqnr_db']:.1f} dB over noise"
    )
    for node, why in result.record["islands"].items():
        if "reaches" in why:
            console().print(f"kept FP32: {node}, {why}", markup=False)
