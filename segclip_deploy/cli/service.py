"""``service``: the systemd unit that runs an engine from boot to power-off."""

from __future__ import annotations

from typing import Any

import click

from segclip_deploy import api
from segclip_deploy.cli.options import json_option
from segclip_deploy.cli.output import print_json
from segclip_deploy.cli.run import run

__all__ = ["service"]


@click.command(params=[p for p in run.params if p.name not in ("as_json", *api.FLIGHT_ONLY)])
@click.option("--print", "shown", is_flag=True, help="Print the unit on stdout.")
@json_option
def service(shown: bool, as_json: bool, **options: Any) -> None:
    """Show the systemd unit that runs ENGINE on SOURCES.

    It is for this machine and this user, and its first lines say how it is installed. The options are those
    of run, which it starts with --service.
    """
    if shown == as_json:
        raise click.UsageError("--print shows the unit, --json the same as JSON: name one of them")
    found = api.service(**options)
    if as_json:
        print_json(found.to_json())
    else:
        click.echo(found.text, nl=False)
