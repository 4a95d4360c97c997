"""The package on aarch64, in emulation: installed from its wheel, and held against x86-64.

    make test-aarch64 [AARCH64_ROOT=FOLDER]

An arm64 Debian is made in FOLDER (once; later runs take it as it is), and the wheel of this clone is
installed there with its dependencies from PyPI. Here the example is exported at 128², in FP32 and INT8,
and FP32 built for OpenVINO. There and here `verify`, `run` and `evaluate` get the same crops of the
example's images. Labels are compared pixel by pixel. Then `benchmark` measures a folder that was prepared
here, in FP32 and INT8, on either side, and `report` joins both. The result goes to
results/PROCESSOR/aarch64.json, and anything that failed makes the exit code 1. Needs root, Linux, and
qemu-user-static, debootstrap and binfmt-support of Debian.

It proves that the dependencies exist, load and give these labels. It proves nothing about speed, about a
GPU, or about one processor's own faults: instructions are emulated.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from emulated import CPU, Emulated, check_host, make_root, need
from PIL import Image
from record import ROOT, markdown, record

from segclip_deploy.errors import SegclipError
from segclip_deploy.runtime.targets.device import cache_folder
from segclip_deploy.runtime.verify import MIN_AGREEMENT

EXAMPLE = ROOT / "examples" / "dubai"
CROP = 256  # pixels; nine windows of 128² each, which takes the emulator a minute
SAMPLES = 10  # of latency; an emulator's says nothing, so the fewest

SUBJECTS = {
    "fp32": MIN_AGREEMENT["fp32"],
    # Either side may leave the reference run by as much as verification allows.
    "int8": 1 - 2 * (1 - MIN_AGREEMENT["int8"]),
    "fp32.ov.onnx": MIN_AGREEMENT["fp32"],
}
"""Bundles for ONNX Runtime, and an engine of OpenVINO → share of labels that must be equal."""


KEPT = ("engine", "checks", "miou", "pixel_accuracy", "iou", "pixels")
"""Of what ``verify`` and ``evaluate`` tell, what goes into the result."""


@dataclass(frozen=True)
class Here:
    """This machine.

    Attributes:
        work: the folder that is /mnt in its commands, as it is in the emulated system.
    """

    work: Path
    name = "x86-64"

    def segclip(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Run ``segclip-deploy`` of this environment, to its end."""
        program = Path(sys.executable).with_name("segclip-deploy")
        paths = [re.sub(r"^/mnt(?=/)", str(self.work), str(word)) for word in words]
        return subprocess.run([program, *paths], capture_output=True, text=True, check=False)


@dataclass(frozen=True)
class There(Emulated):
    """The emulated system, with this package in /venv."""

    name = "aarch64"

    def segclip(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Run ``segclip-deploy`` there, to its end."""
        return self.call("/venv/bin/segclip-deploy", *words)

    def install(self) -> None:
        """Install this clone's wheel, and what it depends on."""
        build = ["wheel", "-q", "--no-deps", "-w", str(self.work), str(ROOT)]
        need(subprocess.run([sys.executable, "-m", "pip", *build], capture_output=True, text=True))
        (wheel,) = self.work.glob("*.whl")
        need(self.call("python3", "-m", "venv", "--clear", "/venv"))
        need(self.call("/venv/bin/pip", "install", "-q", f"/mnt/{wheel.name}[openvino,report]"))


def prepare(here: Here) -> None:
    """Make the subjects, and crop the example's images and masks."""
    for kind in ("images", "masks"):
        folder = here.work / "data" / kind
        folder.mkdir(parents=True)
        for path in (EXAMPLE / kind).iterdir():
            with Image.open(path) as picture:
                left, top = ((side - CROP) // 2 for side in picture.size)
                crop = picture.crop((left, top, left + CROP, top + CROP))
                crop.save(folder / f"{path.stem}.png")
    bundle, table = "/mnt/fp32", "/mnt/table.json"
    need(here.segclip("export", EXAMPLE / "model.safetensors", "-o", bundle, "--size", "128x128"))
    need(here.segclip("calibrate", bundle, "--tiles", EXAMPLE / "images", "-o", table))
    int8 = ("--scheme", "cpu", "--precision", "int8", "--table", table)
    need(here.segclip("quantize", bundle, *int8, "-o", "/mnt/int8"))
    need(here.segclip("build-engine", bundle, "-o", "/mnt/fp32.ov.onnx"))
    grid = ("--target", "onnxruntime", "--precision", "fp32", "--precision", "int8")
    judged = ("--eval", "/mnt/data", "--calib", EXAMPLE / "images")
    need(here.segclip("benchmark", bundle, *judged, *grid, "--prepare", "/mnt/board"))


def measure(machine: Here | There, subject: str) -> dict[str, Any]:
    """Verify a subject on a machine, label the crops with it and score them; what failed says so."""
    engine, out = f"/mnt/{subject}", f"/mnt/{machine.name}-{subject}"
    found: dict[str, Any] = {"seconds": {}, "failed": {}}
    for step, *words in (
        ("verify", engine, "--json"),
        ("run", engine, "/mnt/data/images", "-o", out, "--no-overlay"),
        ("evaluate", engine, "/mnt/data", "--json"),
    ):
        started = time.monotonic()
        done = machine.segclip(step, *words)
        found["seconds"][step] = round(time.monotonic() - started, 1)
        print(f"{machine.name} {subject} {step}: {found['seconds'][step]} s", flush=True)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or [""])[-1]
            found["failed"][step] = f"exit code {done.returncode}: {said}"
        elif "--json" in words:
            told = json.loads(done.stdout)
            found[step] = {name: told[name] for name in KEPT if name in told}
    return found


def compare(work: Path, subject: str) -> float:
    """Share of pixels with equal labels, over all crops."""
    equal = []
    for image in (work / "data/images").iterdir():
        places = [work / f"{machine.name}-{subject}" / image.name for machine in (Here, There)]
        here, there = (np.asarray(Image.open(place)) for place in places)
        equal.append(here == there)
    return float(np.mean(equal))


def examine(here: Here, there: There, subject: str) -> dict[str, Any]:
    """One row of the result; its list ``failed`` is empty where all is well."""
    found = {machine.name: measure(machine, subject) for machine in (here, there)}
    row: dict[str, Any] = {"subject": subject, **found}
    failed = [
        f"{name} {step}: {said}"
        for name, one in found.items()
        for step, said in one["failed"].items()
    ]
    if not any("run" in one["failed"] for one in found.values()):
        row["equal_labels"], least = compare(here.work, subject), SUBJECTS[subject]
        if row["equal_labels"] < least:
            failed.append(f"{row['equal_labels']:.4%} of the labels equal, {least:.2%} needed")
    return {**row, "failed": failed}


def sweep(here: Here, there: There) -> dict[str, Any]:
    """The prepared folder's row of the result: mIoU by precision on either side, and what failed."""
    row: dict[str, Any] = {"subject": "prepared folder", "failed": []}
    for machine in (here, there):
        # Each machine has its own copy, as a workstation and a board have.
        folder, report = f"/mnt/board-{machine.name}", f"/mnt/report-{machine.name}"
        shutil.copytree(here.work / "board", here.work / Path(folder).name)
        started = time.monotonic()
        where = ("--target", "onnxruntime", "--samples", SAMPLES)
        done = machine.segclip("benchmark", folder, "-o", report, *where)
        seconds = round(time.monotonic() - started, 1)
        print(f"{machine.name} benchmark of the prepared folder: {seconds} s", flush=True)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or [""])[-1]
            row["failed"].append(f"{machine.name} benchmark: exit code {done.returncode}: {said}")
            continue
        results = json.loads((here.work / Path(report).name / "results.json").read_text())
        measured = {one["precision"]: one["miou"] for one in results["rows"]}
        row[machine.name] = {"seconds": seconds, "miou": measured}
        if set(measured) != {"fp32", "int8"}:
            row["failed"].append(f"{machine.name} benchmark: rows of {sorted(measured)} only")
    if not row["failed"]:
        reports = [f"/mnt/report-{machine.name}" for machine in (here, there)]
        need(there.segclip("report", *reports, "-o", "/mnt/joined.html"))
        row["joined_bytes"] = (here.work / "joined.html").stat().st_size
    return row


