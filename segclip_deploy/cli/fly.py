"""``run`` and ``evaluate``: what an engine makes of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segclip_deploy.cli.common import (
    PATH,
    console,
    json_option,
    print_json,
    print_table,
    progress_bar,
)
from segclip_deploy.cli.rasters import raster_options, run_rasters, split_rasters

if TYPE_CHECKING:
    from segclip_deploy.runtime.segmenter import Segmenter

__all__ = ["evaluate", "run"]

_overlap = click.option("--overlap", type=int, help="Pixels windows share; by default a quarter.")
_threads = click.option(
    "--threads", type=click.IntRange(0), default=0, help="0: the engine's choice."
)


@click.command()
@click.argument("engine", type=PATH)
@click.argument("sources", type=PATH, nargs=-1, required=True)
@click.option("-o", "--out", type=PATH, required=True, help="Folder to write.")
@_overlap
@_threads
@raster_options
@json_option
def run(
    engine: Path,
    sources: tuple[Path, ...],
    out: Path,
    overlap: int | None,
    threads: int,
    as_json: bool,
    **for_rasters: Any,
) -> None:
    """Segment SOURCES (images or folders) with ENGINE, an engine or a bundle.

    Writes NAME.png (labels), NAME.overlay.png, NAME.margin.png where the engine has a margin,
    and areas.jsonl; of a georeferenced TIFF NAME.tif, a Cloud-Optimized GeoTIFF. Bad images are listed, the others done, and the exit code is 1.
    """
    from segclip_deploy.runtime.engine import open_segmenter
    from segclip_deploy.runtime.run import find_images, segment_images
    from segclip_deploy.runtime.sinks import FolderSink

    paths = find_images(sources, out)
    frames, rasters = split_rasters(paths, for_rasters)
    failures = []
    with (
        open_segmenter(engine, overlap=overlap, threads=threads) as segmenter,
        FolderSink(out, segmenter.vocabulary) as sink,
        progress_bar("images") as bar,
    ):
        name = segmenter.backend.name
        bar.console.print(f"{engine} runs in {name}")
        task = bar.add_task("segmenting", total=len(frames), visible=bool(frames))
        for outcome in segment_images(segmenter, frames, sink):
            if outcome.error is not None:
                failures.append(outcome)
                bar.console.print(f"error: {outcome.error}", markup=False, soft_wrap=True)
            bar.advance(task)
        bar.stop()
        lines, bad = run_rasters(segmenter, engine, rasters, sink, for_rasters)
        failures += bad
    done = len(paths) - len(failures)
    if as_json:
        failed = [{"image": str(o.path), "error": str(o.error)} for o in failures]
        print_json(
            {"engine": name, "out": str(out), "done": done, "failed": failed, "rasters": lines}
        )
    else:
        click.echo(
            f"{out}: {done} of {len(paths)} images" + (f", {len(failures)} bad" if failures else "")
        )
    if failures:
        click.get_current_context().exit(1)


@click.command()
@click.argument("engine", type=PATH)
@click.argument("dataset", type=PATH)
@click.option("--split", help="By default val, or all images where there is no split.json.")
@_overlap
@_threads
@json_option
def evaluate(
    engine: Path, dataset: Path, split: str | None, overlap: int | None, threads: int, as_json: bool
) -> None:
    """Score ENGINE (an engine, a bundle, or a checkpoint in PyTorch) on DATASET."""
    from segclip_deploy.accuracy import score
    from segclip_deploy.dataset import open_dataset

    with _open(engine, overlap, threads) as segmenter:
        data = open_dataset(dataset, segmenter.vocabulary)
        split = split or ("val" if "val" in data.splits else "all")
        names = data.names(split)
        console().print(f"{engine} runs in {segmenter.backend.name}")
        with progress_bar("images") as bar:
            accuracy = score(
                segmenter,
                bar.track(data.samples(split), total=len(names), description="evaluating"),
            )
        backend, vocabulary = segmenter.backend.name, segmenter.vocabulary
    result = {"engine": backend, "dataset": str(dataset), "split": split, **accuracy.to_json()}
    if as_json:
        print_json(result)
        return
    iou, boundary = result["iou"], result["boundary_iou"]
    print_table(
        f"{vocabulary.title}, split {split}, {len(names)} images, {backend}",
        ["class", "IoU", "boundary IoU"],
        [[name, _score(iou[name]), _score(boundary[name])] for name in iou],
    )
    click.echo(f"mIoU {_score(result['miou'])}, pixel accuracy {_score(result['pixel_accuracy'])}")


def _open(engine: Path, overlap: int | None, threads: int) -> Segmenter:
    if engine.suffix == ".safetensors":
        from segclip_deploy._optional import require

        torch = require("torch", why="running a checkpoint")
        from segclip_deploy.artifacts import InputSpec
        from segclip_deploy.export.torch_backend import open_checkpoint

        if threads:
            torch.set_num_threads(threads)
        return open_checkpoint(engine, InputSpec(height=512, width=512), overlap=overlap)
    from segclip_deploy.runtime.engine import open_segmenter

    return open_segmenter(engine, overlap=overlap, threads=threads)


def _score(value: float | None) -> str:
    return "absent" if value is None else f"{value:.4f}"
