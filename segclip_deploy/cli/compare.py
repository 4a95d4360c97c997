"""``compare``: whether two profiles say the same."""

from __future__ import annotations

from pathlib import Path

import click

from segclip_deploy import api
from segclip_deploy.cli.options import PATH, json_option
from segclip_deploy.cli.output import print_json, print_table

__all__ = ["compare"]


@click.command()
@click.argument("one", type=PATH)
@click.argument("other", type=PATH)
@click.option("--force", is_flag=True, help="Compare what was measured in unlike conditions.")
@json_option
def compare(one: Path, other: Path, force: bool, as_json: bool) -> None:
    """Compare two profile.json: how many times faster OTHER is than ONE.

    Exit code 3: they were measured in unlike conditions.
    """
    result = api.compare(one, other, force=force)
    if as_json:
        print_json(result.to_json())
        return
    for difference in result.unlike:
        click.echo(f"unlike: {difference}", err=True)
    rows = [
        [name, *("absent" if v is None else f"{v:.2f}" for v in (ratio.p50, ratio.p99))]
        for name, ratio in result.ratios.items()
    ]
    print_table(f"{one} over {other}", ["stage", "p50", "p99"], rows)
