"""``ros``: a ROS 2 node around an engine."""

from __future__ import annotations

from typing import Any

import click

from segclip_deploy import api
from segclip_deploy.cli.options import (
    PATH,
    bands_option,
    json_option,
    labelling_options,
)
from segclip_deploy.cli.output import print_json, print_table, stop_at_signals
from segclip_deploy.cli.progress import stage_bar

__all__ = ["ros"]

_FLAG, _END = "--ros-args", "--"


class _WithRosArguments(click.Command):
    """Takes ``--ros-args -r a:=b -p c:=d`` as nodes do: to the end, or to ``--``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Make each word behind ``--ros-args`` a value of that option."""
        ours: list[str] = []
        words = iter(args)
        for word in words:
            if word != _FLAG:
                ours.append(word)
                continue
            for theirs in words:
                if theirs == _END:
                    break
                ours.append(f"{_FLAG}={theirs}")
        return super().parse_args(ctx, ours)


@click.command(cls=_WithRosArguments)
@click.argument("engine", type=PATH)
@click.option("--image", required=True, metavar="TOPIC", help="Of the images to label.")
@labelling_options(
    margin="~/margin",
    unhealthy="images that are dark, bright, blurred or unlike calibration's",
)
@click.option("--overlay", is_flag=True, help="Publish ~/overlay, too.")
@click.option("--margin", is_flag=True, help="Publish ~/margin, too.")
@click.option("--reliable", is_flag=True, help="Lose no image.  [default: keep the newest]")
@bands_option
@click.option(
    _FLAG,
    multiple=True,
    metavar="...",
    help="The rest is for ROS: -r FROM:=TO remaps, -p NAME:=VALUE sets a parameter.",
)
@json_option
def ros(as_json: bool, **options: Any) -> None:
    """Label the images of a ROS 2 topic with ENGINE, an engine or a bundle, until Ctrl-C.

    TOPIC holds sensor_msgs/Image or CompressedImage. Publishes ~/labels (mono8, class indices) with
    the stamp and frame of each image, and /diagnostics.
    """
    with stage_bar() as report, stop_at_signals() as stop:
        result = api.ros(**options, stop=stop, report=report)
    if as_json:
        print_json(result.to_json())
    else:
        _print_result(result.to_json())
    raise KeyboardInterrupt  # nothing else ends a node


def _print_result(result: dict[str, Any]) -> None:
    counts = {name: result[name] for name in ("bad", "dropped", "lost", "reconnects")}
    counts["skipped"] = result["deadline"]["skipped"] if result["deadline"] else 0
    counts["refused"] = result["health"]["refused"]
    told = "".join(f", {count} {what}" for what, count in counts.items() if count)
    title = (
        f"{result['topic']}: {result['done']} of {result['received']} images{told}; "
        f"{result['fps']:.2f} images/s"
    )
    if not result["ms"]:
        click.echo(title)
        return
    rows = [[stage, *(f"{ms:.1f}" for ms in p.values())] for stage, p in result["ms"].items()]
    print_table(title, ["ms", "p50", "p95"], rows)
