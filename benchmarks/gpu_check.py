"""All that needs a GPU, on the GPU that is here: the most telling first, each step on its own.

    make gpu-check                        on a machine with network
    make gpu-check KIT=FOLDER             without: what `make gpu-kit` has collected elsewhere
    make gpu-check DRIVER=fake        no GPU: the dry run of this script

Needs nothing but Python itself, so that it can tell what else is missing. Each step has a time limit
and runs in a process of its own: what hangs or crashes ends that step. Its result is in the record
before the next begins. The exit code is 1 if a step failed, or none passed. A step that cannot
run says why, and counts as «not run».
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import gpu_flights
import gpu_steps
from gpu_steps import EXAMPLE, ROOT, Check, NotRun


@dataclass(frozen=True)
class Step:
    """A check.

    Attributes:
        name: on the command line and in the record.
        seconds: that it may take.
        run: returns what it measured; raises ``NotRun``, or anything else if it fails.
    """

    name: str
    seconds: int
    run: Callable[[Check], Mapping[str, Any]]


# Without TensorRT these take some two minutes, most of it PyTorch's start.
STEPS = (
    Step("gpu", 60, gpu_steps.find),
    Step("ptx", 30, gpu_steps.load_ptx),
    Step("kernel", 60, gpu_steps.run_kernel),
    Step("frames", 90, gpu_flights.fly),
    Step("labels", 90, gpu_flights.make_labels),
    Step("illegal-address", 60, gpu_flights.meet_illegal_address),
    Step("out-of-memory", 60, gpu_flights.meet_out_of_memory),
    Step("leaks", 90, gpu_flights.open_and_close),
    Step("tf32", 120, gpu_steps.compare_tf32),
    Step("doctor", 60, gpu_steps.ask_doctor),
    Step("tests", 180, gpu_steps.run_tests),
    *(
        Step(f"{library}-{precision}", 900, partial(gpu_steps.measure_engine, library, precision))
        for library in ("tensorrt", "tensorrt_rtx")
        for precision in ("fp32", "fp16", "int8")
    ),
    *(
        Step(f"{library}-labels", 1200, partial(gpu_steps.compare_label_makers, library))
        for library in ("tensorrt", "tensorrt_rtx")
    ),
)

_RESULT = "gpu_check result: "


def run_here(step: Step, check: Check) -> None:
    """Run a step in this process; its result is the last line that is printed."""
    try:
        result = {"outcome": "passed", **step.run(check)}
    except NotRun as reason:
        result = {"outcome": "not run", "why": str(reason)}
    except Exception as error:
        traceback.print_exc()
        result = {"outcome": "failed", "why": f"{type(error).__name__}: {error}"}
    print(_RESULT + json.dumps(result), flush=True)


def run_apart(words: list[str], seconds: float, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run a step in a process of its own, and end that process when its time is up."""
    begin = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as printed:
        process = subprocess.Popen(
            [sys.executable, __file__, *words],
            stdout=printed,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with what it has started
            code = None
        printed.seek(0)
        before, said, after = printed.read().rpartition(_RESULT)
    result = json.loads(after.splitlines()[0]) if said else {}
    if code is None:
        result |= {"outcome": "failed", "why": f"it took more than {seconds:.0f} s"}
    elif code or not result:
        result |= {"outcome": "failed", "why": f"its process ended with exit code {code}"}
    if result["outcome"] == "failed":
        result["output"] = (before + after * (not said)).splitlines()[-30:]
    return {**result, "seconds": round(time.monotonic() - begin, 1)}


def environment_of(arguments: argparse.Namespace, site: Path) -> dict[str, str]:
    """What a step finds: this clone, the wheels of the kit, and the fake driver if asked for."""
    own = "cp{}{}".format(*sys.version_info)
    for wheel in sorted((arguments.kit / "wheels").glob("*.whl")):
        if not any(tag in wheel.name for tag in (f"-{own}-", "-abi3-", "-none-any")):
            sys.exit(
                f"error: {wheel} is not for this Python; make gpu-kit GPU_PYTHON={sys.executable}"
            )
        ZipFile(wheel).extractall(site)
    paths = [str(ROOT), str(site)]
    found = dict(os.environ)
    if arguments.driver:
        paths.insert(0, str(arguments.driver))  # its PyCUDA, not that of the kit
        found["LD_LIBRARY_PATH"] = str(fake_driver(arguments.driver, site))
        found["FAKECUDA_MEGABYTES"] = "256"  # of memory that are soon taken
    found["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [found.get("PYTHONPATH")])])
    return found


def fake_driver(folder: Path, site: Path) -> Path:
    """The folder of the fake driver, made for the PyCUDA of tests/fakecuda."""
    sys.path.insert(0, str(ROOT))
    from tests.fakecuda.build import build_driver

    (extension,) = folder.glob("pycuda/_driver*.so")
    return build_driver(site / "fake-driver", extension=extension).parent


def results(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The result of every step, one after another."""
    end = time.monotonic() + 60 * arguments.minutes
    given = ["--kit", arguments.kit, "--checkpoint", arguments.checkpoint]
    given += ["--driver", arguments.driver] if arguments.driver else []
    with tempfile.TemporaryDirectory() as folder:
        environment = environment_of(arguments, Path(folder))
        for step in STEPS:
            if arguments.only and step is not STEPS[0] and step.name not in arguments.only:
                continue
            left = end - time.monotonic()
            if left < 5:
                yield {"step": step.name, "outcome": "not run", "why": "no time is left"}
                continue
            print(f"{step.name} …", end=" ", flush=True)
            words = [*map(str, given), "--here", step.name]
            result = run_apart(words, min(step.seconds, left), environment)
            print(result["outcome"], f"({result['seconds']} s)", result.get("why", ""), flush=True)
            yield {"step": step.name, **result}
            if step is STEPS[0] and result["outcome"] != "passed":
                return  # there is no GPU


def write(path: Path, record: Mapping[str, Any]) -> None:
    """Replace the record as a whole: a process that is killed leaves the last one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def main() -> int:
    """Run the steps, or one of them here."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kit", type=Path, required=True, help="folder of gpu_kit.py")
    parser.add_argument("--checkpoint", type=Path, default=EXAMPLE / "model.safetensors")
    parser.add_argument("--out", type=Path, help="the record; else benchmarks/results/GPU")
    parser.add_argument("--minutes", type=float, default=120, help="for all steps")
    parser.add_argument("--only", nargs="+", choices=[step.name for step in STEPS])
    parser.add_argument(
        "--driver", type=Path, help="PyCUDA for the fake driver: tests.fakecuda.build"
    )
    parser.add_argument("--here", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for name in ("kit", "checkpoint", "driver"):
        if value := getattr(arguments, name):
            setattr(arguments, name, value.resolve())
    if arguments.here:
        step = next(step for step in STEPS if step.name == arguments.here)
        check = Check(arguments.kit, arguments.checkpoint, fake_driver=arguments.driver is not None)
        run_here(step, check)
        return 0

    rows: list[dict[str, Any]] = []
    conditions = None
    # What the fake driver says is no result of a device.
    path = arguments.out or ROOT / "out" / "gpu_check.json"
    for row in results(arguments):
        if "device" in row and not (arguments.out or arguments.driver):
            path = ROOT / "benchmarks" / "results" / row["device"] / "gpu_check.json"
        conditions = row.pop("conditions", conditions)
        rows.append(row)
        write(path, {"conditions": conditions, "rows": rows})
    outcomes = [row["outcome"] for row in rows]
    passed, failed = outcomes.count("passed"), outcomes.count("failed")
    print(f"{path}: {passed} passed, {failed} failed, {outcomes.count('not run')} NOT run")
    # That there is a GPU says nothing of what it does.
    return 1 if failed or "passed" not in outcomes[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
