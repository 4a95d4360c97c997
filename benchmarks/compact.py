"""What `compact` gives: INT8 engines of smaller networks beside that of the network they come from.

    python benchmarks/compact.py ../shared/data/dubai [--points 1.75/0 1.75/1 2.4/0] [--minutes 22] [--scratch]

A point is a speed-up to ask for, and a seed. Each is compacted from the shipped example with the dataset's
splits `train` and `plan`, in one round of so many minutes, and becomes an INT8 engine of `build-engine` for
OpenVINO, calibrated on the same tiles as its parent's. With --scratch the network of the first point, with
random weights, is trained on labels alone for as long as that point was distilled.

Then all engines in one process, in turns: milliseconds of one window, and their ratios to the parent's in
the same round. Splits `val` and `val_cross_tile` are read once for each row; drops are paired with the
parent's INT8 engine, image by image. Files are kept in out/benchmarks/compact, and what is there is not made again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import ROOT, delta_miou, markdown, record

from segclip_deploy import api
from segclip_deploy.artifacts.checkpoint_record import TrainSettings
from segclip_deploy.artifacts.files import read_json, write_json
from segclip_deploy.evaluation.accuracy import Accuracy, miou_drop, score
from segclip_deploy.evaluation.dataset import Dataset, open_dataset
from segclip_deploy.model.checkpoint import load_checkpoint
from segclip_deploy.model.prompts import FixedText
from segclip_deploy.model.segclip import SegCLIP
from segclip_deploy.runtime.inference.backend import Backend
from segclip_deploy.runtime.open_engine import open_segmenter
from segclip_deploy.runtime.profiling.conditions import load_average
from segclip_deploy.training.loop import Trainer

PARENT = ROOT / "examples" / "dubai" / "model.safetensors"
OUT = ROOT / "out" / "benchmarks" / "compact"
SPLITS = ("val", "val_cross_tile")
ROUNDS, TIMED, WARM_UP = 1, 40, 3


@dataclass(frozen=True)
class Point:
    """A network of the table.

    Attributes:
        name: of its files and its row.
        speed_up: that is asked for; None: the parent, or trained from random weights.
        seed: of the distillation, or of the training.
    """

    name: str
    speed_up: float | None = None
    seed: int = 0

    @property
    def folder(self) -> Path:
        """Where its files are kept."""
        return OUT / self.name.replace(" ", "-")

    @property
    def checkpoint(self) -> Path:
        """The network."""
        return PARENT if self == WHOLE else self.folder / "model.safetensors"

    @property
    def engine(self) -> Path:
        """Its INT8 engine."""
        return self.folder / "int8.ov.onnx"


WHOLE = Point("parent")


def parse_point(text: str) -> Point:
    """A point of the command line: ``1.75/0``."""
    speed_up, seed = text.split("/")
    return Point(f"compact {speed_up} seed {seed}", float(speed_up), int(seed))


def make(point: Point, data: Path, side: int, minutes: float) -> None:
    """Compact the parent; a run that was killed goes on."""
    if point.checkpoint.exists():
        return
    point.folder.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    made = api.compact(
        PARENT,
        out=point.checkpoint,
        dataset=data,
        speed_up=point.speed_up,
        size=(side, side),
        rounds=ROUNDS,
        time_budget=60 * minutes,
        workers=1,  # draws crops beside the steps, which leave a core idle now and then
        seed=point.seed,
    )
    (network,) = made.networks
    note(point, begun, minutes, {**network.compaction.to_json(), "plan_miou": network.miou})


def note(point: Point, begun: float, minutes: float, result: dict[str, Any]) -> None:
    """Keep how a point was made."""
    how = {"seconds": round(time.monotonic() - begun), "minutes": minutes}
    threads = torch.get_num_threads()
    write_json(point.folder / "made.json", {**how, "threads": threads, **result})


def train_from_scratch(like: Point, out: Point, data: Dataset, minutes: float) -> None:
    """Train a compact network's shape, from random weights, on labels alone."""
    if (
        out.checkpoint.exists()
        and not out.checkpoint.with_name("model.safetensors.resume").exists()
    ):
        return
    out.folder.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    shape = load_checkpoint(like.checkpoint)
    torch.manual_seed(out.seed)
    settings = TrainSettings(time_budget_s=60 * minutes, seed=out.seed)
    text, network = FixedText(shape.bank), SegCLIP(shape.spec)
    Trainer(network, text, shape.bank, data, settings, out.checkpoint).run(lambda _: None)
    training = load_checkpoint(out.checkpoint).training
    assert training is not None  # it was trained just now
    note(out, begun, minutes, {"plan_miou": training.plan.miou})


