"""``compact``: a smaller checkpoint, as fast as was asked for."""

from __future__ import annotations

from typing import Any

import click

from segclip_deploy import api
from segclip_deploy.cli.options import (
    PATH,
    dataset_options,
    duration,
    json_option,
    parts,
    picture_options,
    torch_device_option,
    training_run_options,
)
from segclip_deploy.cli.options import size as parse_size
from segclip_deploy.cli.output import print_json, print_table
from segclip_deploy.cli.progress import stage_bar

__all__ = ["compact"]


@click.command()
@click.argument("checkpoint", type=PATH)
@click.option(
    "-o", "--out", type=PATH, help="Checkpoint to write (.safetensors); of --family, a folder."
)
@click.option("--dataset", type=PATH, help="With splits train and plan; val is not read.")
@click.option(
    "--tiles",
    type=PATH,
    multiple=True,
    help="Unlabelled images or folders, besides --dataset or alone; may be repeated.",
)
@dataset_options
@picture_options
@click.option(
    "--max-miou-drop",
    type=click.FloatRange(0, min_open=True),
    help="As fast as this loss allows, in points of mIoU on split plan.",
)
@click.option(
    "--speed-up",
    type=click.FloatRange(1, min_open=True),
    help="Or: times as many frames a second.",
)
@click.option(
    "--max-latency-ms",
    type=click.FloatRange(0, min_open=True),
    help="Or: milliseconds of one inference.",
)
@click.option(
    "--family",
    type=parts,
    metavar="PARTS",
    help="Or: several networks, by their time in parts of CHECKPOINT's, e.g. 0.75,0.5,0.35; -o is a folder.",
)
@click.option(
    "--size", type=parse_size, help="Input that is timed, height first.  [default: 512x512]"
)
@click.option(
    "--target",
    metavar="TARGET",
    help="Times networks here; of --probes: what they are for, here or not.  [default: openvino, or onnxruntime]",
)
@click.option(
    "--latency", type=PATH, help="latency.json that profile made of --probes, here or on a board."
)
@click.option("--probes", type=PATH, help="Write a folder for profile, and do nothing else.")
@click.option(
    "--rounds",
    type=click.IntRange(1),
    help="Of pruning and distillation, where one time is asked for.  [default: 2]",
)
@click.option("--time-budget", type=duration, help="Distil so long in each round, e.g. 10m.")
@click.option("--steps", type=click.IntRange(1), help="Or: so many steps (reproducible).")
@click.option(
    "--crop",
    type=click.IntRange(32),
    default=256,
    show_default=True,
    help="Side of training crops, pixels.",
)
@click.option(
    "--batch",
    type=click.IntRange(2),
    default=8,
    show_default=True,
    help="Crops that are in the network at once.",
)
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, min_open=True),
    default=0.0015,
    show_default=True,
    help="Peak.",
)
@torch_device_option("auto", "auto: the GPU where PyTorch finds one. Part of what repeats a run.")
@click.option("--bf16", is_flag=True, help="bfloat16 autocast: faster where the device has it.")
@training_run_options
@json_option
def compact(as_json: bool, **options: Any) -> None:
    """Prune CHECKPOINT's network and let it learn from itself, until it is as fast as was asked for.

    The result is an ordinary checkpoint (docs/how-to/compact.md). Killed? The same command goes on.
    """
    with stage_bar() as report:
        made = api.compact(**options, report=report)
    if as_json:
        print_json(made.to_json())
    elif isinstance(made, api.ProbeSet):
        files = len({probe.file for probe in made.probes})
        click.echo(f"{options['probes']}: {files} probes of {len(made.probes)} layers and widths")
    else:
        _print(made)


def _print(made: api.Compacted) -> None:
    print_table(
        f"inner channels are multiples of {made.networks[0].compaction.multiple}",
        ["round", "ms", "its parent", "speed-up", _measure(made.networks[0])],
        [
            [
                str(number),
                f"{one.timing.ms:.1f}",
                f"{one.timing.parent_ms:.1f}",
                f"{one.timing.parent_ms / one.timing.ms:.2f}",
                "" if one.miou is None else f"{one.miou:.4f}",
            ]
            for number, one in enumerate(made.rounds, 1)
        ],
    )
    for network in made.networks:
        click.echo(f"{network.path}: {_told(network)}")


def _told(network: api.CompactNetwork) -> str:
    done = network.compaction
    how = "measured in turns" if done.measured else "by the table, NOT measured"
    parent = "" if done.parent_miou is None else f", its parent {done.parent_miou:.4f}"
    window = "x".join(map(str, done.window))
    load = "" if done.load is None else f", load {done.load:.1f}"
    return (
        f"round {done.rounds}, {done.parent_ms:.1f} → {done.ms:.1f} ms, {how} in {done.engine} at {window}{load}; "
        f"{_measure(network)} {network.miou:.4f}{parent}"
    )


def _measure(network: api.CompactNetwork) -> str:
    """What was scored on split ``plan``."""
    of_parent = network.compaction.labels == "parent"
    return "agreement with its parent" if of_parent else "plan mIoU"
