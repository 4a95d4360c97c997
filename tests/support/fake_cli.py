"""The command line around an engine that needs no file: ``python -m tests.support.fake_cli run ENGINE …``.

FAKE_LATENCY_MS in the environment says how slow it is.
"""

from __future__ import annotations

import os
from pathlib import Path

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.cli import main
from segclip_deploy.runtime import open_engine
from segclip_deploy.runtime.open_engine import Opened
from segclip_deploy.runtime.targets.fake import FakeBackend


def open_fake(path: str | Path, *, threads: int = 0) -> Opened:
    latency = float(os.environ.get("FAKE_LATENCY_MS", "0"))
    backend = FakeBackend(64, 64, margin=Path(path).name == "margin", latency_ms=latency)
    return Opened(backend, InputSpec(64, 64), load_vocabulary("dubai"), Path(path))


if __name__ == "__main__":
    open_engine.open_engine = open_fake
    main()
