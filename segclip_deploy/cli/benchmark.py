"""``benchmark``: sweep, recommend, report."""

from __future__ import annotations

import sys
from typing import Any

import click

from segclip_deploy import api
from segclip_deploy.cli.options import (
    PATH,
    dataset_options,
    floors_option,
    json_option,
    reading_options,
)
from segclip_deploy.cli.output import print_json, print_table
from segclip_deploy.cli.progress import stage_bar

__all__ = ["benchmark"]


def _names(_context: object, _option: object, text: str) -> tuple[str, ...]:
    """Parse ``15W,25W``."""
    names = tuple(name.strip() for name in text.split(",")) if text else ()
    if not all(names):
        raise click.BadParameter(f"{text!r} is no list like 15W,25W")
    return names


@click.command()
@click.argument("artefacts", type=PATH, nargs=-1, required=True)
@click.option("--eval", type=PATH, help="Dataset to evaluate on.")
@click.option("--split", help="That reports accuracy.  [default: val, or the only one]")
@dataset_options
@reading_options
@click.option("--calib", type=PATH, help="Tiles to calibrate on, for int8 and planned.")
@click.option("-o", "--out", type=PATH, help="Folder of the report.")
@click.option(
    "--prepare",
    type=PATH,
    help="Or: folder to write for a board; there `benchmark FOLDER -o REPORT` needs no torch.",
)
@click.option(
    "--target",
    multiple=True,
    metavar="TARGET",
    help="As segclip-deploy doctor lists them; may be repeated.  [default: all that run here]",
)
@click.option(
    "--precision",
    multiple=True,
    type=click.Choice([*api.PRECISIONS, "planned"]),
    help="Of FP32 bundles; may be repeated.  [default: all, or fp32 beside what is quantized]",
)
@click.option(
    "--budget",
    multiple=True,
    type=float,
    default=(0.3,),
    help="Points of mIoU a planned mix may lose; may be repeated.  [default: 0.3]",
)
@click.option(
    "--method",
    multiple=True,
    type=click.Choice(api.METHOD_NAMES),
    default=("percentile",),
    help="Of calibration; may be repeated.  [default: percentile]",
)
@click.option("--overlap", multiple=True, type=int, help="Pixels; may be repeated.")
@click.option(
    "--threads", multiple=True, type=click.IntRange(1), help="Of CPU engines; may be repeated."
)
@click.option(
    "--samples", type=click.IntRange(10), default=200, show_default=True, help="Of latency, a row."
)
@click.option(
    "--frames",
    type=PATH,
    help="Folder of a camera's images that latency is measured on, 20 at most.  [default: 3 of --eval]",
)
@click.option("--max-latency-ms", type=float, help="A frame, at --percentile.")
@click.option("--percentile", type=click.FloatRange(1, 100), default=99.0, show_default=True)
@click.option("--max-miou-drop", type=float, help="Points of mIoU against FP32.")
@floors_option
@click.option("--max-joules", type=float, help="A frame.")
@click.option("--bound", metavar="orin-nano,…", help="Lower bounds for these boards.")
@click.option("--altitude", type=float, help="Mission: metres above ground.")
@click.option("--speed", type=float, help="Mission: metres a second.")
@click.option("--sensor", help="Mission: dji-p1, …, or 4000x2250,6.17mm,3.61mm.")
@click.option("--front-overlap", type=float, default=0.7, show_default=True)
@click.option("--side-overlap", type=float, default=0.7, show_default=True)
@click.option(
    "--power-modes",
    default="",
    callback=_names,
    metavar="15W,25W,…",
    help="Of this Jetson: the grid is built and measured in each.  [default: the one it is in]",
)
@click.option(
    "--power-command",
    metavar="COMMAND",
    help="Switches the mode, e.g. 'sudo nvpmodel -m {id}'.  [default: a terminal is asked]",
)
@click.option("--ambient", type=float, help="°C around the machine, for the report.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@json_option
def benchmark(as_json: bool, **options: Any) -> None:
    """Measure accuracy against latency over ARTEFACTS, and say which engine to fly.

    These are bundles, engines and checkpoints, or one folder that --prepare has written.
    Killed? The same command goes on. Exit code 3: no engine keeps the limits.
    """
    if options["power_modes"] and not options["power_command"] and not options["dry_run"]:
        options["power_command"] = _confirmed_command()
    with stage_bar() as report:
        done = api.benchmark(**options, report=report)
    if as_json:
        print_json(done.to_json())
    if isinstance(done, api.Steps):
        for name, count in done.to_json().items() if not as_json else ():
            click.echo(f"{name.replace('_', ' ')}: {count}")
        return
    if isinstance(done, api.BoardFolder):
        if not as_json:
            _print_folder(done)
        return
    if not as_json:
        _print(done, options["percentile"])
    if done.results.recommended is None:
        click.get_current_context().exit(3)


def _confirmed_command() -> str | None:
    """The usual command that switches power modes, where somebody sits there and agrees."""
    if not _at_terminal():
        return None
    question = f"Switch the power mode by {api.POWER_COMMAND}, and back at the end?"
    return api.POWER_COMMAND if click.confirm(question, err=True) else None


def _at_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _print(done: api.Benchmark, rank: float) -> None:
    results = done.results
    count = len(results.rows)
    print_table(
        f"{count} engine{'s' * (count != 1)}, {len(results.failures)} that must not fly",
        [
            "engine",
            "mIoU",
            "ΔmIoU, points",
            "p50 ms",
            f"p{rank:g} ms",
            "frames/s",
            "× pixels",
        ],
        [_cells(row, rank) for row in sorted(results.rows, key=lambda r: r.percentile(rank))],
    )
    for note in done.notes:
        click.echo(note)
    for failure in results.failures:
        click.echo(f"must not fly: {failure.name}: {failure.why}")
    if results.recommended:
        click.echo(f"fly {results.recommended}: {results.engines[results.recommended]}")
    click.echo(results.why)
    if done.page is not None:
        click.echo(done.page)


def _print_folder(folder: api.BoardFolder) -> None:
    for failure in folder.manifest.failures:
        click.echo(f"left out: {failure.name}: {failure.why}")
    names = ", ".join(path.name for path in folder.bundles)
    click.echo(f"{folder.path}: {folder.manifest.bytes / 1e6:.1f} MB: {names}")
    click.echo(
        f"copy it to the board, and there: segclip-deploy benchmark {folder.path.name} -o REPORT"
    )


def _cells(row: api.Row, rank: float) -> list[str]:
    return [
        row.name,
        f"{row.miou:.4f}",
        row.drop.delta,
        f"{row.percentile(50):.1f}",
        f"{row.percentile(rank):.1f}",
        f"{row.frames_per_second:.2f}",
        "absent" if row.pixel_ratio is None else f"{row.pixel_ratio:.2f}",
    ]
