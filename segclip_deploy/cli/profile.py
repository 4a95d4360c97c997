"""``profile``: every millisecond."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from segclip_deploy import api
from segclip_deploy.cli.options import PATH, duration, json_option, overlap_option, threads_option
from segclip_deploy.cli.output import print_json, print_table
from segclip_deploy.cli.progress import stage_bar

__all__ = ["profile"]


@click.command()
@click.argument("engine", type=PATH)
@click.option(
    "--tiles",
    type=PATH,
    multiple=True,
    help="Images or folders; may be repeated.  [default: the engine's golden tiles]",
)
@click.option(
    "-o", "--out", type=PATH, help="Folder for profile.json and profile.png, or for latency.json."
)
@click.option(
    "--samples", type=click.IntRange(10), default=200, show_default=True, help="At least."
)
@click.option("--soak", type=duration, metavar="10m", help="Go on for so long, to see it get hot.")
@click.option("--deadline-ms", type=click.FloatRange(0, min_open=True), help="Count the misses.")
@click.option("--cold", is_flag=True, help="Also time the first label map of new processes.")
@overlap_option
@threads_option
@click.option(
    "--target",
    metavar="TARGET",
    help="Of probes: what times them.  [default: the first here that they are for]",
)
@json_option
def profile(as_json: bool, **options: Any) -> None:
    """Time ENGINE, an engine or a bundle, stage by stage and layer by layer, on this machine.

    A folder that `compact --probes` wrote is timed layer by layer; its table is for `compact --latency`.
    """
    with stage_bar() as report:
        found = api.profile(**options, report=report)
    if as_json:
        print_json(found.to_json())
        return
    out = options["out"]
    if isinstance(found, api.LatencyTable):
        _print_table(found)
        if out is not None:
            click.echo(f"{out / 'latency.json'}")
        return
    _print(found)
    if out is not None:
        click.echo(f"{out / 'profile.json'}, {out / 'profile.png'}")


def _print_table(found: api.LatencyTable) -> None:
    rows = [
        [name, ", ".join(f"{ms:.2f} ms at {width}" for width, ms in times)]
        for name, times in found.layers.items()
    ]
    window = "x".join(map(str, found.window))
    print_table(f"{found.engine}, {window}: layers by channels", ["layer", "median"], rows)
    click.echo(f"whole network {found.network_ms:.2f} ms, load {found.load}")


def _print(found: api.ProfileRecord) -> None:
    conditions = found.conditions
    rows = [
        [name, *(f"{ms:.2f}" for ms in (s.p50, s.p90, s.p95, s.p99, s.max, s.jitter))]
        for name, s in {
            **found.stages,
            "label map ready": found.ready,
            "all, one after another": found.total,
        }.items()
    ]
    ratio = found.pixel_ratio
    waste = "" if ratio is None else f", {ratio:.2f} times the pixels needed"
    print_table(
        f"{conditions.engine} on {conditions.device.name}, {len(found.samples.total)} frames of "
        f"{conditions.frame_sizes}, window {conditions.batch}{waste}",
        ["ms", "p50", "p90", "p95", "p99", "max", "jitter"],
        rows,
    )
    settled = "stable" if conditions.warm_up.stable else "NOT stable"
    load = conditions.load
    click.echo(
        f"warm-up {conditions.warm_up.frames} frames, {settled}; threads {conditions.threads}; "
        f"load {load.before} to {load.after}; {found.frames_per_second:.2f} frames/s"
    )
    if found.miss_rate is not None:
        click.echo(f"deadline {found.deadline_ms:g} ms: {found.miss_rate:.1%} missed")
    memory = found.memory
    taken = {"resident": memory.resident, "peak": memory.peak, "gpu": memory.gpu}
    told = [f"{what} {size / 1e6:.0f} MB" for what, size in taken.items() if size is not None]
    joules = found.joules_per_frame
    told.append(
        "no power sensor" if joules is None else f"{joules:.2f} J a frame ({found.power.sensor})"
    )
    click.echo(", ".join(told))
    if found.cold_start_ms:
        _print_cold("", found.cold_start_ms.cached)
        _print_cold(", compile cache empty", found.cold_start_ms.compiled or ())
    _print_layers(found)


def _print_cold(how: str, starts: Sequence[float]) -> None:
    if starts:
        from statistics import median  # slow to import, and --help never needs it

        click.echo(
            f"first label map of a new process{how}: {median(starts):.0f} ms, "
            f"median of {len(starts)} (first {starts[0]:.0f})"
        )


def _print_layers(found: api.ProfileRecord) -> None:
    if not found.layers:
        click.echo("the engine does not tell its layers")
        return
    blocks = found.block_ms
    total = sum(blocks.values())
    rows = [[name, f"{ms:.2f}", f"{ms / total:.1%}"] for name, ms in blocks.items()]
    print_table("by block, one inference", ["block", "ms", "share"], rows)
    slowest = [[layer.name, f"{layer.ms:.2f}"] for layer in found.layers[:10]]
    print_table("slowest layers", ["layer", "ms"], slowest)
