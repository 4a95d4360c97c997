"""What `train` has in memory, by the size of its set.

    python benchmarks/training.py [--gigabytes 1,20] [--workers 0,2]

Sets of generated images of 2000 × 2000 with masks, 16 MB each when decoded; eight different ones, hard-linked under as
many names as it takes. `segclip-deploy train` runs on each with the default cache, in processes of
its own. Every fifth of a second the memory of all of them is added up (PSS of Linux: what they share counts once).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from record import record

from segclip_deploy.artifacts.vocabulary import load_vocabulary

SIDE, DIFFERENT, STEPS = 2000, 8, 40
DECODED = 4 * SIDE**2  # RGB and mask, bytes
BANK = Path(__file__).parents[1] / "examples" / "dubai" / "text_bank.safetensors"


def make(root: Path, gigabytes: float) -> Path:
    """A set of this decoded size; its split ``plan`` is two small images, as validating is not asked."""
    colours, rng = load_vocabulary("dubai").palette, np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)

    def write(name: str, side: int) -> None:
        classes = rng.integers(0, 5, (20, 20), np.uint8).repeat(side // 20, 0).repeat(side // 20, 1)
        noise = rng.integers(0, 8, (side, side, 3), np.uint8)
        pixels = colours[classes] // 2 + noise
        Image.fromarray(pixels).save(root / "images" / f"{name}.png", compress_level=1)
        Image.fromarray(classes).save(root / "masks" / f"{name}.png")

    names = [f"{index:05}" for index in range(int(gigabytes * 1e9 / DECODED))]
    for index, name in enumerate(names):
        if index < DIFFERENT:
            write(name, SIDE)
            continue
        for folder in ("images", "masks"):
            os.link(root / folder / f"{index % DIFFERENT:05}.png", root / folder / f"{name}.png")
    for name in ("a", "b"):
        write(name, 200)
    split = {"train": names, "plan": ["a", "b"]}
    (root / "split.json").write_text(json.dumps(split))
    return root


def memory(process: int) -> int:
    """Of a process and its children, bytes."""
    try:
        rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:  # it has just ended
        return 0
    own = next((line for line in rollup.splitlines() if line.startswith("Pss:")), "Pss: 0 kB")
    return int(own.split()[1]) * 1024 + sum(memory(int(child)) for child in children)


def most_memory(root: Path, out: Path, workers: int) -> tuple[int, float]:
    """The most that training had in memory, bytes, and its seconds."""
    start = "from segclip_deploy.cli import main; main()"
    command = [sys.executable, "-c", start, "train", str(root)]
    command += ["--vocabulary", "dubai", "--text", str(BANK), "-o", str(out), "--crop", "128"]
    command += ["--steps", str(STEPS), "--workers", str(workers), "--encoder"]
    command += ["timm:test_efficientnet", "--no-imagenet", "--width", "16", "--device", "cpu"]
    started, most = time.monotonic(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            most = max(most, memory(process.pid))
            time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"training ended with {process.returncode}")
    return most, time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gigabytes", default="1,20", help="decoded sizes of the sets")
    parser.add_argument("--workers", default="0,2")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in map(float, arguments.gigabytes.split(",")):
            root = make(Path(folder) / f"{size:g}", size)
            for workers in map(int, arguments.workers.split(",")):
                out = Path(folder) / f"{size:g}-{workers}.safetensors"
                most, seconds = most_memory(root, out, workers)
                rows.append({"gigabytes": size, "workers": workers, "most_bytes": most})
                print(f"{size:g} GB, {workers} workers: {most / 1e9:.2f} GB, {seconds:.0f} s")
    record("training", rows, steps=STEPS)


if __name__ == "__main__":
    main()
