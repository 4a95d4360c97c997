"""``run``: what an engine makes of images, videos and cameras."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

import click

from segclip_deploy import api
from segclip_deploy.cli.options import (
    PATH,
    json_option,
    labelling_options,
    reading_options,
    storage,
)
from segclip_deploy.cli.output import print_json, print_table, stop_at_signals
from segclip_deploy.cli.progress import service_lines, stage_bar
from segclip_deploy.errors import SegclipError

__all__ = ["run"]

_BUG = 70  # EX_SOFTWARE of sysexits.h


@click.command()
@click.argument("engine", type=PATH)
@click.argument("sources", nargs=-1, required=True)
@click.option("-o", "--out", type=PATH, required=True, help="Folder to write.")
@labelling_options(
    margin="NAME.margin.png",
    unhealthy="frames that are dark, bright, blurred or unlike calibration's; exit 3",
)
@click.option("--no-overlay", is_flag=True, help="Write no NAME.overlay.png.")
@click.option("--video", type=PATH, help="Write the overlays as H.264, NAME.mp4.")
@click.option(
    "--keep", type=storage, metavar="SIZE", help="Keep so much in the folder, e.g. 10GB; oldest go."
)
@click.option("--jsonl", metavar="PATH", help="A copy of areas.jsonl; - is stdout.")
@click.option(
    "--max-megapixels",
    type=click.FloatRange(0, min_open=True),
    metavar="N",
    help="Refuse larger images, which take about 7 bytes a pixel of memory.  [default: 89.5]",
)
@click.option("--polygons", is_flag=True, help="Of rasters: write NAME.geojson, too.")
@click.option(
    "--seam-score",
    is_flag=True,
    help="Of rasters: label twice, and say how well windows join.",
)
@click.option(
    "--telemetry",
    metavar="SOURCE",
    help="Position and attitude: udp:HOST:PORT, serial:DEVICE:BAUD, a .tlog or a .bin.",
)
@click.option("--topic", help="Of a recording's images.  [default: the only one of images]")
@click.option(
    "--mcap", type=PATH, help="Write labels, overlays and lines as a ROS 2 recording, NAME.mcap."
)
@reading_options
@click.option(
    "--service",
    is_flag=True,
    help="For systemd: READY=1, WATCHDOG=1 and STATUS=; needs --keep, implies --preflight.",
)
@click.option(
    "--decoder",
    type=click.Choice(["nv", "sw", "auto"]),
    help="GStreamer decodes videos and rtsp://: by a Jetson's decoder, the processor, or what is there.  [default: PyAV]",
)
@json_option
def run(as_json: bool, **options: Any) -> None:
    """Segment SOURCES with ENGINE, an engine or a bundle.

    SOURCES are images, videos, rasters, folders of them with their sub-folders, and http:// URLs
    of such files. Or they are ROS 2 recordings: flight.mcap, a folder of rosbag2. Or one camera:
    /dev/video0, rtsp://..., csi:0, usb:0, 'gst:PIPELINE'. Results lie below --out as the sources lie
    below the deepest folder that holds all of them. Writes NAME.png (labels), NAME.overlay.png,
    NAME.margin.png where the engine has a margin, and areas.jsonl. Of a raster that has a place it
    writes NAME.tif, a Cloud-Optimized GeoTIFF. Bad images are listed, the others done, and the exit
    code is 1. So it is where frames of a video are damaged.
    """
    if as_json and options["jsonl"] == "-":
        raise click.UsageError("--json and --jsonl - would both write to stdout")
    ended, begun = None, Event()
    lines = service_lines if options["service"] else stage_bar
    with lines() as report, stop_at_signals(begun) as stop, _bugs(options["service"]):

        def told(what: str, done: int, total: int) -> None:
            if done or total:
                begun.set()
            report(what, done, total)

        try:
            result = api.run(**options, stop=stop, report=told)
        except api.RunStopped as error:
            result, ended = error.result, error  # what was done before is told first
    if as_json:
        print_json(result.to_json())
    else:
        _print_report(result.to_json(), options["deadline_ms"], err=options["jsonl"] == "-")
    if ended is not None:
        raise ended
    if result.interrupted:
        raise KeyboardInterrupt
    if not result.complete:
        only_refused = not (result.failed or result.summary.damaged)
        click.get_current_context().exit(3 if only_refused else 1)


@contextmanager
def _bugs(of_service: bool) -> Iterator[None]:
    """End a service with an exit code of its own where Python's would be 1, so that it is started anew."""
    try:
        yield
    except (SegclipError, OSError, click.ClickException, click.exceptions.Exit):
        raise
    except Exception:
        if not of_service:
            raise
        traceback.print_exc()
        click.get_current_context().exit(_BUG)


def _print_report(report: dict[str, Any], deadline_ms: float | None, *, err: bool) -> None:
    if report["rasters"]:
        count = len(report["rasters"])
        click.echo(f"{report['out']}: {count} raster{'s' * (count != 1)}", err=err)
    deadline, stages = report["deadline"], report["ms"]
    counts = {
        "damaged": report["damaged"],
        "bad": report["bad"],
        "unhealthy": report["health"]["unhealthy"],
        "skipped": deadline["skipped"] if deadline else 0,
        "dropped": report["dropped"],
        "reconnects": report["reconnects"],
    }
    health = report["health"]
    total = report["done"] + report["bad"] + counts["skipped"] + health["refused"]
    if not total and report["rasters"]:
        return
    told = "".join(f", {count} {what}" for what, count in counts.items() if count)
    ratio = report["pixel_ratio"]
    waste = "" if ratio is None else f" ({ratio:.2f} times the pixels needed)"
    title = (
        f"{report['out']}: {report['done']} of {total} frames{told}; {report['windows']} windows{waste}, "
        f"{report['fps']:.2f} frames/s end to end"
    )
    if not stages:
        click.echo(title, err=err)
        _print_health(health, err=err)
        return
    rows = [[stage, *(f"{value:.1f}" for value in p.values())] for stage, p in stages.items()]
    print_table(title, ["ms", "p50", "p95"], rows, err=err)
    _print_health(health, err=err)
    if deadline:
        actions = ", ".join(f"{action} {count}" for action, count in deadline["actions"].items())
        click.echo(
            f"deadline {deadline_ms:g} ms: {deadline['miss_rate']:.1%} missed "
            f"({deadline['late']} late, {deadline['skipped']} skipped); {actions}",
            err=err,
        )
    if report["removed"]:
        click.echo(f"--keep: {report['removed']} of the oldest files were removed", err=err)


def _print_health(health: dict[str, Any], *, err: bool) -> None:
    if health["unhealthy"]:
        kinds = ", ".join(f"{count} {kind}" for kind, count in health["problems"].items() if count)
        refused = f"; {health['refused']} without labels for it" if health["refused"] else ""
        click.echo(f"{health['unhealthy']} unhealthy frames: {kinds}{refused}", err=err)
