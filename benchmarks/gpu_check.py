"""All that needs a GPU, run on the GPU that is here: tests, engines, their flight check, their times.

    make gpu-check [TILES=../shared/data/dubai]

Runs the tests marked `gpu`; exports the example and quantizes it to FP16, and with tiles to
calibrate on to INT8; builds each for TensorRT and TensorRT-RTX, where installed; verifies, evaluates
on the shipped tiles and profiles every engine. Writes results/GPU/gpu_check.json. A test that was skipped is listed as not run, with its
reason, and anything that failed makes the exit code 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from record import ROOT, record

from segclip_deploy.errors import SegclipError
from segclip_deploy.runtime.targets.device import find_gpu, find_jetson

EXAMPLE = ROOT / "examples" / "dubai"
SUFFIXES = {"tensorrt": ".engine", "tensorrt_rtx": ".rtx"}


def run_tests(folder: Path) -> list[dict[str, Any]]:
    """The tests marked `gpu`, each with its outcome."""
    report = folder / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-m", "gpu", f"--junitxml={report}"]
    subprocess.run(command, cwd=ROOT, check=False)
    results = []
    for case in ET.parse(report).getroot().iter("testcase"):
        told = {child.tag: child.get("message") for child in case}
        outcome = next((tag for tag in ("failure", "error", "skipped") if tag in told), "passed")
        name = f"{case.get('classname')}.{case.get('name')}"
        results.append({"test": name, "outcome": outcome, "why": told.get(outcome)})
    return results


def call(*words: object) -> dict[str, Any]:
    """A command of ours with --json; what it printed, or how it failed."""
    program = Path(sys.executable).with_name("segclip-deploy")
    command = [str(program), *map(str, words), "--json"]
    print("segclip-deploy", *words[:3], flush=True)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1:], "exit_code": done.returncode}
    return json.loads(done.stdout)


def measure_engines(folder: Path, tiles: Path | None) -> list[dict[str, Any]]:
    """The example in every precision and library: built, verified, evaluated, profiled."""
    fp32, table = folder / "fp32", folder / "table.json"
    scheme = ("--scheme", "tensorrt", "--precision")
    steps = [call("export", EXAMPLE / "model.safetensors", "-o", fp32)]
    steps.append(call("quantize", fp32, "-o", folder / "fp16", *scheme, "fp16"))
    precisions = ["fp32", "fp16"]
    if tiles is not None:
        steps.append(call("calibrate", fp32, "--tiles", tiles, "-o", table))
        int8 = ("int8", "--table", table)
        steps.append(call("quantize", fp32, "-o", folder / "int8", *scheme, *int8))
        precisions.append("int8")
    rows = [{"step": "prepare", **step} for step in steps if "failed" in step]
    for library, suffix in SUFFIXES.items():
        if importlib.util.find_spec(library) is None:
            rows.append({"library": library, "failed": ["not installed"]})
            continue
        for precision in precisions:
            engine = folder / f"{precision}{suffix}"
            row: dict[str, Any] = {"library": library, "precision": precision}
            row["build"] = call("build-engine", folder / precision, "-o", engine)
            if "failed" not in row["build"]:
                row["verify"] = call("verify", engine)
                row["evaluate"] = call("evaluate", engine, EXAMPLE)
                row["profile"] = call("profile", engine)
            rows.append(row)
    return rows


def failures(tests: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[str]:
    """Names of what went wrong; what is not installed is no failure."""
    bad = [one["test"] for one in tests if one["outcome"] in ("failure", "error")]
    for row in rows:
        if row.get("failed") == ["not installed"]:
            continue
        for step, result in ({"itself": row} | row).items():
            if isinstance(result, dict) and "failed" in result:
                bad.append(
                    " ".join(str(row.get(key, "")) for key in ("library", "precision")) + f" {step}"
                )
    return bad


def main() -> int:
    """Run it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--tiles", type=Path, help="to calibrate INT8 on; without them it is left out"
    )
    arguments = parser.parse_args()
    try:
        gpu = find_gpu(why="make gpu-check")
    except SegclipError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    jetson = find_jetson()
    with tempfile.TemporaryDirectory() as name:
        tests = run_tests(Path(name))
        rows = measure_engines(Path(name), arguments.tiles)
    label = jetson.board if jetson and jetson.board else gpu.gpu
    device = re.sub(r"[^\w.-]+", "-", label).lower()
    path = record("gpu_check", rows, device=device, tests=tests)
    passed = sum(one["outcome"] == "passed" for one in tests)
    skipped = [one for one in tests if one["outcome"] == "skipped"]
    bad = failures(tests, rows)
    print(f"{path}: {passed} tests passed, {len(skipped)} NOT run, {len(bad)} failures")
    if arguments.tiles is None:
        print("  not run: INT8, which needs tiles to calibrate on")
    for one in skipped:
        print(f"  not run: {one['test']}: {one['why']}")
    for one in bad:
        print(f"  failed: {one}")
    return 1 if bad or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