def show(rows: list[dict[str, Any]], swept: dict[str, Any]) -> None:
    """Print the tables that docs/explanation/verified-on.md has, and what failed."""
    cells = [
        [
            row["subject"],
            *(f"{row['aarch64']['seconds'][step]:.0f} s" for step in ("verify", "run", "evaluate")),
            *(f"{100 * row[name]['evaluate']['miou']:.2f}" for name in ("x86-64", "aarch64")),
            f"{row['equal_labels']:.3%}",
        ]
        for row in rows
        if not row["failed"]
    ]
    header = ("subject", "verify", "run", "evaluate", "mIoU x86-64", "mIoU aarch64", "labels equal")
    print(markdown(header, cells))
    if not swept["failed"]:
        cells = [
            [
                precision,
                *(f"{100 * swept[name]['miou'][precision]:.2f}" for name in ("x86-64", "aarch64")),
            ]
            for precision in swept["aarch64"]["miou"]
        ]
        print(markdown(("prepared folder", "mIoU x86-64", "mIoU aarch64"), cells))
    for row in (*rows, swept):
        for said in row["failed"]:
            print(f"  failed: {row['subject']}: {said}")


def check_all(root: Path) -> int:
    """Make, install, measure, compare; returns the exit code."""
    check_host()
    started = time.monotonic()
    make_root(root)
    with tempfile.TemporaryDirectory() as name:
        here, there = Here(Path(name)), There(root, Path(name))
        prepare(here)
        there.install()
        system = json.loads(need(there.segclip("doctor", "--json")))["system"]
        rows = [examine(here, there, subject) for subject in SUBJECTS]
        swept = sweep(here, there)
        packages = need(there.call("/venv/bin/pip", "list", "--format=freeze")).split()
    version = subprocess.run(["qemu-aarch64-static", "--version"], capture_output=True, text=True)
    path = record(
        "aarch64",
        [*rows, swept],
        date=time.strftime("%Y-%m-%d"),
        qemu=need(version).splitlines()[0],
        emulated={
            "cpu": CPU,
            "flags": system["flags"],
            "python": system["python"],
            "libc": system["platform"].rpartition("-")[2],
            "packages": packages,
        },
        seconds=round(time.monotonic() - started),
    )
    show(rows, swept)
    bad = [row for row in (*rows, swept) if row["failed"]]
    print(f"{path}: {1 + len(rows) - len(bad)} of {1 + len(rows)} well")
    return 1 if bad else 0


def main() -> int:
    """Run it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = cache_folder() / "aarch64"
    parser.add_argument("--root", type=Path, default=default, help=f"default: {default}")
    try:
        return check_all(parser.parse_args().root.resolve())
    except SegclipError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
