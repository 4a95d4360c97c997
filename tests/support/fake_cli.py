"""The command line around an engine that needs no file: ``python -m tests.support.fake_cli run ENGINE …``.

In the environment FAKE_LATENCY_MS says how slow it is, FAKE_HANGS_AFTER after how many inferences it
answers no more, FAKE_OPENS_S how many seconds it takes to open, FAKE_PATIENCE_S for how many a camera may be away.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.cli import main
from segclip_deploy.runtime import open_engine
from segclip_deploy.runtime.io.sources.live import LiveSource
from segclip_deploy.runtime.open_engine import Opened
from segclip_deploy.runtime.service.restarts import EndlessCamera
from segclip_deploy.runtime.targets.fake import FakeBackend


class HangingBackend(FakeBackend):
    """One that may hang."""

    left = int(os.environ.get("FAKE_HANGS_AFTER", "-1"))

    def infer(self, arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        if self.left == 0:
            time.sleep(3600)
        self.left -= 1
        return super().infer(arrays)


def open_fake(path: str | Path, *, threads: int = 0) -> Opened:
    latency = float(os.environ.get("FAKE_LATENCY_MS", "0"))
    backend = HangingBackend(64, 64, margin=Path(path).name == "margin", latency_ms=latency)
    if seconds := float(os.environ.get("FAKE_OPENS_S", "0")):
        print("opening", file=sys.stderr, flush=True)
        time.sleep(seconds)
    return Opened(backend, InputSpec(64, 64), load_vocabulary("dubai"), Path(path))


if __name__ == "__main__":
    open_engine.open_engine = open_fake
    if "FAKE_PATIENCE_S" in os.environ:
        for camera in (LiveSource, EndlessCamera):
            defaults: dict[str, Any] = camera.__init__.__kwdefaults__
            defaults["patience_s"] = float(os.environ["FAKE_PATIENCE_S"])
    main()
