"""``dataset``: what a dataset is, and what is wrong with it."""

from __future__ import annotations

from typing import Any

import click

from segclip_deploy import api
from segclip_deploy.cli.options import PATH, dataset_options, json_option, picture_options
from segclip_deploy.cli.output import print_json, print_table
from segclip_deploy.cli.progress import stage_bar

__all__ = ["dataset"]


@click.command()
@click.argument("root", type=PATH)
@click.option(
    "--vocabulary",
    help="Name of a shipped one, or a YAML file.  [default: that of the layout]",
)
@dataset_options
@picture_options
@click.option("--sheet", type=PATH, help="Page of images with their masks to write (.png).")
@json_option
def dataset(as_json: bool, **options: Any) -> None:
    """Read the dataset ROOT as it was downloaded: what it holds, and everything that is wrong.

    Exit code 1: something is wrong with it.
    """
    with stage_bar() as report:
        found = api.dataset(**options, report=report)
    if as_json:
        print_json(found.to_json())
    else:
        _print(found)
    if found.problems:
        click.get_current_context().exit(1)


def _print(found: api.DatasetReport) -> None:
    click.echo(f"{found.root}: layout {found.layout} ({found.source}), {found.vocabulary}")
    metres = found.ground_sample_distance_m
    told = "unknown" if metres is None else " to ".join(f"{m:g} m" for m in sorted(set(metres)))
    click.echo(f"  ground sample distance {told}")
    sizes = [f"{size} ({count})" for size, count in list(found.sizes.items())[:5]]
    more = len(found.sizes) - len(sizes)
    click.echo(f"  sizes {', '.join(sizes)}" + f", and {more} others" * (more > 0))
    if found.held_out:
        click.echo("  split plan: scenes held out of the publisher's train, chosen by their names")
    names = list(found.splits)
    classes = {
        c: [found.splits[n].classes[c] for n in names] for c in found.splits[names[0]].classes
    }
    totals = [max(1, found.splits[n].pixels) for n in names]
    rows = [
        ["images", *(f"{found.splits[n].images:,}" for n in names)],
        ["masks", *(f"{found.splits[n].masks:,}" for n in names)],
        ["pixels with a class", *(f"{found.splits[n].pixels:,}" for n in names)],
        ["ignored pixels", *(f"{found.splits[n].ignored:,}" for n in names)],
        *(
            [c, *(f"{count / whole:.2%}" for count, whole in zip(counts, totals, strict=True))]
            for c, counts in classes.items()
        ),
    ]
    print_table("", ["split", *names], rows)
    for problem in found.problems:
        where = ", ".join(problem.where)
        click.echo(f"wrong: {problem.what} ({problem.count}): {where}")
    if not found.problems:
        click.echo("nothing is wrong")
