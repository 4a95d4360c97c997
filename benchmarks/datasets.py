"""What opening a dataset costs, and finding one of its images and masks, by how many there are.

    python benchmarks/datasets.py [--counts 1000,10000,30000]

Folders of empty files with a split.json, in a temporary folder; CPU seconds of this process, medians of
five. Reading the pixels comes on top, and grows with the pixels alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from record import record

from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.evaluation.dataset import open_dataset

ROUNDS = 5


def make(root: Path, count: int) -> Path:
    names = [f"{index:06}" for index in range(count)]
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
        for name in names:
            (root / folder / f"{name}.png").touch()
    (root / "split.json").write_text(json.dumps({"train": names}))
    return root


def measure(root: Path) -> dict[str, float]:
    """Seconds to open, and milliseconds to find the files of one sample."""
    vocabulary = load_vocabulary("dubai")
    opening, finding = [], []
    for _ in range(ROUNDS):
        started = time.process_time()
        data = open_dataset(root, vocabulary)
        opened = time.process_time()
        for name in data.names("train"):
            data.image(name)
            data.mask(name)
        opening.append(opened - started)
        finding.append(1e3 * (time.process_time() - opened) / len(data.names("train")))
    return {"open_s": statistics.median(opening), "sample_ms": statistics.median(finding)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--counts", default="1000,10000,30000")
    counts = [int(count) for count in parser.parse_args().counts.split(",")]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            one = measure(make(Path(folder) / str(count), count))
            rows.append({"images": count, **one})
            print(f"{count} images: open {one['open_s']:.3f} s, a sample {one['sample_ms']:.4f} ms")
    record("datasets", rows, rounds=ROUNDS)


if __name__ == "__main__":
    main()
