"""``evaluate``: how good an engine's labels are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segclip_deploy.cli.options import (
    PATH,
    json_option,
    mask_suffix_option,
    overlap_option,
    threads_option,
)
from segclip_deploy.cli.output import print_json, print_table
from segclip_deploy.cli.progress import console, progress_bar
from segclip_deploy.cli.rasters import picture_options, reading_of

if TYPE_CHECKING:
    from segclip_deploy.runtime.inference.segmenter import Segmenter

__all__ = ["evaluate"]


@click.command()
@click.argument("engine", type=PATH)
@click.argument("dataset", type=PATH)
@click.option("--split", help="By default val, or all images where there is no split.json.")
@mask_suffix_option
@picture_options
@overlap_option
@threads_option
@json_option
def evaluate(
    engine: Path,
    dataset: Path,
    split: str | None,
    mask_suffix: str,
    overlap: int | None,
    threads: int,
    as_json: bool,
    **pictures: Any,
) -> None:
    """Score ENGINE (an engine, a bundle, or a checkpoint in PyTorch) on DATASET."""
    from segclip_deploy.evaluation.accuracy import score
    from segclip_deploy.evaluation.dataset import open_dataset

    with _open(engine, overlap, threads) as segmenter:
        data = open_dataset(
            dataset, segmenter.vocabulary, mask_suffix=mask_suffix, reading=reading_of(pictures)
        )
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
        from segclip_deploy.artifacts.bundle import InputSpec
        from segclip_deploy.export.torch_backend import open_checkpoint

        if threads:
            torch.set_num_threads(threads)
        return open_checkpoint(engine, InputSpec(height=512, width=512), overlap=overlap)
    from segclip_deploy.runtime.open_engine import open_segmenter

    return open_segmenter(engine, overlap=overlap, threads=threads)


def _score(value: float | None) -> str:
    return "absent" if value is None else f"{value:.4f}"
