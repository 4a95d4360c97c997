"""A command killed at each of its steps, and begun again each time.

    python -m tests.support.killed SIGNAL STRIDE COMMAND ARGUMENTS…

A step is a file or directory that a finished one is renamed to: what stands there before and after is all
that another process can ever see. Each attempt sends itself the signal at a later rename, before or
after it in turns; STRIDE 1 does so at every one of them. The attempt that gets through ends the series. Each is a fork of this process, which has only imported. Prints a line of JSON for every attempt.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

MODULES = {
    "export": ["torch", "segclip_deploy.export.export"],
    "calibrate": ["onnx", "segclip_deploy.quantization.from_tiles"],
    "build-engine": ["onnxruntime", "segclip_deploy.runtime.build_engine"],
    "run": ["onnxruntime", "segclip_deploy.runtime.streaming.run"],
    "benchmark": ["onnx", "segclip_deploy.tradeoff.benchmark"],
}
MOST = 80


def attempt(number: int, step: int, arguments: list[str]) -> tuple[int, str]:
    """(exit code, or minus the signal; stderr) of a fork that is killed at a step."""
    with tempfile.TemporaryFile() as told:
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(told.fileno(), 2)
            killed_at(step, number)
            from segclip_deploy.cli import main

            try:
                main(arguments)
            except SystemExit as ended:  # without the libraries' own, which know nothing of forks
                os._exit(int(ended.code or 0))
        _, status = os.waitpid(child, 0)
        told.seek(0)
        return os.waitstatus_to_exitcode(status), told.read().decode()


def killed_at(step: int, number: int) -> None:
    """Let this process send itself a signal around its rename of that number."""
    rename, seen = Path.replace, [0]

    def replace(self: Path, target: Path) -> Path:
        seen[0] += 1
        due = seen[0] == (step + 1) // 2
        if due and step % 2:
            os.kill(os.getpid(), number)
        made = rename(self, target)
        if due and step % 2 == 0:
            os.kill(os.getpid(), number)
        return made

    Path.replace = replace  # type: ignore[method-assign, assignment]


def main() -> None:
    number, stride, arguments = signal.Signals[sys.argv[1]], int(sys.argv[2]), sys.argv[3:]
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # ignored, where a script runs this behind itself
    for module in ("rich.console", "rich.progress", "rich.table", *MODULES[arguments[0]]):
        importlib.import_module(module)
    for step in range(1, MOST, stride):
        code, told = attempt(number, step, arguments)
        print(json.dumps({"code": code, "stderr": told}), flush=True)
        if code not in (-number, 130):
            return


if __name__ == "__main__":
    main()
