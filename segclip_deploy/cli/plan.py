"""``plan``: which blocks are INT8."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segclip_deploy.cli.options import (
    PATH,
    class_iou,
    json_option,
    mask_suffix_option,
    scheme_option,
)
from segclip_deploy.cli.output import print_json, print_table
from segclip_deploy.cli.progress import stage_bar
from segclip_deploy.cli.rasters import picture_options, reading_of

if TYPE_CHECKING:
    from segclip_deploy.artifacts.scheme import Scheme

__all__ = ["plan"]


@click.command()
@click.argument("bundle", type=PATH)
@click.option("--table", "table_path", type=PATH, required=True, help="Calibration table.")
@click.option("--eval", "dataset", type=PATH, required=True, help="Dataset that judges.")
@click.option("--split", default="plan", show_default=True, help="Of it; keep val for results.")
@mask_suffix_option
@picture_options
@click.option("-o", "--out", type=PATH, required=True, help="Plan to write (.yaml).")
@scheme_option(required=True)
@click.option("--max-miou-drop", type=float, default=0.3, show_default=True, help="Points of mIoU.")
@click.option(
    "--min-class-iou", multiple=True, metavar="CLASS=IOU", help="A floor; may be repeated."
)
@click.option("--max-latency-ms", type=float, help="Median in OpenVINO here; for cpu.")
@click.option("--heat-map", type=PATH, help="Sensitivity of every block to draw (.png).")
@json_option
def plan(
    bundle: Path,
    table_path: Path,
    dataset: Path,
    split: str,
    mask_suffix: str,
    out: Path,
    scheme: Scheme,
    max_miou_drop: float,
    min_class_iou: tuple[str, ...],
    max_latency_ms: float | None,
    heat_map: Path | None,
    as_json: bool,
    **pictures: Any,
) -> None:
    """Find the fastest mix of INT8 and higher precision that keeps BUNDLE's accuracy.

    Every step is measured on DATASET. Killed? The same command goes on.
    """
    from segclip_deploy.artifacts.bundle import load_bundle
    from segclip_deploy.artifacts.plan import PLAN, AccuracyLimits
    from segclip_deploy.calibration.table import load_table
    from segclip_deploy.evaluation.dataset import open_dataset
    from segclip_deploy.planning.planner import plan_precision, worth
    from segclip_deploy.planning.sensitivity import heat_map as draw

    loaded = load_bundle(bundle)
    table = load_table(table_path, loaded)
    limits = AccuracyLimits(
        max_miou_drop=max_miou_drop / 100,
        min_class_iou=_floors(min_class_iou, loaded.vocabulary.names),
    )
    with stage_bar() as report:
        made = plan_precision(
            loaded,
            table,
            open_dataset(
                dataset, loaded.vocabulary, mask_suffix=mask_suffix, reading=reading_of(pictures)
            ),
            out,
            scheme=scheme,
            split=split,
            limits=limits,
            max_latency_ms=max_latency_ms,
            report=report,
        )
    if heat_map:
        draw(made.effects, heat_map, title=f"INT8 by block, scheme {scheme.value}, split {split}")
    if as_json:
        effects = [effect.to_json() for effect in made.effects]
        print_json({**PLAN.dump(made.plan), "effects": effects})
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
    click.echo(f"{out}: {worth(made.plan)}")


def _floors(rules: tuple[str, ...], names: tuple[str, ...]) -> dict[str, float]:
    floors = [class_iou(rule) for rule in rules]
    for rule, (name, _) in zip(rules, floors, strict=True):
        if name not in names:
            raise click.UsageError(f"--min-class-iou {rule}: the classes are {', '.join(names)}")
    return dict(floors)


def _ms(value: float | None) -> str:
    return "absent" if value is None else f"{value:.2f}"
