"""``build-engine``: from a bundle to what flies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import click

from segclip_deploy import api
from segclip_deploy.cli.inspect import label_maker, measured, precision_lines
from segclip_deploy.cli.options import PATH, dataset_options, json_option, reading_options
from segclip_deploy.cli.output import print_json
from segclip_deploy.cli.progress import phase_bars, stage_bar

__all__ = ["build_engine"]


def _capabilities(_: click.Context, __: click.Parameter, text: str | None) -> tuple[str, ...]:
    parts = tuple(text.split(",")) if text else ()
    if not all(re.fullmatch(r"\d{2,3}", part) for part in parts):
        raise click.BadParameter(f"{text!r} is no list like 86,89,120")
    return parts


@click.command("build-engine")
@click.argument("bundle", type=PATH)
@click.option(
    "-o",
    "--out",
    type=PATH,
    required=True,
    help="Its suffix selects the target: NAME.engine (TensorRT), NAME.rtx (TensorRT-RTX), NAME.ov.onnx "
    "(OpenVINO) or NAME.ort.onnx (ONNX Runtime).",
)
@click.option(
    "--device",
    metavar="NAME",
    help="Of the target's devices, which segclip-deploy doctor lists.  [default: its first]",
)
@click.option(
    "--compute-capability",
    callback=_capabilities,
    metavar="86,89,120",
    help="TensorRT-RTX: build for these GPUs, needing none.  [default: the GPU here]",
)
@click.option(
    "--workspace", type=click.IntRange(1), metavar="MIB", help="TensorRT: scratch memory, at most."
)
@click.option(
    "--optimization-level",
    type=click.IntRange(0, 5),
    help="TensorRT: 0 builds quickly, 5 searches longest.  [default: TensorRT's own]",
)
@click.option(
    "--timing-iterations",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="TensorRT: runs that a kernel's time is averaged over.",
)
@click.option(
    "--refittable", is_flag=True, help="TensorRT: let the vocabulary be replaced in the engine."
)
@click.option(
    "--hardware-compatibility",
    type=click.Choice(["ampere-plus", "same-compute-capability"]),
    help="TensorRT: run on other GPUs too, and slower.",
)
@click.option("--version-compatible", is_flag=True, help="TensorRT: run with later versions too.")
@click.option(
    "--dla", type=click.IntRange(0), metavar="CORE", help="TensorRT: on this DLA, rest on the GPU."
)
@click.option(
    "--timing-cache", type=PATH, help="TensorRT: file.  [default: in the user's cache directory]"
)
@click.option(
    "--tries",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="TensorRT: build this often, keep the fastest that passes verification.",
)
@click.option(
    "--labels",
    type=click.Choice(["graph", "kernel", "auto"]),
    help="TensorRT: made by the graph, or by a kernel behind it that leaves the logits on the GPU. auto: "
    "build both, keep the faster that passes.  [default: graph; auto with --precision auto]",
)
@click.option(
    "--require-precision",
    type=click.IntRange(1, 100),
    metavar="PERCENT",
    help="TensorRT, OpenVINO: exit 3 if less of the planned INT8 or FP16 MACs is known to run so.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp16", "int8", "auto"]),
    help="On a workstation: write it into BUNDLE first. auto: the planned mix, if it is faster.",
)
@click.option("--calib", type=PATH, metavar="DIR", help="With --precision int8, auto: real tiles.")
@click.option("--eval", type=PATH, help="With --precision auto: a dataset to evaluate plans on.")
@dataset_options
@reading_options
@click.option(
    "--max-miou-drop",
    type=float,
    default=0.3,
    show_default=True,
    help="With --precision auto: points.",
)
@json_option
def build_engine(as_json: bool, **options: Any) -> None:
    """Make an engine of BUNDLE for the machine that will run it, and prove it on golden tiles.

    Its precision is what is written in BUNDLE, unless --precision is given.
    """
    with (stage_bar if options["precision"] else phase_bars)() as report:
        engine = api.build_engine(**options, report=report)
    record = engine.record
    if as_json:
        print_json(engine.to_json())
        return
    built = f"{record.bytes / 1e6:.1f} MB, built in {record.built.build.seconds:.1f} s"
    click.echo(f"{engine.path}: {built}")
    for line in _told(engine):
        click.echo(f"  {line}")


def _told(engine: api.Engine) -> Iterator[str]:
    built = engine.record.built
    if built.build.search:
        yield measured(built.build.search)
    if "--labels" in engine.record.arguments:
        yield f"labels {label_maker(engine.record)}"
    if cache := built.build.timing_cache:
        known = "an unknown number of" if cache.known is None else cache.known
        yield f"timing cache {cache.path}: {known} measurements known, {cache.new} new"
    yield from precision_lines(engine.record)
    if built.verified:
        yield f"{built.verified.engine}: verification passed"
    else:
        yield f"NOT verified: {built.not_verified}. On the machine that flies: segclip-deploy verify"
