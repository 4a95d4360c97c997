"""``profile``: every millisecond."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from segclip_deploy.cli.options import PATH, duration, json_option, overlap_option, threads_option
from segclip_deploy.cli.output import print_json, print_table, stage_bar

if TYPE_CHECKING:
    from segclip_deploy.runtime.profiling.profile import Profile

__all__ = ["profile"]

_RANKS = ("p50", "p90", "p95", "p99", "max", "jitter")


@click.command()
@click.argument("engine", type=PATH)
@click.option(
    "--tiles",
    "images",
    type=PATH,
    multiple=True,
    help="Images or folders; may be repeated.  [default: the engine's golden tiles]",
)
@click.option("-o", "--out", type=PATH, help="Folder for profile.json and profile.png.")
@click.option(
    "--samples", type=click.IntRange(10), default=200, show_default=True, help="At least."
)
@click.option("--soak", metavar="10m", help="Go on for so long, to see it get hot.")
@click.option("--deadline-ms", type=click.FloatRange(0, min_open=True), help="Count the misses.")
@click.option("--cold", is_flag=True, help="Also time the first label map of new processes.")
@overlap_option
@threads_option
@json_option
def profile(
    engine: Path,
    images: tuple[Path, ...],
    out: Path | None,
    samples: int,
    soak: str | None,
    deadline_ms: float | None,
    cold: bool,
    overlap: int | None,
    threads: int,
    as_json: bool,
) -> None:
    """Time ENGINE, an engine or a bundle, stage by stage and layer by layer, on this machine."""
    from segclip_deploy.artifacts.files import write_json
    from segclip_deploy.runtime.profiling.picture import draw_profile
    from segclip_deploy.runtime.profiling.profile import profile_engine

    soak_s = duration(soak) if soak else 0.0
    with stage_bar() as report:
        found = profile_engine(
            engine,
            images,
            samples=samples,
            soak_s=soak_s,
            overlap=overlap,
            threads=threads,
            deadline_ms=deadline_ms,
            cold=cold,
            report=report,
        )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "profile.json", found.to_json())
        draw_profile(found, out / "profile.png")
    if as_json:
        print_json(found.to_json())
        return
    _print(found)
    if out is not None:
        click.echo(f"{out / 'profile.json'}, {out / 'profile.png'}")


def _print(found: Profile) -> None:
    record = found.record
    conditions: Mapping[str, Any] = record["conditions"]
    warm = conditions["warm_up"]
    rows = [
        [name, *(f"{values[rank]:.2f}" for rank in _RANKS)]
        for name, values in {
            **record["stages"],
            "label map ready": record["ready"],
            "all, one after another": record["total"],
        }.items()
    ]
    print_table(
        f"{conditions['engine']} on {found.device}, {len(found.samples.total)} frames of "
        f"{', '.join(conditions['frames'])}, window {conditions['batch']}",
        ["ms", *_RANKS],
        rows,
    )
    settled = "stable" if warm["stable"] else "NOT stable"
    load = conditions["load"]
    click.echo(
        f"warm-up {warm['frames']} frames, {settled}; threads {conditions['threads']}; load "
        f"{load['before']} to {load['after']}; {record['frames_per_second']:.2f} frames/s"
    )
    if record["miss_rate"] is not None:
        click.echo(f"deadline {record['deadline_ms']:g} ms: {record['miss_rate']:.1%} missed")
    memory = record["memory"]
    told = [f"{k} {v / 1e6:.0f} MB" for k, v in memory.items() if v is not None]
    joules = record["joules_per_frame"]
    told.append(
        "no power sensor" if joules is None else f"{joules:.2f} J a frame ({found.power.sensor})"
    )
    click.echo(", ".join(told))
    if record["cold_start_ms"]:
        for name, starts in record["cold_start_ms"].items():
            how = ", compile cache empty" if name == "compiled" else ""
            click.echo(
                f"first label map of a new process{how}: {median(starts):.0f} ms, "
                f"median of {len(starts)} (first {starts[0]:.0f})"
            )
    _print_layers(found)


def _print_layers(found: Profile) -> None:
    if not found.layers:
        click.echo("the engine does not tell its layers")
        return
    from segclip_deploy.runtime.profiling.layers import sum_blocks

    blocks = sum_blocks(found.layers)
    total = sum(blocks.values())
    rows = [[name, f"{ms:.2f}", f"{ms / total:.1%}"] for name, ms in blocks.items()]
    print_table("by block, one inference", ["block", "ms", "share"], rows)
    slowest = [[layer.name, f"{layer.ms:.2f}"] for layer in found.layers[:10]]
    print_table("slowest layers", ["layer", "ms"], slowest)