def build(point: Point, tiles: Path, side: int) -> None:
    """The INT8 engine of a point."""
    if not point.engine.exists():
        bundle = point.folder / "fp32"
        if not bundle.exists():
            api.export(point.checkpoint, out=bundle, size=(side, side), for_="cpu")
        api.build_engine(bundle, out=point.engine, precision="int8", calib=tiles)


def time_in_turns(backends: Sequence[Backend], side: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Milliseconds of one window, (rounds, engines): each round runs all of them, in another order."""
    rng = np.random.default_rng(0)
    tile = rng.integers(0, 256, (1, side, side, 3)).astype(np.uint8)
    ms = np.zeros((WARM_UP + TIMED, len(backends)))
    for turn in ms:
        for index in rng.permutation(len(backends)):
            begun = time.perf_counter()
            backends[index].infer({"image": tile})
            turn[index] = 1000 * (time.perf_counter() - begun)
    return ms[WARM_UP:]


def measure(points: Sequence[Point], data: Dataset, side: int) -> list[dict[str, Any]]:
    """A row of each point; the first is the parent."""
    segmenters = [open_segmenter(point.engine) for point in points]
    ms = time_in_turns([one.backend for one in segmenters], side)
    scores: list[dict[str, Accuracy]] = []
    rows: list[dict[str, Any]] = []
    for index, (point, segmenter) in enumerate(zip(points, segmenters, strict=True)):
        scores.append({split: score(segmenter, data.samples(split)) for split in SPLITS})
        ratios = ms[:, 0] / ms[:, index]
        made = point.folder / "made.json"
        row: dict[str, Any] = {
            "name": point.name,
            "ms": float(np.median(ms[:, index])),
            "speed_up": float(np.median(ratios)),
            "speed_up_quartiles": [float(one) for one in np.percentile(ratios, [25, 75])],
            "made": read_json(made) if made.exists() else None,
        }
        for split in SPLITS:
            row[split] = scores[index][split].confusion.miou
            row[f"{split}_drop"] = miou_drop(scores[0][split], scores[index][split]).to_json()
        rows.append(row)
        segmenter.close()
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    header = ["network", "ms", "speed-up", "val", "Δ", "val_cross_tile", "Δ"]
    cells = []
    for row in rows:
        low, high = row["speed_up_quartiles"]
        speed = f"{row['speed_up']:.2f}× [{low:.2f}, {high:.2f}]"
        accuracy = [
            cell
            for split in SPLITS
            for cell in (f"{100 * row[split]:.2f}", delta_miou(row[f"{split}_drop"]))
        ]
        cells.append([row["name"], f"{row['ms']:.1f}", speed, *accuracy])
    return markdown(header, cells)


def main() -> None:
    """Make what is missing, and measure all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--points",
        nargs="+",
        type=parse_point,
        default=list(map(parse_point, ("1.75/0", "1.75/1", "2.4/0"))),
    )
    parser.add_argument("--minutes", type=float, default=22, help="Of one round of distillation.")
    parser.add_argument("--size", type=int, default=1024, help="Of the square window, pixels.")
    parser.add_argument("--scratch", action="store_true")
    parser.add_argument("--make-only", action="store_true", help="Compact, and measure nothing.")
    arguments = parser.parse_args()
    side = arguments.size
    OUT.mkdir(parents=True, exist_ok=True)
    data = open_dataset(arguments.data, load_checkpoint(PARENT).vocabulary)
    for point in arguments.points:
        make(point, arguments.data, side, arguments.minutes)
    points = [WHOLE, *arguments.points]
    if arguments.scratch:
        first = arguments.points[0]
        scratch = Point(f"from scratch as {first.name}", seed=0)
        train_from_scratch(first, scratch, data, ROUNDS * arguments.minutes)
        points.append(scratch)
    if arguments.make_only:
        return
    tiles = OUT / "tiles"
    if not tiles.exists():
        tiles.mkdir()
        for name in data.names("train"):
            image = data.root / "images" / f"{name}.jpg"
            (tiles / image.name).symlink_to(image.resolve())
    for point in points:
        point.folder.mkdir(parents=True, exist_ok=True)
        build(point, tiles, side)
    load = load_average()
    rows = measure(points, data, side)
    record("compact", rows, size=side, rounds=ROUNDS, load_at_start=load)
    print(table(rows))


if __name__ == "__main__":
    main()
