"""Train and score the example model and its ablations: what does the text contribute?

    python benchmarks/dubai.py ../shared/data/dubai [--seeds 0 1] [--ablation-seeds 0] [--steps 1200]

Prints the table of examples/dubai/README.md . Runs that
are finished (their checkpoints are in out/benchmarks/dubai) are not repeated, a run that was
killed goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from record import ROOT, record

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.checkpoint_record import TrainSettings
from segclip_deploy.artifacts.model_spec import ModelSpec
from segclip_deploy.artifacts.records import replace
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.evaluation.accuracy import Accuracy, score
from segclip_deploy.evaluation.dataset import Dataset, open_dataset
from segclip_deploy.export.torch_backend import open_checkpoint
from segclip_deploy.model.text import TextBank, load_text_bank, unit_rows
from segclip_deploy.training.train import train

RUNS = ROOT / "out" / "benchmarks" / "dubai"
SPLITS = ("val", "val_cross_tile")


def variants(spec: ModelSpec, bank: TextBank) -> dict[str, tuple[ModelSpec, TextBank]]:
    """The example model, and what is taken away from it."""
    rng = np.random.default_rng(1234)
    noise = TextBank(
        unit_rows(rng.standard_normal(bank.classes.shape)),
        unit_rows(rng.standard_normal(bank.texts.shape)),
        "random unit vectors",
    )
    return {
        "SegCLIP": (spec, bank),
        "CFF and refiner off": (replace(spec, cff_strides=(), refine=False), bank),
        "random vectors as text": (spec, noise),
    }


def trained(
    name: str, seed: int, steps: int, data: Dataset, spec: ModelSpec, bank: TextBank
) -> Path:
    """The checkpoint of a run, trained if it is not there yet."""
    path = RUNS / f"{name.replace(' ', '_')}_{seed}_{steps}.safetensors"
    if not path.exists() or path.with_name(path.name + ".resume").exists():
        print(f"training {name}, seed {seed}", flush=True)
        train(data, bank, spec, TrainSettings(steps=steps, seed=seed), path)
    return path


def scores(path: Path, data: Dataset) -> dict[str, Accuracy]:
    """Accuracy of a checkpoint in PyTorch, 512² windows, on each split."""
    with open_checkpoint(path, InputSpec(height=512, width=512)) as segmenter:
        return {split: score(segmenter, data.samples(split)) for split in SPLITS}


def main() -> None:
    """Run it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--ablation-seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=1200)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # what the shipped checkpoint was trained with
    vocabulary = load_vocabulary("dubai")
    data = open_dataset(arguments.data, vocabulary)
    bank = load_text_bank(str(ROOT / "examples/dubai/text_bank.safetensors"), vocabulary)
    spec = ModelSpec(classes=5, text_width=bank.classes.shape[1])

    rows = []
    print(
        "model, seed,", ", ".join(f"mIoU {s}" for s in SPLITS), "- IoU on val:", *vocabulary.names
    )
    for name, (variant, text) in variants(spec, bank).items():
        for seed in arguments.seeds if name == "SegCLIP" else arguments.ablation_seeds:
            path = trained(name, seed, arguments.steps, data, variant, text)
            result = scores(path, data)
            confusions = {s: a.confusion for s, a in result.items()}
            mious = ", ".join(f"{confusions[s].miou:.4f}" for s in SPLITS)
            print(f"{name}, {seed}, {mious} -", np.round(confusions["val"].iou, 3), flush=True)
            rows.append({"model": name, "seed": seed} | {s: a.to_json() for s, a in result.items()})
    record(
        "dubai",
        rows,
        steps=arguments.steps,
        window=512,
        overlap=128,
        torch=torch.__version__,
        threads=1,
    )


if __name__ == "__main__":
    main()
