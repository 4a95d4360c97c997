"""``map``: many rasters, or huge ones, on several workers."""

from __future__ import annotations

from typing import Any

import click

from segclip_deploy import api
from segclip_deploy.cli.options import PATH, json_option, overlap_option, reading_options
from segclip_deploy.cli.output import print_json
from segclip_deploy.cli.progress import stage_bar

__all__ = ["map"]


def _resources(_context: object, _option: object, texts: tuple[str, ...]) -> dict[str, float]:
    found = {}
    for text in texts:
        name, _equals, amount = text.partition("=")
        try:
            found[name] = float(amount)
        except ValueError:
            raise click.BadParameter(f"{text!r} is no resource like gpu=1") from None
    return found


@click.command()
@click.argument("sources", nargs=-1, required=True)
@click.option("--engine", type=PATH, required=True, help="An engine or a bundle.")
@click.option("-o", "--out", type=PATH, required=True, help="Folder to write.")
@click.option("--workers", type=click.IntRange(1), help="Processes on this machine; 1 by default.")
@click.option("--scheduler", metavar="ADDRESS", help="Of Dask, in their place: tcp://host:port.")
@click.option(
    "--require",
    metavar="NAME=AMOUNT",
    multiple=True,
    callback=_resources,
    help="Only workers that have it, e.g. gpu=1; each block takes so much while it runs.",
)
@click.option(
    "--threads",
    type=click.IntRange(0),
    help="Of each worker's engine; by default the cores over --workers, with --scheduler 0: its choice.",
)
@overlap_option
@reading_options
@json_option
def map(as_json: bool, **options: Any) -> None:
    """Segment rasters that have a place on the workers of a Dask cluster.

    SOURCES are files, and folders with their sub-folders. Writes what ``run`` writes of them, the same bytes: NAME.tif, a Cloud-Optimized GeoTIFF, and
    areas.jsonl. Interrupted or in part failed, the same command goes on from there. What failed is
    listed, with tracebacks in map-failures.json, the rest is done, and the exit code is 1.
    """
    with stage_bar() as report:
        done = api.map(**options, report=report)
    if as_json:
        print_json(done.to_json())
    else:
        failed = f"; {len(done.failed)} failures, see {done.failures_path}" if done.failed else ""
        click.echo(
            f"{done.out}: {len(done.rasters)} of {done.files} rasters in {done.windows} windows, "
            f"{done.seconds:.1f} s by {done.workers} worker{'s' * (done.workers != 1)}{failed}"
        )
    if done.failed:
        click.get_current_context().exit(1)
