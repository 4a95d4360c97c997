"""``benchmark``: sweep, recommend, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segclip_deploy.artifacts.scheme import PRECISIONS
from segclip_deploy.cli.options import (
    PATH,
    class_iou,
    json_option,
    known_target,
    mask_suffix_option,
)
from segclip_deploy.cli.output import print_json, print_table
from segclip_deploy.cli.progress import stage_bar
from segclip_deploy.cli.rasters import reading_of, reading_options

if TYPE_CHECKING:
    from segclip_deploy.tradeoff.row import Row

__all__ = ["benchmark"]


@click.command()
@click.argument("bundles", type=PATH, nargs=-1, required=True)
@click.option("--eval", "dataset", type=PATH, required=True, help="Dataset that judges.")
@click.option("--split", default="val", show_default=True, help="That reports accuracy.")
@mask_suffix_option
@reading_options
@click.option("--calib", type=PATH, help="Tiles to calibrate on, for int8 and planned.")
@click.option("-o", "--out", type=PATH, required=True, help="Folder of the report.")
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="TARGET",
    callback=known_target,
    help="As segclip-deploy doctor lists them; may be repeated.  [default: all that run here]",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice([*PRECISIONS, "planned"]),
    default=(*PRECISIONS, "planned"),
    help="May be repeated.  [default: all]",
)
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    type=float,
    default=(0.3,),
    help="Points of mIoU a planned mix may lose; may be repeated.  [default: 0.3]",
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    type=click.Choice(["percentile", "entropy", "mse", "minmax"]),
    default=("percentile",),
    help="Of calibration; may be repeated.  [default: percentile]",
)
@click.option("--overlap", "overlaps", multiple=True, type=int, help="Pixels; may be repeated.")
@click.option(
    "--threads", multiple=True, type=click.IntRange(1), help="Of CPU engines; may be repeated."
)
@click.option(
    "--samples", type=click.IntRange(10), default=200, show_default=True, help="Of latency, a row."
)
@click.option("--max-latency-ms", type=float, help="A frame, at --percentile.")
@click.option("--percentile", type=click.FloatRange(1, 100), default=99.0, show_default=True)
@click.option("--max-miou-drop", type=float, help="Points of mIoU against FP32.")
@click.option("--min-class-iou", multiple=True, metavar="CLASS=IOU")
@click.option("--max-joules", type=float, help="A frame.")
@click.option("--bound", "boards", metavar="orin-nano,…", help="Lower bounds for these boards.")
@click.option("--altitude", type=float, help="Mission: metres above ground.")
@click.option("--speed", type=float, help="Mission: metres a second.")
@click.option("--sensor", "camera", help="Mission: dji-p1, …, or 4000x2250,6.17mm,3.61mm.")
@click.option("--front-overlap", type=float, default=0.7, show_default=True)
@click.option("--side-overlap", type=float, default=0.7, show_default=True)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@json_option
def benchmark(
    bundles: tuple[Path, ...],
    dataset: Path,
    out: Path,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure accuracy against latency over BUNDLES (FP32), and say which engine to fly.

    Killed? The same command goes on. Exit code 3: no engine keeps the limits.
    """
    from segclip_deploy.tradeoff.benchmark import Ask, benchmark_bundles, prepare_sweep
    from segclip_deploy.tradeoff.recommend import FlightLimits
    from segclip_deploy.tradeoff.sweep import steps

    given = [options[name] is not None for name in ("altitude", "speed", "camera")]
    if any(given) and not all(given):
        raise click.UsageError("a mission needs --altitude, --speed and --sensor")
    drop = options["max_miou_drop"]
    ask = Ask(
        bundles=bundles,
        dataset=dataset,
        out=out,
        reading=reading_of(options),
        limits=FlightLimits(
            latency_ms=options["max_latency_ms"],
            percentile=options["percentile"],
            miou_drop=None if drop is None else drop / 100,
            class_iou=dict(map(class_iou, options["min_class_iou"])),
            joules=options["max_joules"],
        ),
        **{
            name: options[name]
            for name in ("split", "mask_suffix", "calib", "targets", "precisions", "budgets", "methods", "overlaps",
                         "threads", "samples", "boards", "altitude", "speed", "camera",
                         "front_overlap", "side_overlap")
        },
    )  # fmt: skip
    with stage_bar() as report:
        grid, cache = prepare_sweep(ask, report)
        if dry_run:
            todo = steps(grid, cache, ask.samples)
            page = advice = None
        else:
            page, sweep, advice = benchmark_bundles(ask, grid, cache, report)
    if advice is None:
        if as_json:
            print_json(todo)
        else:
            for name, count in todo.items():
                click.echo(f"{name.replace('_', ' ')}: {count}")
        return
    rank = ask.limits.percentile
    if as_json:
        best = advice.row.name if advice.row else None
        print_json({"report": str(page), "recommended": best, "why": advice.why})
    else:
        print_table(
            f"{len(sweep.rows)} engines, {len(sweep.failures)} that must not fly",
            ["engine", "mIoU", "ΔmIoU, points", "p50 ms", f"p{rank:g} ms"],
            [_cells(row, rank) for row in sorted(sweep.rows, key=lambda r: r.percentile(rank))],
        )
        for failure in sweep.failures:
            click.echo(f"must not fly: {failure.name}: {failure.why}")
        fly = f"fly {advice.row.name}: {sweep.engines[advice.row.name]}\n" if advice.row else ""
        click.echo(f"{fly}{advice.why}\n{page}")
    if advice.row is None:
        click.get_current_context().exit(3)


def _cells(row: Row, rank: float) -> list[str]:
    return [
        row.name,
        f"{row.miou:.4f}",
        row.drop.delta,
        f"{row.percentile(50):.1f}",
        f"{row.percentile(rank):.1f}",
    ]
