"""``verify``: an engine against its golden tiles."""

from __future__ import annotations

from pathlib import Path

import click

from segclip_deploy import api
from segclip_deploy.cli.options import PATH, json_option
from segclip_deploy.cli.output import print_json, print_table

__all__ = ["verify"]


@click.command()
@click.argument("engine", type=PATH)
@json_option
def verify(engine: Path, as_json: bool) -> None:
    """Hold ENGINE (an engine or a bundle) against its golden tiles; exit code 3 if it fails."""
    verification = api.verify(engine)
    if as_json:
        print_json(verification.to_json())
    else:
        print_table(
            f"{engine}: {verification.engine}",
            ["check", "passed", "what was found"],
            [[c.name, "yes" if c.passed else "NO", c.detail] for c in verification.checks],
        )
    verification.require(where=engine)
