"""``report``: the results of several machines in one page."""

from __future__ import annotations

from pathlib import Path

import click

from segclip_deploy import api
from segclip_deploy.cli.options import PATH, json_option
from segclip_deploy.cli.output import print_json, print_table

__all__ = ["report"]


@click.command()
@click.argument("folders", type=PATH, nargs=-1, required=True, metavar="DIR...")
@click.option("-o", "--out", type=PATH, required=True, help="The HTML file.")
@json_option
def report(folders: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Join what benchmark measured on several machines: each DIR is its -o.

    What was measured in unlike conditions is shown as unlike.
    """
    done = api.report(folders, out=out)
    if as_json:
        print_json(done.to_json())
        return
    for machine in done.joined.machines:
        print_table(
            f"{machine.machine}: {len(machine.rows)} engines; its Pareto front, axes {machine.axes}",
            ["engine", "mIoU", "ΔmIoU, points", "p50 ms", "p99 ms"],
            [_cells(row) for row in machine.front_rows],
        )
        for mark in machine.marks:
            click.echo(f"{machine.machine}: {mark}", err=True)
    for one in done.joined.differences:
        values = "; ".join(f"{machine}: {value}" for machine, value in one.values.items())
        click.echo(f"unlike {one.condition}: {values}", err=True)
    click.echo(done.page)


def _cells(row: api.JoinedRow) -> list[str]:
    return [
        row.name,
        f"{row.miou:.4f}",
        row.drop.delta,
        f"{row.p50_ms:.1f}",
        f"{row.p99_ms:.1f}",
    ]
