"""These tests run in a process of their own, which test_fake_driver.py starts."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from segclip_deploy.artifacts.bundle import Bundle, load_bundle
from segclip_deploy.runtime.build_engine import build_engine
from segclip_deploy.runtime.targets.base import BuildOptions

if TYPE_CHECKING:
    from tests.fakecuda.engine import State

BUNDLES = os.environ.get("FAKECUDA_BUNDLES")
"""Folder of the bundles to fly; there only where the fake driver is."""

collect_ignore_glob = [] if BUNDLES else ["test_*.py"]
SAID: list[str] = []
"""What was counted, for the log."""


@pytest.fixture(scope="session")
def whole() -> State:
    from tests.fakecuda.engine import install

    return install()


@pytest.fixture
def state(whole: State, bundle: Bundle, built: Path) -> Iterator[State]:
    """The driver, with no fault, and nothing that an earlier test has left."""
    whole.bundle = bundle
    whole.restart()
    yield whole
    assert whole.failed == []


@pytest.fixture(scope="session", params=["one", "open", "bare"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    """Of one batch, with logits; of an open batch, with margin and logits; and that without logits."""
    assert BUNDLES is not None
    return load_bundle(Path(BUNDLES) / request.param)


@pytest.fixture(scope="session")
def built(whole: State, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine of the bundle, built by NVIDIA's builder and verified here.

    The labels of that without logits are made by the kernel: its plan gives logits only.
    """
    whole.bundle = bundle
    whole.restart()
    options = BuildOptions(labels="kernel" if bundle.path.name == "bare" else "graph")
    place = tmp_path_factory.mktemp("built") / "e.engine"
    engine = build_engine(bundle, place, options=options)
    assert engine.record.built.labels == options.labels
    verified = engine.record.built.verified
    assert verified is not None
    assert verified.passed
    gc.freeze()  # collections, of which there are many, need not look at what is there by now
    return engine.path


@pytest.fixture
def engine(built: Path, state: State) -> Path:
    """It, once the driver is as new."""
    return built


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in SAID:
        terminalreporter.write_line(f"fake driver: {line}")
